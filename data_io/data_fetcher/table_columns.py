"""Columns of a table as the columns of ticks: exact where the table is exact, and which values are sound.

Shapes: N rows.
"""

from typing import Any

import numpy as np
import pandas as pd

from ml_core import frames
from ml_core.types import Bool, Float64, Int8, Int64, TickKind

UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
ISO = "iso"
OPTIONAL = ("exchange_ts_ns", "venue", "conditions", "suspicious")
"""Columns of `frames.OPTIONAL_COLUMNS` that a table may hold; the others say where a tick stood in a topic."""

_TRUE = ("true", "1", "1.0")
_SIDES = {"buy": 1, "b": 1, "1": 1, "1.0": 1, "sell": -1, "s": -1, "-1": -1, "-1.0": -1}
_NO_SIDE = {"": 0, "0": 0, "0.0": 0, "unknown": 0, "nan": 0, "none": 0, "<na>": 0}
_LOW_NS, _HIGH_NS = -(2**63) + 1, 2**63 - 1


def times(column: "pd.Series[Any]", unit: str) -> tuple[Int64, Bool]:
    """Return ns since the epoch, UTC, of each of the N times, and which of them are times."""
    if unit == ISO or isinstance(column.dtype, pd.DatetimeTZDtype) or column.dtype.kind == "M":
        time = pd.to_datetime(column, utc=True, errors="coerce", format="ISO8601").dt.as_unit("ns")
        known_N = time.notna().to_numpy()
        return np.where(known_N, time.dt.tz_localize(None).to_numpy().view(np.int64), 0), known_N
    factor = UNITS_NS[unit]
    whole_N, is_whole_N = integers(column)
    is_whole_N &= np.abs(whole_N) <= _HIGH_NS // factor
    ts_N = np.where(is_whole_N, whole_N, 0) * factor
    if is_whole_N.all():
        return ts_N, is_whole_N
    # decimal seconds and the like: exact to about 0.2 us, as far as a float goes
    float_N = floats(column) * factor
    is_float_N = ~is_whole_N & np.isfinite(float_N) & (np.abs(float_N) < 2.0**63)
    ts_N[is_float_N] = float_N[is_float_N].round().astype(np.int64)
    return ts_N, is_whole_N | is_float_N


def integers(column: "pd.Series[Any]") -> tuple[Int64, Bool]:
    """Return the whole numbers of ``column`` to the last digit, -1 elsewhere, and where they are."""
    if column.dtype.kind in "iu":
        return column.to_numpy().astype(np.int64), np.ones(len(column), dtype=bool)
    text = column.astype("str")
    is_whole_N = text.str.fullmatch(r"[+-]?\d{1,18}|\d{19}").fillna(False).to_numpy(dtype=bool, copy=True)
    whole_N = np.full(len(column), -1, dtype=np.int64)
    values = [int(value) for value in text[is_whole_N]]
    fits = np.array([_LOW_NS <= value <= _HIGH_NS for value in values], dtype=bool)
    is_whole_N[np.flatnonzero(is_whole_N)[~fits]] = False
    whole_N[is_whole_N] = [value for value, ok in zip(values, fits, strict=True) if ok]
    return whole_N, is_whole_N


def floats(column: "pd.Series[Any]") -> Float64:
    """Return the numbers of ``column``, NaN where there is none."""
    value_N: Float64 = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return value_N


def kinds(raw: pd.DataFrame, values: dict[str, Float64]) -> tuple[Int8, Bool]:
    """Return the kind of each row, and which rows have one."""
    if "type" in raw:
        text = raw["type"].astype("str").str.lower()
        kind_N = frames.KIND_DTYPE.categories.get_indexer(pd.Index(text)).astype(np.int8)
        return kind_N, kind_N >= 0
    is_quote_N = ~np.isnan(values["bid"]) & ~np.isnan(values["ask"])
    is_trade_N = ~np.isnan(values["price"]) & ~np.isnan(values["size"])
    kind_N = np.where(is_quote_N, TickKind.QUOTE, TickKind.TRADE).astype(np.int8)
    return kind_N, is_quote_N | is_trade_N


def sides(raw: pd.DataFrame, n: int) -> tuple[Int8, Bool]:
    """Return the side of each row, and which rows have a sound one."""
    if "side" not in raw:
        return np.zeros(n, dtype=np.int8), np.ones(n, dtype=bool)
    column = raw["side"]
    text = column.astype("str").str.lower().where(column.notna(), "")
    side_N = text.map(_SIDES | _NO_SIDE).to_numpy(dtype=np.float64, na_value=np.nan)
    known_N = ~np.isnan(side_N)
    return np.where(known_N, side_N, 0).astype(np.int8), known_N


def optional(raw: pd.DataFrame) -> dict[str, Any]:
    """Return those of `OPTIONAL` that ``raw`` has, N long; a missing time is -1, a missing mark False."""
    found: dict[str, Any] = {}
    for name in OPTIONAL:
        if name not in raw:
            continue
        column = raw[name]
        if name == "exchange_ts_ns":
            found[name] = integers(column)[0]
        elif name == "suspicious":
            found[name] = column.astype("str").str.lower().isin(_TRUE).to_numpy(dtype=bool)
        else:
            found[name] = pd.Categorical(column.astype("str").where(column.notna(), ""))
    return found
