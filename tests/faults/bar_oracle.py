"""Bars the slow way: which ticks of a symbol count, by the rules written out, and what they make, in exact sums.

What is promised differs. Bars by time are those of the ticks that count in order of event time, whatever order they
came in; bars by ticks, volume and value are cut in order of arrival.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from data_io.topics.bars import Bar
from ml_core.spec import Bars, parse_bars

RESYNC_TICKS = 8
FIELDS = ("start_ns", "end_ns", "open", "high", "low", "close", "volume", "value", "vwap", "buy_volume", "ticks")

Made = dict[tuple[str, str, int], dict[str, Any]]  # symbol, kind and number -> FIELDS


class Tick(NamedTuple):
    """One tick; a quote has no price, and moves only the clock."""

    ts_ns: int
    seq: int
    price: float | None = None
    size: float = 0.0
    is_bought: bool = False


class _Counted(NamedTuple):
    """Ticks that count, in order of arrival, by how often the clock had been set back before; and the last clock."""

    of_clock: list[list[Tick]]
    clock_ns: int


def bars_of(ticks: Mapping[str, Sequence[Tick]], bars: Bars, *, gap_ns: int, lateness_ns: int) -> Made:
    """Return the highest revision of all bars that end, of symbols whose ticks, without repeats, came in this order."""
    made: Made = {}
    for symbol, of_symbol in ticks.items():
        counted = _counted(of_symbol, max(gap_ns, lateness_ns), lateness_ns)
        for kind in bars.by:
            word, limit = parse_bars(kind)
            found = _by_time(counted, int(limit)) if word == "time" else _cut(counted, word, limit)
            made.update({(symbol, kind, number): bar for number, bar in found.items()})
    return made


def highest(bars: Iterable[Bar]) -> Made:
    """Return the same of bars as they are published."""
    named = sorted((bar for bar in bars if bar.id is not None), key=lambda bar: bar.revision)
    return {(bar.symbol, bar.kind, bar.number): {name: getattr(bar, name) for name in FIELDS} for bar in named}


def _counted(ticks: Sequence[Tick], doubt_ns: int, lateness_ns: int) -> _Counted:
    """Leave out what nothing confirmed and what came too late, as decision 0013 has it."""
    counted: list[list[Tick]] = [[]]
    clock_ns, from_ns, behind = ticks[0].ts_ns, ticks[0].ts_ns - lateness_ns, 0
    parked: Tick | None = None

    def count(tick: Tick) -> None:
        nonlocal clock_ns, from_ns, behind
        behind = behind + 1 if clock_ns - tick.ts_ns > doubt_ns else 0
        if behind == RESYNC_TICKS:
            clock_ns, from_ns, behind = tick.ts_ns, tick.ts_ns, 0
            counted.append([])
        clock_ns = max(clock_ns, tick.ts_ns)
        if tick.price is not None and tick.ts_ns >= max(from_ns, clock_ns - lateness_ns):
            counted[-1].append(tick)

    for tick in ticks:
        is_ahead = tick.ts_ns > clock_ns + doubt_ns
        if parked is not None and tick.ts_ns >= clock_ns:
            if is_ahead and tick.ts_ns >= parked.ts_ns - doubt_ns:
                count(parked)
                is_ahead = tick.ts_ns > clock_ns + doubt_ns
            parked = None
        if is_ahead:
            parked = tick
        else:
            count(tick)
    return _Counted(counted, clock_ns)


def _by_time(counted: _Counted, width_ns: int) -> dict[int, dict[str, Any]]:
    made: dict[int, dict[str, Any]] = {}
    for times, ticks in enumerate(counted.of_clock, start=1):
        numbers = {tick.ts_ns // width_ns for tick in ticks}
        if times == len(counted.of_clock):
            numbers.discard(counted.clock_ns // width_ns)  # has not ended
        for number in numbers:
            bar = _bar([tick for tick in ticks if tick.ts_ns // width_ns == number])
            made[number] = bar | {"start_ns": number * width_ns, "end_ns": (number + 1) * width_ns}
    return made


def _cut(counted: _Counted, word: str, limit: float) -> dict[int, dict[str, Any]]:
    made: dict[int, dict[str, Any]] = {}
    open_ticks: list[Tick] = []
    for tick in (tick for ticks in counted.of_clock for tick in ticks):
        open_ticks.append(tick)
        bar = _bar(open_ticks)
        if bar[word] >= limit:
            made[len(made)], open_ticks = bar, []
    return made


def _bar(ticks: Sequence[Tick]) -> dict[str, Any]:
    in_order = sorted(ticks, key=lambda tick: (tick.ts_ns, tick.seq))  # of equal ones the later arrival is the later
    prices = [tick.price or 0.0 for tick in in_order]
    volume = float(sum(Fraction(tick.size) for tick in ticks))
    value = float(sum(Fraction(tick.price or 0.0) * Fraction(tick.size) for tick in ticks))
    return {
        "start_ns": in_order[0].ts_ns,
        "end_ns": in_order[-1].ts_ns,
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "volume": volume,
        "value": value,
        "vwap": value / volume if volume else None,
        "buy_volume": float(sum(Fraction(tick.size) for tick in ticks if tick.is_bought)),
        "ticks": len(ticks),
    }
