"""The rules of event time the slow way: what each tick of one symbol means, from all ticks before it."""

from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple

from ml_core.types import RowFlag

RESYNC_TICKS = 8


class Meaning(Enum):
    """What becomes of the symbol's clock."""

    START = auto()  # it is set, and the symbol begins anew
    MOVE = auto()
    LATE = auto()
    AHEAD = auto()
    JUMP = auto()  # over a silence that the tick before has told of


class Placed(NamedTuple):
    """A tick among those of its symbol."""

    ts_ns: int
    clock_ns: int  # the time at which it counts
    meaning: Meaning
    ends_gap: bool


Sessions = Sequence[tuple[int, int]]  # where each begins and is over, ns; none: it is always open


def place(times_ns: list[int], gap_ns: int, sessions: Sessions = ()) -> list[Placed]:
    """Return what ticks with these stamps, in arrival order, mean."""
    placed: list[Placed] = []
    for ts_ns in times_ns:
        meaning = _meaning(ts_ns, placed, gap_ns, sessions)
        stays = meaning in (Meaning.LATE, Meaning.AHEAD)
        ends_gap = meaning is Meaning.JUMP
        if meaning is Meaning.START and placed:
            before_ns = placed[-1].clock_ns
            ends_gap = ts_ns < before_ns or _open_ns(before_ns, ts_ns, sessions) > gap_ns
        placed.append(Placed(ts_ns, placed[-1].clock_ns if stays else ts_ns, meaning, ends_gap))
    return placed


def _meaning(ts_ns: int, before: list[Placed], gap_ns: int, sessions: Sessions) -> Meaning:
    if not before:
        return Meaning.START
    last = before[-1]
    if ts_ns < last.clock_ns:
        lately = before[len(before) - RESYNC_TICKS + 1 :] if len(before) >= RESYNC_TICKS else []
        all_far = all(each.meaning is Meaning.LATE and each.clock_ns - each.ts_ns > gap_ns for each in lately)
        return Meaning.START if lately and all_far and last.clock_ns - ts_ns > gap_ns else Meaning.LATE
    is_anew = _period(ts_ns, sessions) != _period(last.clock_ns, sessions)
    if ts_ns > last.clock_ns + gap_ns:
        is_confirmed = last.meaning is Meaning.AHEAD and ts_ns >= last.ts_ns - gap_ns
        is_session = is_anew and any(begin <= ts_ns < over for begin, over in sessions)
        if not is_confirmed and not is_session:
            return Meaning.AHEAD
        return Meaning.START if is_anew else Meaning.JUMP
    return Meaning.START if is_anew else Meaning.MOVE


def _period(ts_ns: int, sessions: Sessions) -> tuple[int, int]:
    return sum(begin <= ts_ns for begin, _ in sessions), sum(over <= ts_ns for _, over in sessions)


def _open_ns(start_ns: int, end_ns: int, sessions: Sessions) -> int:
    return sum(max(min(end_ns, over) - max(start_ns, begin), 0) for begin, over in sessions)


def hours(ts_ns: int, sessions: Sessions) -> RowFlag:
    """Return the flag of a time: whether its venue trades, as far as that is known."""
    if not sessions or any(begin <= ts_ns < over for begin, over in sessions):
        return RowFlag(0)
    return RowFlag.CLOSED if sessions[0][0] <= ts_ns < sessions[-1][1] else RowFlag.NO_CALENDAR


def flags(placed: list[Placed], look_back_ns: int, sessions: Sessions = ()) -> list[RowFlag]:
    """Return the flags of the rows that say how times lie, where each tick makes a row."""
    found = []
    for n, tick in enumerate(placed):
        start = max(k for k in range(n + 1) if placed[k].meaning is Meaning.START)
        last = max(k for k in range(n + 1) if placed[k].meaning in (Meaning.START, Meaning.JUMP))
        flag = {Meaning.LATE: RowFlag.LATE, Meaning.AHEAD: RowFlag.AHEAD}.get(tick.meaning, RowFlag(0))
        flag |= hours(tick.ts_ns, sessions) | hours(tick.clock_ns, sessions)
        if tick.clock_ns < placed[start].clock_ns + look_back_ns:
            flag |= RowFlag.WARM_UP
        if placed[last].ends_gap and tick.clock_ns < placed[last].clock_ns + look_back_ns:
            flag |= RowFlag.GAP
        found.append(flag)
    return found
