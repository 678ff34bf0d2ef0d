"""Takeovers of a partition that got no further: how long to pause before the next one, and when it is enough."""

import time
from collections.abc import Callable

from aiokafka.errors import KafkaError, KafkaTimeoutError

from ml_core.errors import KafkaUnavailableError

# Takeovers in a row without progress after which the worker gives up instead of spinning.
MAX_ATTEMPTS = 6
# A broker that is started again, or moved to another machine, is back by then; a restart of the worker brings it no
# nearer, and costs the partitions that still work.
AWAY_S = 300.0
MAX_PAUSE_S = 8.0


def is_away(error: Exception) -> bool:
    """Return whether ``error`` says that Kafka is not there, and not that it refuses something."""
    cause = error.__cause__ if isinstance(error, KafkaUnavailableError) else error
    if isinstance(cause, KafkaError):
        return cause.retriable or isinstance(cause, KafkaTimeoutError)
    # By itself another error of the system may be that of a model on a full disk.
    return isinstance(cause, TimeoutError | ConnectionError) or (cause is not error and isinstance(cause, OSError))


class Attempts:
    """Failures of one partition since it last got further."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Count from 0; ``clock_s`` is for tests."""
        self.count = 0
        self._clock_s = clock_s
        self._position = -1  # the furthest at which it failed
        self._away_s: float | None = None  # since when takeovers have failed because Kafka is not there
        self._away = 0

    def failed(self, position: int, *, away: bool) -> float | None:
        """Count a failure at ``position``.

        Args:
            position: Of the partition.
            away: It was not taken over, because Kafka is not there.

        Returns:
            For how many seconds to pause before the next takeover; None where it has been enough.
        """
        now_s = self._clock_s()
        if away:
            self._away_s = now_s if self._away_s is None else self._away_s
            self._away += 1
            return _pause_s(self._away) if now_s - self._away_s < AWAY_S else None
        self.taken_over()
        self.count = self.count + 1 if position <= self._position else 1
        self._position = max(position, self._position)
        return _pause_s(self.count) if self.count < MAX_ATTEMPTS else None

    def taken_over(self) -> None:
        """Take note that Kafka was there."""
        self._away_s, self._away = None, 0

    def is_over(self, position: int) -> bool:
        """Return whether the partition has got further than where it failed."""
        return position > self._position


def _pause_s(attempt: int) -> float:
    return min(0.5 * 2.0 ** min(attempt, 10), MAX_PAUSE_S)
