"""What is dropped, and why: ticks that no topic would take, and rows that cannot be samples.

Shapes: N ticks or rows.
"""

from collections.abc import Mapping

import numpy as np

from ml_core.types import MAX_TS_NS, Bool, Float64, Int32, Int64, RowFlag, TickBatch, TickKind, UInt8


def clean(ticks: TickBatch) -> tuple[TickBatch, dict[str, int]]:
    """Return the ticks that a topic of ticks would take too, so that files and topics give the same rows.

    Returns:
        The ticks in the same order, and how many were left out by reason (``bad_ts``, ``bad_price``, ``bad_size``,
        ``crossed_quote``). A size that is NaN is not known and passes.
    """
    is_trade_N = ticks.kind_N == TickKind.TRADE
    is_price_N = np.where(is_trade_N, _positive(ticks.price_N), _positive(ticks.bid_N) & _positive(ticks.ask_N))
    is_size_N = np.where(is_trade_N, _size(ticks.size_N), _size(ticks.bid_size_N) & _size(ticks.ask_size_N))
    drops = Drops(len(ticks))
    drops.add("bad_ts", (ticks.ts_ns_N <= 0) | (ticks.ts_ns_N > MAX_TS_NS))
    drops.add("bad_price", ~is_price_N)
    drops.add("bad_size", ~is_size_N)
    drops.add("crossed_quote", ~is_trade_N & (ticks.ask_N < ticks.bid_N))
    return select(ticks, drops.kept_N), drops.counts


def select(ticks: TickBatch, chosen_N: Bool | slice) -> TickBatch:
    """Return the chosen ticks, in order."""
    if isinstance(chosen_N, np.ndarray) and chosen_N.all():
        return ticks
    columns = {name: getattr(ticks, name)[chosen_N] for name in TickBatch._fields if name != "symbols"}
    return TickBatch(**columns, symbols=ticks.symbols)


class Drops:
    """A ledger: each row is dropped once, for the first reason that applies."""

    def __init__(self, rows: int) -> None:
        """Start with all rows kept."""
        self.kept_N: Bool = np.ones(rows, dtype=np.bool_)
        self.counts: dict[str, int] = {}

    def add(self, reason: str, dropped_N: Bool) -> None:
        """Drop rows; those dropped before keep their first reason."""
        new_N = self.kept_N & dropped_N
        if new_N.any():
            self.counts[reason] = self.counts.get(reason, 0) + int(new_N.sum())
            self.kept_N &= ~dropped_N


def drop_flagged(drops: Drops, flags_N: UInt8) -> None:
    """Drop rows that are not whole, under the names of their flags."""
    for flag in (
        RowFlag.NO_CALENDAR,
        RowFlag.CLOSED,
        RowFlag.NO_PRICE,
        RowFlag.LATE,
        RowFlag.AHEAD,
        RowFlag.WARM_UP,
        RowFlag.GAP,
        RowFlag.STALE,
    ):
        drops.add(str(flag.name).lower(), (flags_N & int(flag)) != 0)


def shadowed(symbol_N: Int32, ts_ns_N: Int64, flags_N: UInt8) -> Bool:
    """Return which rows share symbol and time with a later row.

    Where clocks tick in milliseconds the order inside one cannot be known, so a sample stands after its last event.
    """
    shadowed_N = np.zeros(len(ts_ns_N), dtype=np.bool_)
    in_time_I = np.flatnonzero((flags_N & int(RowFlag.LATE | RowFlag.AHEAD)) == 0)
    order_I = in_time_I[np.lexsort((in_time_I, ts_ns_N[in_time_I], symbol_N[in_time_I]))]
    same_I = (np.diff(ts_ns_N[order_I]) == 0) & (np.diff(symbol_N[order_I]) == 0)
    shadowed_N[order_I[:-1][same_I]] = True
    return shadowed_N


def told(counts: Mapping[str, int]) -> str:
    """Return counts as text, largest first.

    >>> told({"late": 2, "gap": 30})
    '30 gap, 2 late'
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in ordered) or "none"


def _positive(value_N: Float64) -> Bool:
    return (value_N > 0) & (value_N < np.inf)


def _size(value_N: Float64) -> Bool:
    return np.isnan(value_N) | _positive(value_N)
