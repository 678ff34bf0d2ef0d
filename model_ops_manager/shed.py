"""Which ticks of a partition were skipped because it was too far behind: its state starts empty behind each range."""

from typing import NamedTuple

MAX_RANGES = 64

Ranges = tuple[tuple[int, int], ...]  # first and last offset (exclusive), ascending


class Shed(NamedTuple):
    """The last ranges, and how many offsets all ranges have had.

    >>> Shed().add(5, 9).add(9, 12).add(20, 21)
    Shed(ranges=((5, 12), (20, 21)), total=8)
    """

    ranges: Ranges = ()
    total: int = 0

    def add(self, start: int, end: int) -> "Shed":
        """Return it with ``[start, end)`` added, which begins at or behind the last one's end."""
        before = self.ranges
        if before and before[-1][1] == start:
            before, start = before[:-1], before[-1][0]
        return Shed((*before, (start, end))[-MAX_RANGES:], self.total + end - max(start, self.last_end))

    @property
    def last_end(self) -> int:
        """The offset that the state of the partition begins with; 0 where nothing was skipped."""
        return self.ranges[-1][1] if self.ranges else 0

    @property
    def known_from(self) -> int:
        """The offset from which on all ranges are known."""
        is_whole = self.total == sum(end - start for start, end in self.ranges)
        return 0 if is_whole else self.ranges[0][1]

    def holds(self, offset: int) -> bool:
        """Return whether ``offset`` was skipped."""
        return any(start <= offset < end for start, end in self.ranges)

    def starts(self, after: int) -> list[int]:
        """Return where the state starts empty behind ``after``, in order."""
        return [end for _, end in self.ranges if end > after]

    def start_before(self, offset: int, otherwise: int) -> int:
        """Return where the state that ``offset`` meets has started, ``otherwise`` where that is later."""
        return max([otherwise, *(end for _, end in self.ranges if end <= offset)])
