"""Where on the receive clock a trade belongs that was not received: its venue time plus the usual offset."""

from bisect import bisect_left, insort
from collections import deque

_WINDOW = 255  # some seconds of a liquid symbol: follows drift, and outlasts a burst of late messages


class ReceiveClock:
    """The running median of receive time minus venue time: their distance in clocks and transport."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._recent: deque[int] = deque()
        self._sorted: list[int] = []

    def learn(self, received_ns: int, exchange_ns: int) -> None:
        """Take one tick with both times into account."""
        offset = received_ns - exchange_ns
        if len(self._recent) == _WINDOW:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._recent.append(offset)
        insort(self._sorted, offset)

    def place(self, exchange_ns: int, earliest_ns: int, latest_ns: int) -> int:
        """Return when the tick of ``exchange_ns`` (-1: unknown) would have come, clamped between its neighbours.

        >>> clock = ReceiveClock()
        >>> clock.learn(received_ns=1_100, exchange_ns=1_000)
        >>> clock.place(2_000, 0, 9_000), clock.place(2_000, 0, 2_050), clock.place(-1, 7, 9_000)
        (2100, 2050, 7)
        """
        if exchange_ns < 0 or not self._sorted:
            return earliest_ns
        offset = self._sorted[len(self._sorted) // 2]
        return max(earliest_ns, min(exchange_ns + offset, latest_ns))
