"""Health of the worker: why it is not ready."""

import time
from collections.abc import Callable

from data_io import health_server
from streams.settings import WorkerSettings
from streams.transport.tick_source import TickSource
from streams.watchdog import Watchdog


class HealthServer(health_server.HealthServer):
    """Answers for one worker; off when the port is 0."""

    def __init__(
        self,
        settings: WorkerSettings,
        source: TickSource,
        watchdog: Watchdog,
        notes: Callable[[], list[str]] = list,
    ) -> None:
        """Report on ``source`` as ``watchdog`` sees it; listens once entered. ``notes`` are told and no more."""
        super().__init__(settings.worker_host, settings.worker_port, self.problems, notes)
        self.settings, self.source, self.watchdog = settings, source, watchdog

    def problems(self) -> list[str]:
        """Return why the worker is not ready; empty when it is."""
        found = []
        if self.source.fatal.done():
            found.append("the tick source gave up")
        if not self.source.all_open:
            found.append("not every assigned partition is open")
        found += [f"partition {number}: {why}" for number, why in sorted(self.source.troubles.copy().items())]
        busy_since, unanswered = self.source.busy_since, self.source.unanswered
        if busy_since is not None and time.monotonic() - busy_since > self.settings.stuck_s:
            found.append(f"one batch has been at the agents for {time.monotonic() - busy_since:.0f} s")
        if unanswered:
            which = ", ".join(map(str, sorted(unanswered)))
            found.append(f"Kafka has not answered for {max(unanswered.values()):.0f} s: partition {which}")
        if self.watchdog.stalled_s > self.settings.stuck_s:
            found.append(f"ticks wait and nothing has moved for {self.watchdog.stalled_s:.0f} s")
        return found
