"""The rows of an incremental training: new ones in order of time, old ones mixed in.

    event time  ---- champion's rows ----|---- new rows ----
    reservoir     x   x  x    x  x   x   |
    step 1         x       x             | ooooo
    step 2       x     x                 |      ooooo

Shapes: N samples, I numbers of samples, B samples of a batch.
"""

from collections.abc import Iterator

import numpy as np

from ml_core.data_loader.arrays import Samples, gather
from ml_core.types import Batch, Int64

STRATA = 32  # of equal numbers of old rows, in order of time


def reservoir(old_I: Int64, ts_ns_N: Int64, *, rows: int, seed: int) -> Int64:
    """Return about ``rows`` of ``old_I``, ascending, equally many of each of 32 spans of time; all where there are few.

    Args:
        old_I: Numbers of samples.
        ts_ns_N: Event times of all samples.
        rows: How many at most.
        seed: Of the draw.
    """
    if len(old_I) <= rows:
        return np.sort(old_I)
    rng = np.random.default_rng([seed, 0])
    strata = np.array_split(old_I[np.argsort(ts_ns_N[old_I], kind="stable")], STRATA)
    shares = [rows * (k + 1) // STRATA - rows * k // STRATA for k in range(STRATA)]
    drawn = [rng.choice(s, min(n, len(s)), replace=False) for s, n in zip(strata, shares, strict=True)]
    return np.sort(np.concatenate(drawn))


class StepBatches:
    """Batches of an epoch in steps: each has its own span of new rows, and its share of the old ones.

    The order within a step and which old rows it has are drawn from (seed, epoch). As of ``Batches``, ``state`` at any
    batch and ``restore`` go on with the batches that would have followed.
    """

    def __init__(
        self, samples: Samples, new_I: Int64, old_I: Int64, *, step_rows: int, batch_size: int, seed: int
    ) -> None:
        """Start at the first batch of epoch 0.

        Args:
            samples: The data set.
            new_I: Rows to learn, in order of time.
            old_I: Rows not to forget.
            step_rows: New and old rows of a step, about.
            batch_size: Samples a batch; the last one of a step may have fewer.
            seed: Of order and of mixing.
        """
        self._samples, self._new_I, self._old_I, self._seed = samples, new_I, old_I, seed
        self._steps = max(1, round((len(new_I) + len(old_I)) / step_rows))
        self._batch_size = batch_size
        self._epoch = self._batch = 0
        sizes = [len(part) for part in self._parts()]
        counts = [-(-size // batch_size) for size in sizes]
        self._ends = frozenset(np.cumsum(counts) - 1)
        self._count = sum(counts)

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        """Yield what is left of the epoch."""
        size = self._batch_size
        batches = [part_I[at : at + size] for part_I in self._parts() for at in range(0, len(part_I), size)]
        while self._batch < len(batches):
            self._batch += 1
            yield gather(self._samples, batches[self._batch - 1])
        self._epoch, self._batch = self._epoch + 1, 0

    def ends_step(self, batch: int) -> bool:
        """Return True where ``batch``, counted from 0 in its epoch, is the last one of its step."""
        return batch in self._ends

    def state(self) -> dict[str, int]:
        """Return the place reached: epoch and batches of it already handed out."""
        return {"epoch": self._epoch, "batch": self._batch}

    def restore(self, state: dict[str, int]) -> None:
        """Go to a place that ``state`` returned, of an equal data set, sizes and seed."""
        self._epoch, self._batch = state["epoch"], state["batch"]

    def _parts(self) -> list[Int64]:
        rng = np.random.default_rng([self._seed, self._epoch])
        new, old = np.array_split(self._new_I, self._steps), np.array_split(rng.permutation(self._old_I), self._steps)
        return [rng.permutation(np.concatenate(pair)) for pair in zip(new, old, strict=True)]
