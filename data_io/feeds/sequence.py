"""Consecutive ids: what is next, what was there before, what is missing."""

from collections.abc import Iterable
from typing import NamedTuple


class Hole(NamedTuple):
    """Ids ``[first, last]`` that have not come."""

    first: int
    last: int

    @property
    def ids(self) -> int:
        """The number of ids. Not ``len``, by which Python makes room when it unpacks a tuple."""
        return self.last - self.first + 1


class Duplicate(NamedTuple):
    """An id that was there before, or is older than all that is known."""

    id: int


def judge(last: int | None, following: int) -> Hole | Duplicate | None:
    """Return what is wrong with ``following`` behind ``last`` (None: nothing is known); None: it is the next one.

    >>> judge(7, 8), judge(7, 10), judge(7, 7), judge(None, 5)
    (None, Hole(first=8, last=9), Duplicate(id=7), None)
    """
    if last is None or following == last + 1:
        return None
    return Duplicate(following) if following <= last else Hole(last + 1, following - 1)


def missing(hole: Hole, found: Iterable[int]) -> list[Hole]:
    """Return what of ``hole`` is not among ``found``, ascending and in as few pieces as possible.

    >>> missing(Hole(3, 9), [8, 4, 5, 99])
    [Hole(first=3, last=3), Hole(first=6, last=7), Hole(first=9, last=9)]
    """
    pieces, start = [], hole.first
    for each in sorted({i for i in found if hole.first <= i <= hole.last}):
        if each > start:
            pieces.append(Hole(start, each - 1))
        start = each + 1
    if start <= hole.last:
        pieces.append(Hole(start, hole.last))
    return pieces
