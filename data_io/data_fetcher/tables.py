"""CSV and Parquet tables of ticks, through a stated column mapping or with our own column names.

A mapping says which column holds a field of a tick: ``{"ts": "time:ms", "symbol": "pair", "price": "p", "size": "q"}``.
The unit of ``ts`` is ns, us, ms, s, or iso (text; without an offset it is UTC); Parquet timestamps carry their own.
Without a column for ``type``, bid and ask make a row a quote, else price and size make it a trade.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from data_io.data_fetcher import table_columns, table_files
from data_io.data_fetcher.port import END_OF_TIME_NS, Chunked, SourceReport
from data_io.data_fetcher.table_files import SUFFIXES
from ml_core import frames
from ml_core.errors import InputError, SchemaMismatchError, nearest
from ml_core.types import Bool, TickKind

FIELDS = ("ts", "symbol", "type", *frames.PRICE_COLUMNS, "side", "seq", *table_columns.OPTIONAL)


class Tables(Chunked):
    """Ticks of one or more CSV or Parquet files, one after the other, rows in file order."""

    kinds: ClassVar[frozenset[str]] = frozenset(frames.KINDS)

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        columns: Mapping[str, str] | None = None,
        symbol: str | None = None,
        ts_source: str | None = None,
    ) -> None:
        """Read the files ``paths`` in this order.

        Args:
            paths: Files that end in ``.csv``, ``.csv.gz`` or ``.parquet``.
            columns: Column of each field of a tick; by default the field's own name (``ts`` also as ``ts_ns``).
            symbol: The symbol of all rows, where no column holds it.
            ts_source: What clock the column of ``ts`` is; None: what the first file says of itself, else "exchange".

        Raises:
            InputError: No path, another kind of file, or a mapping that names an unknown field or unit.
        """
        if not paths:
            raise InputError("no table given")
        for path in paths:
            if not path.name.endswith(SUFFIXES):
                raise InputError(f"{path} is no table; its name must end in {', '.join(SUFFIXES)}")
        for field in columns or {}:
            if field not in FIELDS:
                raise InputError(f"column mapping: unknown field {field!r}{nearest(field, FIELDS)}")
        self._paths = list(paths)
        self._columns = dict(columns) if columns else None
        self._unit = self._split_unit()
        self._symbol = symbol
        self.ts_source = ts_source or table_files.clock(self._paths[0]) or "exchange"
        self.report = SourceReport()

    def _split_unit(self) -> str:
        if self._columns is None or ":" not in self._columns.get("ts", ""):
            return "ns"
        self._columns["ts"], _, unit = self._columns["ts"].rpartition(":")
        known = (*table_columns.UNITS_NS, table_columns.ISO)
        if unit not in known:
            raise InputError(f"column mapping: unknown unit {unit!r} of ts{nearest(unit, known)}")
        return unit

    def _chunks(self) -> Iterator[pd.DataFrame]:
        self.report = SourceReport()
        first = 0
        for path in self._paths:
            start = first
            for first, frame in self._read(path, self._symbol, start):  # noqa: B007  # behind the last chunk
                yield frame

    def _read(
        self,
        path: Path,
        symbol: str | None,
        first: int,
        start_ns: int = table_files.EVER_NS,
        end_ns: int = END_OF_TIME_NS,
    ) -> Iterator[tuple[int, pd.DataFrame]]:
        """Yield the ticks of a file, whose rows are numbered from ``first`` on, and the number behind each chunk.

        Row groups of Parquet without times in ``[start_ns, end_ns)`` are not read; other rows are all yielded.
        """
        chosen = partial(self._choose, path=path, symbol=symbol)
        for row, raw in table_files.read(path, chosen, self._unit, start_ns, end_ns):
            yield first + row + len(raw), self._ticks(raw, symbol, first + row, f"{path}, row", row)

    def _choose(self, names: list[str], path: Path, symbol: str | None) -> dict[str, str]:
        """Return the column of each field that the table ``path`` has.

        Raises:
            SchemaMismatchError: A mapped column is missing, or there is no time, symbol or price.
        """
        if self._columns is not None:
            chosen = dict(self._columns)
        else:
            chosen = {field: field for field in FIELDS if field in names}
            if "ts_ns" in names:
                chosen["ts"] = "ts_ns"
        if symbol is not None:
            chosen.pop("symbol", None)
        missing = [f"no column {name!r}{nearest(name, names)}" for name in chosen.values() if name not in names]
        needed = ("ts",) if symbol is not None else ("ts", "symbol")
        for field in (field for field in needed if field not in chosen):
            of_table = f"no column {field!r}{nearest(field, names)}"
            missing.append(of_table if self._columns is None else f"the mapping has no {field}")
        if missing:
            raise SchemaMismatchError(f"{path}: {'; '.join(missing)}")
        if not ({"price", "size"} <= chosen.keys() or {"bid", "ask"} <= chosen.keys()):
            raise SchemaMismatchError(
                f"{path} needs price and size (trades) or bid and ask (quotes); it has {', '.join(names)}"
            )
        return chosen

    def _ticks(self, raw: pd.DataFrame, symbol: str | None, done: int, place: str, row: int) -> pd.DataFrame:
        """Return the sound ticks of ``raw``, a frame with a column a field; the other rows are skipped and counted.

        Args:
            raw: The rows.
            symbol: Their symbol; None: the column says it.
            done: Number of the first of them within the source.
            place: The file, for people.
            row: Number of the first of them within the file, from 0.
        """
        n = len(raw)
        good_N = np.ones(n, dtype=bool)

        def require(sound_N: Bool, reason: str) -> None:
            for i in np.flatnonzero(good_N & ~sound_N).tolist():
                self.report.skip(reason, f"{place} {row + i + 1}")
            np.logical_and(good_N, sound_N, out=good_N)

        ts_N, known_N = table_columns.times(raw["ts"], self._unit)
        require(known_N & (ts_N >= 0), "ts is no time since 1970")
        values = {
            name: table_columns.floats(raw[name]) if name in raw else np.full(n, np.nan)
            for name in frames.PRICE_COLUMNS
        }
        kind_N, known_N = table_columns.kinds(raw, values)
        require(known_N, "neither a trade nor a quote")
        is_trade_N = kind_N == TickKind.TRADE
        for name, value_N in values.items():
            applies_N = is_trade_N == (name in ("price", "size"))
            if name in ("bid_size", "ask_size"):
                value_N = np.where(applies_N & np.isnan(value_N), 0.0, value_N)  # noqa: PLW2901  # a quote without sizes
                sound_N = value_N >= 0
            else:
                sound_N = value_N > 0
            require(~applies_N | (sound_N & np.isfinite(value_N)), f"{name} is not positive and finite")
            values[name] = np.where(applies_N, value_N, np.nan)
        side_N, known_N = table_columns.sides(raw, n)
        require(known_N, "side is none of buy, sell, 1, -1, 0")
        symbol_N = symbols_of(raw, symbol)
        require(np.asarray(symbol_N.codes >= 0), "no symbol")
        seq_N = table_columns.integers(raw["seq"])[0] if "seq" in raw else np.full(n, -1, dtype=np.int64)
        frame = frames.build(
            ts_ns=ts_N[good_N],
            symbol=symbol_N[good_N],
            kind=kind_N[good_N],
            **{name: value_N[good_N] for name, value_N in values.items()},
            side=np.where(is_trade_N, side_N, 0)[good_N],
            seq=seq_N[good_N],
            **{name: value_N[good_N] for name, value_N in table_columns.optional(raw).items()},
            offset=(done + np.arange(n, dtype=np.int64))[good_N],
        )
        self.report.count(frame)
        return frame


def symbols_of(raw: pd.DataFrame, symbol: str | None) -> "pd.Categorical[Any]":
    """Return ``symbol``, or the symbol of each row; an empty one is missing."""
    if symbol is not None:
        return frames.category(np.zeros(len(raw), dtype=np.int8), [symbol])
    text = raw["symbol"].astype("str")
    known_N = (raw["symbol"].notna() & (text != "")).to_numpy()
    # where() makes a Python object of each text
    return pd.Categorical(text if known_N.all() else text.where(known_N))
