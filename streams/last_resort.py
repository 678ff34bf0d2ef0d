"""Ends the process where a client of Kafka or a thread cannot be stopped: what counts is in Kafka by then."""

import os
import threading

import structlog

log = structlog.get_logger()


class LastResort:
    """A timer that ends the process; aiokafka and Faust have waits that ignore being cancelled."""

    def __init__(self, after_s: float) -> None:
        """Prepare; nothing runs until ``arm``."""
        self.after_s = after_s
        self._timer: threading.Timer | None = None

    def arm(self, code: int) -> None:
        """End the process with exit status ``code`` in ``after_s`` seconds; only the first call counts."""
        if self._timer is None:
            self._timer = threading.Timer(self.after_s, self._end, [code])
            self._timer.name, self._timer.daemon = "last-resort", True
            self._timer.start()

    def disarm(self) -> None:
        """Let the process live: it has stopped by itself."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, code: int) -> None:
        log.error("the worker did not stop in time and is ended", action="stop", seconds=self.after_s)
        os._exit(code)
