"""Seeded batches of numpy arrays, gathered window by window; their place can be stored and taken up again.

Shapes: M rows, N samples, T rows of a window, F features, B samples of a batch, H horizons.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ml_core.types import Batch, Float32, Int32, Int64

GATHERED_ROWS = 8192  # samples: a gather costs as much again for being called as for a batch of a thousand rows

Augment = Callable[[Batch, np.random.Generator], Batch]


class Samples(NamedTuple):
    """All samples of a data set; a window is a list of row indices, so rows are held once."""

    x_MF: Float32
    idx_NT: Int32  # rows of each window, oldest first
    y_NH: npt.NDArray[Any]
    weight_N: Float32


def gather(samples: Samples, sample_B: Int64) -> Batch:
    """Return the samples with the numbers ``sample_B``, in that order."""
    # a third of the time of indexing
    x_BTF = np.take(samples.x_MF, np.take(samples.idx_NT, sample_B, axis=0), axis=0)
    return Batch(x_BTF, np.take(samples.y_NH, sample_B, axis=0), np.take(samples.weight_N, sample_B))


class Batches:
    """Batches of chosen samples, epoch after epoch; each epoch has an order of its own, drawn from (seed, epoch).

    Iterating gives the rest of the current epoch and then moves to the next one, so that ``state`` taken at any batch
    and given to ``restore`` goes on with exactly the batches that would have followed.
    """

    def __init__(
        self,
        samples: Samples,
        chosen_I: Int64,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        augment: Augment | None = None,
    ) -> None:
        """Start at the first batch of epoch 0.

        Args:
            samples: The data set.
            chosen_I: Numbers of the samples to use.
            batch_size: Samples a batch; the last one of an epoch may have fewer.
            seed: Of order and augmentation.
            shuffle: False keeps the order of ``chosen_I``, as validation wants it.
            augment: Changes a training batch, never of a validation batch.
        """
        self._samples, self._chosen_I = samples, chosen_I
        self._batch_size, self._seed, self._shuffle, self._augment = batch_size, seed, shuffle, augment
        self._epoch = self._batch = 0

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return (len(self._chosen_I) + self._batch_size - 1) // self._batch_size

    def __iter__(self) -> Iterator[Batch]:
        """Yield what is left of the epoch."""
        order_I, size, first = self._order(), self._batch_size, self._batch
        ahead = max(1, GATHERED_ROWS // size)  # batches that are gathered at once
        while self._batch < len(self):
            place = (self._batch - first) % ahead
            if place == 0:
                start = self._batch * size
                gathered = gather(self._samples, order_I[start : start + ahead * size])
            chunk = slice(place * size, (place + 1) * size)
            batch = Batch(gathered.x_BTF[chunk], gathered.y_BH[chunk], gathered.weight_B[chunk])
            if self._augment is not None:
                rng = np.random.default_rng([self._seed, self._epoch, 1 + self._batch])
                batch = self._augment(batch, rng)
            self._batch += 1
            yield batch
        self._epoch, self._batch = self._epoch + 1, 0

    def state(self) -> dict[str, int]:
        """Return the place reached: epoch and batches of it already handed out."""
        return {"epoch": self._epoch, "batch": self._batch}

    def restore(self, state: dict[str, int]) -> None:
        """Go to a place that ``state`` returned, of an equal data set, batch size and seed."""
        self._epoch, self._batch = state["epoch"], state["batch"]

    def _order(self) -> Int64:
        if not self._shuffle:
            return self._chosen_I
        return np.random.default_rng([self._seed, self._epoch]).permutation(self._chosen_I)
