"""A log of ticks that are repeated, out of order and of wrong clocks, and what must come of it."""

import random
from typing import NamedTuple

import numpy as np

from data_io.data_fetcher.sources import open_source
from data_io.topics import ticks
from ml_core.types import SECOND_NS, TickBatch, TickKind
from tests.faults.bar_oracle import Tick
from tests.unit.ml_core.data_processor import clock_oracle

RATE = 50  # ticks a second of event time
REPEATED = 0.2
# (share, later by, s): those of 8 s come later than lateness
DELAYS = ((0.05, 2), (0.02, 8))
# (share, stamp off by, s): single ticks
SHIFTS = ((0.02, -1.3), (0.01, 5.0), (0.01, -3600.0), (0.005, 3600.0))
# (from, to, off by, s): all clocks, for so long a part of the ticks
STRETCHES = ((0.2, 0.25, -1.3), (0.35, 0.4, 5.0), (0.5, 0.55, -3600.0))
CLEAN_END = 50  # ticks that are as they should be, so that the last one makes a row
BARS = ["time:1s", "time:10s", "ticks:20", "volume:500", "value:1e5"]


class Disorder(NamedTuple):
    """Records of one partition, and what becomes of them."""

    records: list[tuple[bytes, bytes]]
    repeated: list[int]  # offsets that make no row, ascending
    late: int
    too_late: list[tuple[int, int]]  # offset, and how late, ns
    of_symbol: dict[str, list[Tick]]  # in order of arrival, without the repeated ones


def make(count: int, rng: random.Random, *, gap_ns: int, lateness_ns: int) -> Disorder:
    """Return a log of ``count`` ticks and the repeated ones."""
    batch = next(open_source(f"synthetic:symbols=6,ticks={count},rate={RATE}").stream(count))
    shift_ns = [_shift_ns(n / count, rng) if n < count - CLEAN_END else 0 for n in range(count)]
    batch = TickBatch(**{**batch._asdict(), "ts_ns_N": batch.ts_ns_N + np.array(shift_ns)})
    arrivals = []
    for n in range(count):
        delay = sum(late_s * RATE for share, late_s in DELAYS if rng.random() < share) if n < count - 500 else 0
        arrivals.append((n + delay, n))
        if not delay and n < count - CLEAN_END and rng.random() < REPEATED:
            arrivals.append((n + rng.randint(1, 30), n))  # within the numbers that are remembered
    order = [n for _, n in sorted(arrivals, key=lambda arrival: arrival[0])]
    first = {n: offset for offset, n in reversed(list(enumerate(order)))}
    lags = _lags(order, first, batch.symbol_N.tolist(), batch.ts_ns_N.tolist(), gap_ns)
    encoded = ticks.encode(batch)
    return Disorder(
        records=[encoded[n] for n in order],
        repeated=[offset for offset, n in enumerate(order) if first[n] != offset],
        late=sum(lag > 0 for lag in lags.values()),
        too_late=[(offset, lag) for offset, lag in sorted(lags.items()) if lag > lateness_ns],
        of_symbol=_of_symbol(batch, sorted(first, key=first.__getitem__)),
    )


def _of_symbol(batch: TickBatch, order: list[int]) -> dict[str, list[Tick]]:
    found: dict[str, list[Tick]] = {name: [] for name in batch.symbols}
    columns = (batch.kind_N, batch.symbol_N, batch.ts_ns_N, batch.seq_N, batch.price_N, batch.size_N, batch.side_N)
    listed = [column.tolist() for column in columns]
    for n in order:
        kind, symbol, ts_ns, seq, price, size, side = (column[n] for column in listed)
        tick = Tick(ts_ns, seq, price, size, side > 0) if kind == TickKind.TRADE else Tick(ts_ns, seq)
        found[batch.symbols[symbol]].append(tick)
    return found


def _shift_ns(place: float, rng: random.Random) -> int:
    off_s = next((off_s for start, end, off_s in STRETCHES if start <= place < end), None)
    if off_s is None:
        off_s = next((off_s for share, off_s in SHIFTS if rng.random() < share), 0.0)
    return round(off_s * SECOND_NS)


def _lags(
    order: list[int], first: dict[int, int], symbols: list[int], times_ns: list[int], gap_ns: int
) -> dict[int, int]:
    """Return, by offset, how far each tick that counts is behind its symbol's clock, by the rules written out."""
    of_symbol: dict[int, list[int]] = {}
    for offset, n in enumerate(order):
        if first[n] == offset:
            of_symbol.setdefault(symbols[n], []).append(offset)
    lags = {}
    for offsets in of_symbol.values():
        placed = clock_oracle.place([times_ns[order[offset]] for offset in offsets], gap_ns)
        lags.update({offset: each.clock_ns - each.ts_ns for offset, each in zip(offsets, placed, strict=True)})
    return lags
