"""The hash of what ticks or bars say, however they are stored, cut into chunks or mixed between symbols.

Every decision about a symbol follows from that symbol's own ticks in their order; so each symbol has a hash of its own
over its rows, and the whole is a hash over those, by name. Shapes: N rows.
"""

import hashlib
import struct
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_io.sinks import columns

_TEXT_BYTES = 16  # a text is a prefix of its own hash: as wide as any other
_LITTLE = {"int64": "<i8", "int8": "i1", "float64": "<f8", "bool": "?", "category": f"V{_TEXT_BYTES}"}


class Digest:
    """SHA-256 over the canonical columns of all rows seen so far."""

    def __init__(self) -> None:
        """Begin with no rows."""
        self.rows: Counter[str] = Counter()  # by symbol
        self._names: tuple[str, ...] = ()
        self._by_symbol: dict[str, Any] = {}

    def update(self, frame: pd.DataFrame) -> None:
        """Take the rows of ``frame``, of ticks or of bars.

        Raises:
            SchemaMismatchError: Its columns are not those of the rows before it. A retry will not help.
        """
        self._names = self._names or columns.content(frame)
        columns.same(frame, self._names)
        code_N = frame["symbol"].cat.codes.to_numpy()
        order_N = np.argsort(code_N, kind="stable")
        cell_N = _cells(frame, self._names)[order_N]
        found, starts = np.unique(code_N[order_N], return_index=True)
        for code, start, end in zip(found, starts, [*starts[1:], len(code_N)], strict=True):
            symbol = str(frame["symbol"].cat.categories[code])
            self.rows[symbol] += int(end - start)
            self._by_symbol.setdefault(symbol, hashlib.sha256()).update(cell_N[start:end].tobytes())

    def hexdigest(self) -> str:
        """Return the hash of all rows so far, 64 hexadecimal digits."""
        whole = hashlib.sha256()
        for name in self._names:
            whole.update(_sized(f"{name}:{columns.DTYPES[name]}"))
        for symbol in sorted(self._by_symbol):
            whole.update(_sized(symbol) + struct.pack("<q", self.rows[symbol]) + self._by_symbol[symbol].digest())
        return whole.hexdigest()


def _sized(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<q", len(data)) + data


def _cells(frame: pd.DataFrame, names: tuple[str, ...]) -> npt.NDArray[np.void]:
    """Return the N rows as packed little-endian cells; equal values have equal bytes."""
    shown = [name for name in names if name != "symbol"]
    cell_N = np.zeros(len(frame), dtype=[(name, _LITTLE[columns.DTYPES[name]]) for name in shown])
    for name in shown:
        column = frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            texts = ["", *map(str, column.cat.categories)]  # a missing text is an empty one
            hashed = np.array([hashlib.sha256(text.encode()).digest()[:_TEXT_BYTES] for text in texts], dtype="V16")
            cell_N[name] = hashed[column.cat.codes.to_numpy().astype(np.int64) + 1]
        elif column.dtype == np.float64:
            value_N = column.to_numpy()
            cell_N[name] = np.where(np.isnan(value_N), np.nan, value_N + 0.0)  # one NaN, and no negative zero
        else:
            cell_N[name] = column.to_numpy()
    return cell_N
