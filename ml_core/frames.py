"""The ticks frame: ticks as a pandas DataFrame, one row a tick in arrival order, and its way to and from columns.

A frame has the columns of `TICK_COLUMNS`; a field that does not apply to a kind is NaN (prices and sizes), 0 (side)
or -1 (seq). It may also have those of `OPTIONAL_COLUMNS`, and others, which are left alone.

A bar frame has the columns of `BAR_COLUMNS`, one row a bar.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_core.errors import SchemaMismatchError, nearest
from ml_core.types import Int8, Int32, Int64, SymbolTable, TickBatch, TickKind

KINDS = ("trade", "quote")
"""Categories of the column `type`; the code of a kind is its `TickKind`."""

KIND_DTYPE = pd.CategoricalDtype(list(KINDS))
PRICE_COLUMNS = ("price", "size", "bid", "ask", "bid_size", "ask_size")

TICK_COLUMNS: dict[str, str] = {
    "ts_ns": "int64",  # event time, ns since the epoch, UTC
    "symbol": "category",
    "type": "category",  # of KINDS
    "price": "float64",  # trades: quote currency
    "size": "float64",  # trades: base units
    "bid": "float64",  # quotes: quote currency
    "ask": "float64",
    "bid_size": "float64",  # quotes: base units
    "ask_size": "float64",
    "side": "int8",  # trades: +1 the buyer took, -1 the seller took, 0 unknown
    "seq": "int64",  # number given by the venue, -1 where it gives none
}
OPTIONAL_COLUMNS: dict[str, str] = {
    "exchange_ts_ns": "int64",  # the venue's own time where `ts_ns` is another clock, -1 unknown
    "venue": "category",
    "conditions": "category",
    "suspicious": "bool",  # marked as doubtful by the source
    "partition": "int32",  # of ticks read from Kafka
    "offset": "int64",
    "index": "int32",
}
BAR_COLUMNS: dict[str, str] = {
    "ts_ns": "int64",  # the bar's end, before which nothing of it is known; ns since the epoch, UTC
    "symbol": "category",
    "start_ns": "int64",
    "open": "float64",  # quote currency
    "high": "float64",
    "low": "float64",
    "close": "float64",
    "volume": "float64",  # base units
}
_FILL: dict[str, float] = {"side": 0, "seq": -1, **dict.fromkeys(PRICE_COLUMNS, np.nan)}


def category(codes: npt.NDArray[np.integer[Any]], names: list[str]) -> "pd.Categorical[Any]":
    """Return the categorical column whose N values are ``names[codes_N]``; a code of -1 is missing."""
    return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(pd.Index(names, dtype="str")))


def build(*, ts_ns: Int64, symbol: "pd.Categorical[Any]", kind: Int8 | TickKind, **columns: Any) -> pd.DataFrame:
    """Return a ticks frame of N ticks; columns not given say "not applicable".

    Args:
        ts_ns: Event times, ns since the epoch, UTC.
        symbol: Symbols, from `category` or any pandas categorical.
        kind: `TickKind` of each tick, or one for all.
        columns: Any other column of `TICK_COLUMNS` or `OPTIONAL_COLUMNS`, N long or one value for all.

    >>> names = pd.Categorical(["A", "B"])
    >>> frame = build(ts_ns=np.array([1, 2]), symbol=names, kind=TickKind.TRADE, price=10.0, size=1.0)
    >>> frame["seq"].tolist(), bool(frame["bid"].isna().all())
    ([-1, -1], True)
    """
    n = len(ts_ns)
    data: dict[str, Any] = {}
    for name, dtype in TICK_COLUMNS.items():
        if name == "ts_ns":
            data[name] = np.asarray(ts_ns, dtype=np.int64)
        elif name == "symbol":
            data[name] = symbol
        elif name == "type":
            kind_N = np.broadcast_to(np.asarray(kind, dtype=np.int8), n)
            data[name] = pd.Categorical.from_codes(kind_N, dtype=KIND_DTYPE)
        else:
            data[name] = np.broadcast_to(np.asarray(columns.pop(name, _FILL.get(name))), n).astype(dtype)
    for name, value in columns.items():
        if name not in OPTIONAL_COLUMNS:
            raise SchemaMismatchError(f"no tick column {name!r}{nearest(name, [*TICK_COLUMNS, *OPTIONAL_COLUMNS])}")
        dtype = OPTIONAL_COLUMNS[name]
        is_plain = isinstance(value, np.ndarray) and dtype != "category"
        data[name] = value.astype(dtype) if is_plain else pd.Series(value, index=range(n), dtype=dtype)
    return pd.DataFrame(data, copy=False)


def empty() -> pd.DataFrame:
    """Return a ticks frame without ticks.

    >>> len(empty()), list(empty())[:3]
    (0, ['ts_ns', 'symbol', 'type'])
    """
    none = np.empty(0, dtype=np.int64)
    return build(ts_ns=none, symbol=category(none, []), kind=TickKind.TRADE)


def check(frame: pd.DataFrame) -> None:
    """Make sure that ``frame`` is a ticks frame.

    Raises:
        SchemaMismatchError: A column is missing, has another dtype, or names no symbol or kind. A retry will not help.
    """
    missing = [name for name in TICK_COLUMNS if name not in frame.columns]
    if missing:
        names = [str(name) for name in frame.columns]
        raise SchemaMismatchError("ticks frame: " + "; ".join(f"no column {m!r}{nearest(m, names)}" for m in missing))
    expected = TICK_COLUMNS | {name: dtype for name, dtype in OPTIONAL_COLUMNS.items() if name in frame.columns}
    found = {name: str(frame[name].dtype) for name in expected}
    wrong = [f"{name!r} is {found[name]}, not {dtype}" for name, dtype in expected.items() if found[name] != dtype]
    if wrong:
        raise SchemaMismatchError(f"ticks frame: column {'; column '.join(wrong)}")
    kinds = list(frame["type"].cat.categories)
    if kinds != list(KINDS):
        raise SchemaMismatchError(f"ticks frame: the categories of 'type' are {kinds}, not {list(KINDS)}")
    for name in ("symbol", "type"):
        holes = int((frame[name].cat.codes.to_numpy() < 0).sum())
        if holes:
            raise SchemaMismatchError(f"ticks frame: column {name!r} is empty in {holes} of {len(frame)} rows")


def build_bars(*, ts_ns: Int64, symbol: "pd.Categorical[Any]", offset: Int64, **columns: Any) -> pd.DataFrame:
    """Return a bar frame of N bars; ``columns`` are the others of `BAR_COLUMNS`, N long.

    >>> price = dict.fromkeys(("open", "high", "low", "close"), [10.0])
    >>> one = np.array([60])
    >>> bars = build_bars(ts_ns=one, symbol=pd.Categorical(["A"]), offset=one, start_ns=[0], volume=[3.0], **price)
    >>> as_ticks(bars)[["ts_ns", "price", "size"]].values.tolist()
    [[60.0, 10.0, 3.0]]
    """
    given = {"ts_ns": ts_ns, "symbol": symbol, **columns}
    plain = {
        name: symbol if dtype == "category" else np.asarray(given[name]).astype(dtype)
        for name, dtype in BAR_COLUMNS.items()
    }
    return pd.DataFrame({**plain, "offset": np.asarray(offset, dtype=np.int64)}, copy=False)


def check_bars(frame: pd.DataFrame) -> None:
    """Make sure that ``frame`` is a bar frame.

    Raises:
        SchemaMismatchError: A column is missing or has another dtype, a symbol is missing, or a bar ends before it
            starts. A retry will not help.
    """
    names = [str(name) for name in frame.columns]
    missing = [f"no column {name!r}{nearest(name, names)}" for name in BAR_COLUMNS if name not in names]
    if missing:
        raise SchemaMismatchError("bar frame: " + "; ".join(missing))
    wrong = [
        f"{name!r} is {frame[name].dtype}, not {dtype}"
        for name, dtype in BAR_COLUMNS.items()
        if str(frame[name].dtype) != dtype
    ]
    if wrong:
        raise SchemaMismatchError(f"bar frame: column {'; column '.join(wrong)}")
    holes = int(frame["symbol"].isna().sum())
    if holes:
        raise SchemaMismatchError(f"bar frame: column 'symbol' is empty in {holes} of {len(frame)} rows")
    backward = int((frame["ts_ns"] <= frame["start_ns"]).sum())
    if backward:
        raise SchemaMismatchError(f"bar frame: {backward} of {len(frame)} bars do not end after their start")


def as_ticks(bars: pd.DataFrame) -> pd.DataFrame:
    """Return a bar frame as a ticks frame: each bar is one trade at its end, of its close and its whole volume.

    What a bar holds is known at its end and not before, so nothing looks ahead. A bar without volume gives no tick.
    The column ``offset`` is kept.
    """
    check_bars(bars)
    traded = bars[(bars["volume"] > 0) & (bars["close"] > 0)]
    return build(
        ts_ns=traded["ts_ns"].to_numpy(),
        symbol=traded["symbol"].array,
        kind=TickKind.TRADE,
        price=traded["close"].to_numpy(),
        size=traded["volume"].to_numpy(),
        offset=traded["offset"].to_numpy(),
    )


def to_batch(frame: pd.DataFrame, symbols: SymbolTable | None = None) -> TickBatch:
    """Return the N ticks of ``frame`` as columns.

    Args:
        frame: A ticks frame. Its column ``offset`` names the ticks, else the row number does.
        symbols: Table to index symbols in; new ones join it in the order they are first seen. None: a new table.

    Raises:
        SchemaMismatchError: ``frame`` is no ticks frame, or has more symbols than the table may hold.
    """
    check(frame)
    table = SymbolTable() if symbols is None else symbols
    n = len(frame)
    return TickBatch(
        offset_N=_column(frame, "offset", np.int64) if "offset" in frame.columns else np.arange(n, dtype=np.int64),
        index_N=_column(frame, "index", np.int32) if "index" in frame.columns else np.zeros(n, dtype=np.int32),
        kind_N=frame["type"].cat.codes.to_numpy().astype(np.int8),
        symbol_N=_symbol_indices(frame["symbol"], table),
        ts_ns_N=_column(frame, "ts_ns", np.int64),
        **{f"{name}_N": _column(frame, name, np.float64) for name in PRICE_COLUMNS},
        side_N=_column(frame, "side", np.int8),
        seq_N=_column(frame, "seq", np.int64),
        symbols=table.names,
    )


def to_frame(batch: TickBatch) -> pd.DataFrame:
    """Return the N ticks of ``batch`` as a ticks frame with the columns ``offset`` and ``index``."""
    return build(
        ts_ns=batch.ts_ns_N,
        symbol=category(batch.symbol_N, list(batch.symbols)),
        kind=batch.kind_N,
        **{name: getattr(batch, f"{name}_N") for name in PRICE_COLUMNS},
        side=batch.side_N,
        seq=batch.seq_N,
        offset=batch.offset_N,
        index=batch.index_N,
    )


def _column(frame: pd.DataFrame, name: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(frame[name].to_numpy(dtype=dtype))


def _symbol_indices(column: "pd.Series[Any]", table: SymbolTable) -> Int32:
    """Return the table index of each of the N symbols; only symbols that occur join the table."""
    codes_N = column.cat.codes.to_numpy()
    names = [str(name) for name in column.cat.categories]
    index_of_code = np.full(len(names), -1, dtype=np.int32)
    for code in pd.unique(codes_N):
        index_of_code[code] = table.add(names[code])
        if index_of_code[code] < 0:
            raise SchemaMismatchError(f"more than {table.limit} symbols; {names[code]!r} has no place in the table")
    return index_of_code[codes_N]
