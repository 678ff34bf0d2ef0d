"""Notices that nothing moves while ticks wait: a thread of its own, for the event loop may be what stands still."""

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import structlog

from streams import metrics

log = structlog.get_logger()

EVERY_S = 1.0


class Watchdog:
    """Measures for how long ticks have waited without progress, and calls for the end of the worker after too long."""

    def __init__(
        self,
        *,
        work: Callable[[], Mapping[int, tuple[float, object]]],
        limit_s: float,
        on_stuck: Callable[[str], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch from the time it is entered.

        Args:
            work: For each partition how many ticks wait, and something that changes when some of them are through.
            limit_s: After so long ``on_stuck`` is called, once; 0: never.
            on_stuck: Takes what is wrong; called in the thread.
            clock_s: For tests.
        """
        self.stalled_s = 0.0
        self._work, self._limit_s, self._on_stuck, self._clock_s = work, limit_s, on_stuck, clock_s
        self._seen: dict[int, tuple[object, float]] = {}  # progress, and since when it is that
        self._ended = threading.Event()
        self._told = False

    def look(self) -> None:
        """Look once."""
        now_s, seen = self._clock_s(), self._seen
        self._seen = {}
        for partition, (waiting, progress) in self._work().items():
            if waiting > 0:
                before, since_s = seen.get(partition, (progress, now_s))
                self._seen[partition] = progress, since_s if before == progress else now_s
        self.stalled_s, stuck = max(((now_s - since_s, p) for p, (_, since_s) in self._seen.items()), default=(0.0, -1))
        metrics.STALLED_SECONDS.set(self.stalled_s)
        if self._limit_s and self.stalled_s > self._limit_s and not self._told:
            self._told = True
            self._on_stuck(f"ticks of partition {stuck} wait and have not moved for {self.stalled_s:.0f} s")

    def __enter__(self) -> Self:
        """Start to watch."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Watch no more."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(EVERY_S):
            try:
                self.look()
            except Exception:
                log.exception("the watchdog could not look", action="watch")
