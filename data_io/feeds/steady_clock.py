"""The time of receipt: the wall clock, but even where that one is set."""

import time
from collections.abc import Callable

import structlog

from ml_core.types import SECOND_NS

log = structlog.get_logger()

# NTP moves both clocks evenly against smaller errors, and sets the wall clock against larger ones.
SET_NS = SECOND_NS // 8


class SteadyClock:
    """A monotonic clock anchored to the wall clock.

    It follows a wall clock that is set ahead at once. Where that one is set back it goes at half speed until they
    agree, so that no time is told twice.
    """

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Begin at the time of the wall clock."""
        self._wall_ns, self._monotonic_ns = wall_ns, monotonic_ns
        self._read_ns, self._now_ns = monotonic_ns(), wall_ns()
        self._is_slow = False

    def __call__(self) -> int:
        """Return the time in ns since the epoch, never less than before."""
        before_ns, wall_ns, read_ns = self._monotonic_ns(), self._wall_ns(), self._monotonic_ns()
        passed_ns, self._read_ns = read_ns - self._read_ns, read_ns
        if read_ns - before_ns > SET_NS // 2:  # held up between the two clocks, which tells nothing of them
            self._now_ns += passed_ns
        else:
            self._now_ns = self._beside(wall_ns, passed_ns)
        return self._now_ns

    def _beside(self, wall_ns: int, passed_ns: int) -> int:
        """Return the time where the wall clock tells ``wall_ns``, ``passed_ns`` after the time before."""
        even_ns = self._now_ns + passed_ns
        if wall_ns > even_ns + SET_NS:
            self._is_slow = False
            log.warning("the clock was set ahead", action="feed", seconds=_seconds(wall_ns - even_ns))
            return wall_ns
        if wall_ns < even_ns - SET_NS and not self._is_slow:
            self._is_slow = True
            log.error(
                "the clock was set back; until it is there again ticks are stamped at half speed",
                action="feed",
                seconds=_seconds(even_ns - wall_ns),
            )
        if self._is_slow:
            even_ns = max(wall_ns, even_ns - passed_ns // 2)
            self._is_slow = even_ns > wall_ns
        return even_ns


def _seconds(time_ns: int) -> float:
    return round(time_ns / SECOND_NS, 3)
