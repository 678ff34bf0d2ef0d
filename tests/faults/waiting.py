"""Waits for what a fault must lead to, and the error of what did not come."""

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any


class FellShortError(AssertionError):
    """A fault was not survived as it must be; the text says how."""

    def __init__(self, why: str, counted: Mapping[str, Any] | None = None) -> None:
        """Say ``why``, and what had been counted by then."""
        super().__init__(why)
        self.counted = dict(counted or {})


async def until(
    condition: Callable[[], Any], within_s: float, otherwise: str | Callable[[], str], *, pause_s: float = 0.2
) -> float:
    """Wait for the first true answer of ``condition``, awaited where it is a coroutine; return how long it took.

    Raises:
        FellShortError: None came within ``within_s``; it says ``otherwise``.
    """
    began = time.monotonic()
    while True:
        answer = condition()
        if await answer if inspect.isawaitable(answer) else answer:
            return time.monotonic() - began
        if time.monotonic() - began > within_s:
            raise FellShortError(otherwise if isinstance(otherwise, str) else otherwise())
        await asyncio.sleep(pause_s)
