"""The ticks of the demo: a history to publish at once, and the rest to publish live at a pace that can change."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np

from data_io.data_fetcher.port import TickFetcher, cut
from ml_core.errors import NotEnoughDataError
from ml_core.types import TickBatch

MIN_TICKS, MAX_TICKS = 5_000, 400_000
STEP_S = 0.005  # ticks due within it go out together


class Held:
    """Ticks in memory, as a source to publish."""

    def __init__(self, ticks: TickBatch) -> None:
        """Hold ``ticks``."""
        self.ticks = ticks

    @classmethod
    def read(cls, source: TickFetcher, name: str) -> Self:
        """Return the first ticks of ``source``, as many as a demo needs.

        Raises:
            NotEnoughDataError: There are too few for a demo.
        """
        batches: list[TickBatch] = []
        for batch in source.stream(65_536):
            batches.append(batch)
            if sum(map(len, batches)) >= MAX_TICKS:
                break
        count = sum(map(len, batches))
        if count < MIN_TICKS:
            raise NotEnoughDataError(f"{name} has {count} ticks; the demo needs at least {MIN_TICKS:,}")
        columns = zip(*(batch[:-1] for batch in batches), strict=True)
        fields: list[Any] = [*(np.concatenate(column) for column in columns), batches[-1].symbols]
        return cls(cut(TickBatch(*fields), 0, MAX_TICKS))

    def __len__(self) -> int:
        """Return the number of ticks."""
        return len(self.ticks)

    def split(self, at: int) -> tuple["Held", "Held"]:
        """Return the ticks before ``at`` and those from it on."""
        return Held(cut(self.ticks, 0, at)), Held(cut(self.ticks, at, len(self)))

    def stream(self, batch_size: int = 4096) -> Iterator[TickBatch]:
        """Yield the ticks in order."""
        for start in range(0, len(self), batch_size):
            yield cut(self.ticks, start, start + batch_size)


class Paced(Held):
    """Held ticks that come at ``pace(ticks left)`` ticks a second, whatever is asked of them."""

    def __init__(self, ticks: TickBatch, pace: Callable[[int], float]) -> None:
        """Ask ``pace`` before every few ticks."""
        super().__init__(ticks)
        self.pace = pace

    def stream(self, batch_size: int = 4096) -> Iterator[TickBatch]:
        """Yield the ticks in order, each few when they are due."""
        at, due_s = 0, time.monotonic()
        while at < len(self):
            pace = self.pace(len(self) - at)
            size = min(batch_size, max(1, round(pace * STEP_S)))
            due_s += size / pace
            time.sleep(max(0.0, due_s - time.monotonic()))
            yield cut(self.ticks, at, at + size)
            at += size
