"""CSV and Parquet tables of bars, with our own names of columns, as a sink writes them."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from data_io.data_fetcher import table_columns, table_files
from data_io.data_fetcher.port import BAR, Barred, SourceReport
from data_io.data_fetcher.tables import symbols_of
from ml_core import frames
from ml_core.errors import InputError, SchemaMismatchError, nearest

_VALUES = ("open", "high", "low", "close", "volume")


class BarTables(Barred):
    """Bars of one or more files, one after the other, rows in file order."""

    kinds: ClassVar[frozenset[str]] = frozenset({BAR})

    def __init__(self, files: Sequence[tuple[Path, str | None]]) -> None:
        """Read ``files``, each with the symbol of all its rows; None: a column says it."""
        if not files:
            raise InputError("no table given")
        self._files = list(files)
        self.ts_source = table_files.clock(self._files[0][0]) or "exchange"
        self.report = SourceReport()

    def _bars(self) -> Iterator[pd.DataFrame]:
        self.report = SourceReport()
        done = 0
        for path, symbol in self._files:
            for row, raw in table_files.read(path, partial(_choose, path=path, symbol=symbol)):
                yield self._frame(raw, symbol, done, f"{path}, row", row)
                done += len(raw)

    def _frame(self, raw: pd.DataFrame, symbol: str | None, done: int, place: str, row: int) -> pd.DataFrame:
        """Return the sound bars of ``raw``; the other rows are skipped and counted."""
        (start_N, starts_N), (end_N, ends_N) = (table_columns.integers(raw[name]) for name in ("start_ns", "ts"))
        value = {name: table_columns.floats(raw[name]) for name in _VALUES}
        symbol_N = symbols_of(raw, symbol)
        good_N = starts_N & ends_N & (start_N >= 0) & (end_N > start_N) & np.asarray(symbol_N.codes >= 0)
        good_N &= np.isfinite(np.stack(list(value.values()))).all(axis=0)
        for i in np.flatnonzero(~good_N).tolist():
            self.report.skip("no whole bar", f"{place} {row + i + 1}")
        return frames.build_bars(
            ts_ns=end_N[good_N],
            symbol=symbol_N[good_N],
            offset=done + np.flatnonzero(good_N),
            start_ns=start_N[good_N],
            **{name: value_N[good_N] for name, value_N in value.items()},
        )


def _choose(names: list[str], path: Path, symbol: str | None) -> dict[str, str]:
    """Return the column of each field of a bar."""
    fields = {"ts": "ts_ns", **{name: name for name in ("start_ns", *_VALUES)}}
    if symbol is None:
        fields["symbol"] = "symbol"
    missing = [f"no column {name!r}{nearest(name, names)}" for name in fields.values() if name not in names]
    if missing:
        raise SchemaMismatchError(f"{path}: {'; '.join(missing)}")
    return fields


def holds_bars(path: Path) -> bool:
    """Return True where the file has the columns of bars and none of trades."""
    names = table_files.columns_of(path)
    return {"ts_ns", "start_ns", *_VALUES} <= set(names) and "price" not in names
