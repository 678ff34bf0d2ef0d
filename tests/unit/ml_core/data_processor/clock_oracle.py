"""The rules of event time the slow way: what each tick of one symbol means, from all ticks before it."""

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


def place(times_ns: list[int], gap_ns: int) -> list[Placed]:
    """Return what ticks with these stamps, in arrival order, mean."""
    placed: list[Placed] = []
    for ts_ns in times_ns:
        meaning = _meaning(ts_ns, placed, gap_ns)
        stays = meaning in (Meaning.LATE, Meaning.AHEAD)
        placed.append(Placed(ts_ns, placed[-1].clock_ns if stays else ts_ns, meaning))
    return placed


def _meaning(ts_ns: int, before: list[Placed], gap_ns: int) -> Meaning:
    if not before:
        return Meaning.START
    last = before[-1]
    if ts_ns < last.clock_ns:
        lately = before[len(before) - RESYNC_TICKS + 1 :] if len(before) >= RESYNC_TICKS else []
        all_far = all(each.meaning is Meaning.LATE and each.clock_ns - each.ts_ns > gap_ns for each in lately)
        return Meaning.START if lately and all_far and last.clock_ns - ts_ns > gap_ns else Meaning.LATE
    if ts_ns <= last.clock_ns + gap_ns:
        return Meaning.MOVE
    return Meaning.JUMP if last.meaning is Meaning.AHEAD and ts_ns >= last.ts_ns - gap_ns else Meaning.AHEAD


def flags(placed: list[Placed], look_back_ns: int) -> list[RowFlag]:
    """Return the flags of the rows that say how times lie, where each tick makes a row."""
    found = []
    for n, tick in enumerate(placed):
        starts = [k for k in range(n + 1) if placed[k].meaning is Meaning.START]
        breaks = [k for k in range(1, n + 1) if placed[k].meaning in (Meaning.START, Meaning.JUMP)]
        flag = {Meaning.LATE: RowFlag.LATE, Meaning.AHEAD: RowFlag.AHEAD}.get(tick.meaning, RowFlag(0))
        if tick.clock_ns < placed[starts[-1]].clock_ns + look_back_ns:
            flag |= RowFlag.WARM_UP
        if breaks and tick.clock_ns < placed[breaks[-1]].clock_ns + look_back_ns:
            flag |= RowFlag.GAP
        found.append(flag)
    return found
