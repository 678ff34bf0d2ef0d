"""A user's own function over what is fetched: ``module:function``, DataFrame -> DataFrame.

It sees one chunk at a time, so that memory is bounded however long the source is. Where the chunks are cut must not
matter: a row of its result depends on one row alone. To prove it, the first chunk is given once more as every second
row and the rows between.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from data_io.data_fetcher.port import join
from ml_core import frames, parts
from ml_core.errors import InputError, SchemaMismatchError


class Transform(NamedTuple):
    """A function, the name it was found by, and a hash of the module it stands in."""

    part: str
    function: Callable[[pd.DataFrame], pd.DataFrame]
    code_hash: str

    def apply(self, chunks: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Yield what the function makes of each chunk that has rows.

        Raises:
            SchemaMismatchError: It returned no ticks or bars, or lost their places. A retry will not help.
            InputError: It failed, or what it returns depends on where chunks are cut. A retry will not help.
        """
        is_proven = False
        for chunk in chunks:
            if not len(chunk):
                continue
            result = self._result(chunk)
            if not is_proven and len(chunk) > 1:
                self._prove(chunk, result)
                is_proven = True
            yield result

    def _result(self, chunk: pd.DataFrame) -> pd.DataFrame:
        try:
            result = self.function(chunk.reset_index(drop=True))  # a copy, once it is written to
        except Exception as error:
            raise InputError(f"the transformation {self.part!r} failed: {type(error).__name__}: {error}") from error
        if not isinstance(result, pd.DataFrame):
            raise SchemaMismatchError(
                f"the transformation {self.part!r} returned {type(result).__name__}, no DataFrame"
            )
        try:
            (frames.check_bars if "close" in result.columns else frames.check)(result)
        except SchemaMismatchError as error:
            raise SchemaMismatchError(f"the transformation {self.part!r} returned what is no {error}") from error
        if "offset" not in result.columns or not (np.diff(result["offset"]) > 0).all():
            raise SchemaMismatchError(f"the transformation {self.part!r} lost the column offset, or its order")
        return result.reset_index(drop=True)

    def _prove(self, chunk: pd.DataFrame, result: pd.DataFrame) -> None:
        again = join(map(self._result, (chunk.iloc[::2], chunk.iloc[1::2]))).sort_values("offset", ignore_index=True)
        try:
            pd.testing.assert_frame_equal(again, result, check_exact=True, check_categorical=False)
        except AssertionError:
            raise InputError(
                f"the transformation {self.part!r} makes other rows of a part of its input; each row it returns may "
                "depend on one row alone"
            ) from None


def find(text: str, folder: Path | None) -> Transform:
    """Return the transformation that ``text``, such as ``my_ticks:in_euros``, names; looked for as other own parts.

    Raises:
        UnknownPartError: There is no such module or function, or the module fails when it is imported. A retry will
            not help.
    """
    function, file = parts.find_function(text, folder)
    return Transform(text, function, hashlib.sha256(file.read_bytes()).hexdigest())
