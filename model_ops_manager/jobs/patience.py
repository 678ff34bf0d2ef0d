"""Waits for a job store that is away for a moment: what was computed is worth more than that."""

import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from ml_core.errors import JobStoreUnavailableError

log = structlog.get_logger()

PATIENCE_S = 30.0
_RETRY_S = 1.0

T = TypeVar("T")


def patiently(ask: Callable[[], T]) -> T:
    """Return what ``ask`` returns; while the store is away it is asked again, for ``PATIENCE_S``.

    Raises:
        JobStoreUnavailableError: That long. A retry is safe.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except JobStoreUnavailableError as error:
            if time.monotonic() > deadline:
                raise
            log.warning("job store away, it is asked again", action="ask", error=str(error))
            time.sleep(_RETRY_S)
