"""Which ticks were seen before, by the venue's numbers: two numberings of each symbol and kind, 64 numbers of each.

One numbering is in force, the other one is what was in force before or what may be next. A number is sought in both. A
venue that begins to number anew, or one wrong number, so costs nothing: what is new is remembered beside what was, and
comes into force with the eighth tick in a row. All of it goes by the symbol's own ticks in their order.
"""

from typing import Any

import numpy as np

from ml_core.compiled import njit
from ml_core.types import Int64

SEQ_MEMORY = 64  # numbers of a numbering that are remembered, one bit each: the highest and those below it
RESTART_TICKS = 8  # so many ticks in a row that are of the other numbering: it is in force
# Integers of state of a kind of ticks: the highest number and the bits of the numbering in force, those of the other
# one, and how many ticks in a row were of that. A numbering without bits has not begun.
(HIGH, SEEN, OTHER_HIGH, OTHER_SEEN, STRANGE) = range(5)
SEQ_INTS = 5

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}


@njit(**_OPTIONS, forceinline=True)
def seen_before(j: Int64, at: int, seq: int, is_later: bool) -> bool:
    """Return whether ``seq`` is among the numbers remembered in ``j`` from ``at`` on, and remember it.

    A number below 0 is none. One too old to be remembered counts as new. ``is_later`` says that the tick's time is
    beyond its symbol's clock, as that of a repeat is not.
    """
    if seq < 0:
        return False
    ahead, back = seq - j[at + HIGH], j[at + OTHER_HIGH] - seq
    if 0 < ahead < SEQ_MEMORY and j[at + SEEN] != 0 and not 0 <= back < SEQ_MEMORY:  # nearly always
        j[at + HIGH], j[at + SEEN], j[at + STRANGE] = seq, (j[at + SEEN] << ahead) | 1, 0
        return False
    return bool(_judge(j, at, seq, is_later))


@njit(**_OPTIONS)
def _judge(j: Int64, at: int, seq: int, is_later: bool) -> bool:
    """See `seen_before`."""
    other = at + OTHER_HIGH
    if _knows(j, at, seq):
        return True
    if _knows(j, other, seq):
        if seq < j[at + HIGH] or not is_later:
            return True
        j[other + SEEN] = 0  # new ticks have come to where another numbering was: no repeats
    if _takes(j, at, seq):
        j[at + STRANGE] = 0
        return False
    if not _takes(j, other, seq):
        if seq > j[at + HIGH] or j[at + SEEN] == 0:
            if j[at + STRANGE] == 0:  # else the other one has just been used, and may be next
                j[other + HIGH], j[other + SEEN] = j[at + HIGH], j[at + SEEN]
            j[at + HIGH], j[at + SEEN], j[at + STRANGE] = seq, 1, 0
            return False
        j[other + HIGH], j[other + SEEN] = seq, 1
    j[at + STRANGE] += 1
    if j[at + STRANGE] == RESTART_TICKS:
        high, seen = j[at + HIGH], j[at + SEEN]
        j[at + HIGH], j[at + SEEN], j[at + STRANGE] = j[other + HIGH], j[other + SEEN], 0
        j[other + HIGH], j[other + SEEN] = high, seen
    return False


@njit(**_OPTIONS, forceinline=True)
def _knows(j: Int64, at: int, seq: int) -> bool:
    back = j[at + HIGH] - seq
    return bool(0 <= back < SEQ_MEMORY and (j[at + SEEN] >> back) & 1)


@njit(**_OPTIONS, forceinline=True)
def _takes(j: Int64, at: int, seq: int) -> bool:
    """Remember a number that is less than 64 away from the highest one; return whether it is."""
    ahead = seq - j[at + HIGH]
    if j[at + SEEN] == 0 or not -SEQ_MEMORY < ahead < SEQ_MEMORY:
        return False
    if ahead > 0:
        j[at + HIGH], j[at + SEEN] = seq, (j[at + SEEN] << ahead) | 1
    else:
        j[at + SEEN] |= np.int64(1) << -ahead
    return True
