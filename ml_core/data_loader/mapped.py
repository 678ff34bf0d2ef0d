"""Batches of sets larger than memory: blocks on disk, shuffled by blocks and then within a few of them at a time.

Shapes: M rows, N samples, T rows of a window, F features, H horizons, B samples of a batch, K samples of a block.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ml_core.data_loader.arrays import GATHERED_ROWS, Augment, Samples
from ml_core.errors import SchemaMismatchError
from ml_core.types import Batch, Int32, Int64

BLOCK = 65_536  # samples
MIXED_BLOCKS = 8  # blocks in memory at once: more shuffle better and take more memory
_TURNED_ROWS = 1024  # of a block, columns into rows at once: they stay in the cache meanwhile
_FILES = ("x", "last", "y", "weight")


class Blocks(Protocol):
    """A set on disk in blocks; one block fits into memory many times."""

    sizes: Sequence[int]  # samples of each block

    def read(self, block: int) -> Batch:
        """Return the samples of a block, in their order."""
        ...


class ParquetBlocks:
    """Rows of Parquet files, a column a feature; a row group is a block, and a window is the row alone."""

    def __init__(
        self, paths: Sequence[Path], *, features: Sequence[str], targets: Sequence[str], weight: str | None = None
    ) -> None:
        """Read what the files say of themselves.

        Args:
            paths: Files, in the order of their samples.
            features: Columns of x.
            targets: Columns of y: all whole numbers are classes, else they are read as float32.
            weight: Column of weights; None: all are 1.

        Raises:
            SchemaMismatchError: A file lacks a column. A retry will not help.
        """
        self._files = [pq.ParquetFile(path) for path in paths]
        self._features, self._targets, self._weight = list(features), list(targets), weight
        self._columns = [*self._features, *self._targets, *([weight] if weight else [])]
        for path, file in zip(paths, self._files, strict=True):
            missing = [name for name in self._columns if name not in file.schema_arrow.names]
            if missing:
                raise SchemaMismatchError(f"{path} has no column {', '.join(missing)}")
        types = [self._files[0].schema_arrow.field(name).type for name in targets] if self._files else []
        self._y_dtype: type = np.int64 if all(pa.types.is_integer(each) for each in types) else np.float32
        self._places = [(file, group) for file in self._files for group in range(file.num_row_groups)]
        self.sizes = [file.metadata.row_group(group).num_rows for file, group in self._places]

    def read(self, block: int) -> Batch:
        """Return the rows of a row group."""
        file, group = self._places[block]
        table = file.read_row_group(group, columns=self._columns, use_threads=False)
        x_KF = np.empty((table.num_rows, len(self._features)), np.float32)
        y_KH = np.empty((table.num_rows, len(self._targets)), self._y_dtype)
        for values, names in ((x_KF, self._features), (y_KH, self._targets)):
            columns = [table.column(name).to_numpy() for name in names]
            for start in range(0, table.num_rows, _TURNED_ROWS):
                rows = slice(start, start + _TURNED_ROWS)
                for place, column in enumerate(columns):
                    values[rows, place] = column[rows]
        weight_K = np.ones(table.num_rows, np.float32)
        if self._weight:
            weight_K[:] = table.column(self._weight).to_numpy()
        return Batch(x_KF[:, None, :], y_KH, weight_K)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


class MappedBlocks:
    """Windows of rows in memory-mapped files, as ``write_mapped`` leaves them."""

    def __init__(self, folder: Path, chosen_I: Int64 | None = None) -> None:
        """Map the files of ``folder``.

        Args:
            folder: Of the set.
            chosen_I: Numbers of the samples to use, in order; None: all.

        Raises:
            SchemaMismatchError: It holds no whole set. A retry will not help.
        """
        missing = [name for name in (*(f"{name}.npy" for name in _FILES), "set.json") if not (folder / name).is_file()]
        if missing:
            raise SchemaMismatchError(f"{folder} holds no whole set: {', '.join(missing)} is missing")
        self._x_MF, self._last_N, self._y_NH, self._weight_N = (
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _FILES
        )
        window = int(json.loads((folder / "set.json").read_text(encoding="utf-8"))["window"])
        self._back_T = np.arange(1 - window, 1)
        self._chosen_I = np.arange(len(self._last_N)) if chosen_I is None else chosen_I
        self.sizes = [min(BLOCK, len(self._chosen_I) - first) for first in range(0, len(self._chosen_I), BLOCK)]

    def read(self, block: int) -> Batch:
        """Return the windows of a block of the chosen samples."""
        sample_K = self._chosen_I[block * BLOCK : (block + 1) * BLOCK]
        x_KTF = self._x_MF[self._last_N[sample_K][:, None] + self._back_T]
        return Batch(x_KTF, self._y_NH[sample_K], self._weight_N[sample_K])


def write_mapped(folder: Path, samples: Samples, symbol_N: Int32) -> None:
    """Write a set for ``MappedBlocks``: each row once, those of a symbol together, so that a window is its last row.

    A window names T rows in memory and one on disk.

    Raises:
        SchemaMismatchError: The rows of a window do not stand together: another window of the symbol holds one that
            belongs between them. A retry will not help.
    """
    symbol_M = np.full(len(samples.x_MF), -1, np.int64)
    symbol_M[samples.idx_NT] = symbol_N[:, None]
    used_U = np.flatnonzero(symbol_M >= 0)
    used_U = used_U[np.argsort(symbol_M[used_U], kind="stable")]
    place_M = np.empty(len(samples.x_MF), np.int64)
    place_M[used_U] = np.arange(len(used_U))
    last_N = place_M[samples.idx_NT[:, -1]]
    window = samples.idx_NT.shape[1]
    if (place_M[samples.idx_NT[:, 0]] != last_N - window + 1).any():
        raise SchemaMismatchError("the rows of a window do not stand together, so that they cannot be mapped")
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(used_U), samples.x_MF.shape[1])
    x_UF = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=np.float32, shape=shape)
    for start in range(0, len(used_U), BLOCK):
        x_UF[start : start + BLOCK] = samples.x_MF[used_U[start : start + BLOCK]]
    x_UF.flush()
    columns: tuple[npt.NDArray[Any], ...] = (last_N, samples.y_NH, samples.weight_N)
    for name, column in zip(_FILES[1:], columns, strict=True):
        np.save(folder / f"{name}.npy", column, allow_pickle=False)
    (folder / "set.json").write_text(json.dumps({"window": window}), encoding="utf-8")


class BlockBatches:
    """Batches of a set in blocks, epoch after epoch; state and order as ``Batches`` has them.

    Each epoch has an order of its own, drawn from (seed, epoch): blocks are permuted, then the samples of each eight
    blocks in a row. So many are in memory at once.
    """

    def __init__(
        self,
        blocks: Blocks,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        mixed_blocks: int = MIXED_BLOCKS,
        augment: Augment | None = None,
    ) -> None:
        """Start at the first batch of epoch 0.

        Args:
            blocks: The set.
            batch_size: Samples a batch; the last one of an epoch may have fewer.
            seed: Of order and augmentation.
            shuffle: False keeps the order of the set, as validation wants it.
            mixed_blocks: Blocks whose samples are permuted together.
            augment: Changes a training batch, never a validation batch.
        """
        self._blocks, self._batch_size, self._seed = blocks, batch_size, seed
        self._shuffle, self._augment = shuffle, augment
        self._mixed = mixed_blocks if shuffle else 1
        self._epoch = self._batch = 0
        self._together: Batch | None = None

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return (sum(self._blocks.sizes) + self._batch_size - 1) // self._batch_size

    def __iter__(self) -> Iterator[Batch]:
        """Yield what is left of the epoch."""
        held: Batch | None = None
        size, skipped = self._batch_size, self._batch * self._batch_size
        ahead = max(1, GATHERED_ROWS // size) * size  # samples that are gathered at once
        for group, members in enumerate(self._groups()):
            count = sum(self._blocks.sizes[block] for block in members)
            if skipped >= count:
                skipped -= count
                continue
            together, order_K = self._read(members), self._order(group, members, count)[skipped:]
            first, skipped = 0, 0
            if held is not None:
                first = size - len(held.weight_B)
                held = Batch(*map(np.concatenate, zip(held, _taken(together, order_K[:first]), strict=True)))
                if len(held.weight_B) < size:
                    continue
                yield self._next(held)
            last = first + (len(order_K) - first) // size * size
            for start in range(first, last, ahead):
                gathered = _taken(together, order_K[start : min(start + ahead, last)])
                for place in range(0, len(gathered.weight_B), size):
                    yield self._next(Batch(*(column[place : place + size] for column in gathered)))
            held = _taken(together, order_K[last:]) if last < len(order_K) else None
        if held is not None:
            yield self._next(held)
        self._epoch, self._batch = self._epoch + 1, 0

    def state(self) -> dict[str, int]:
        """Return the place reached: epoch and batches of it already handed out."""
        return {"epoch": self._epoch, "batch": self._batch}

    def restore(self, state: dict[str, int]) -> None:
        """Go to a place that ``state`` returned, of an equal set, batch size and seed."""
        self._epoch, self._batch = state["epoch"], state["batch"]

    def _next(self, batch: Batch) -> Batch:
        if self._augment is not None:
            batch = self._augment(batch, np.random.default_rng([self._seed, self._epoch, 1 + self._batch]))
        self._batch += 1
        return batch

    def _groups(self) -> list[list[int]]:
        order = np.arange(len(self._blocks.sizes))
        if self._shuffle:
            order = np.random.default_rng([self._seed, self._epoch]).permutation(order)
        return [order[first : first + self._mixed].tolist() for first in range(0, len(order), self._mixed)]

    def _order(self, group: int, members: list[int], count: int) -> Int64:
        if not self._shuffle:
            return np.arange(count)
        return np.random.default_rng([self._seed, self._epoch, group, len(members)]).permutation(count)

    def _read(self, members: list[int]) -> Batch:
        """Return the samples of some blocks, in memory that the next ones take over: new memory costs as much again."""
        count, place = sum(self._blocks.sizes[block] for block in members), 0
        parts = map(self._blocks.read, members)
        first = next(parts)
        if self._together is None or len(self._together.weight_B) < count:
            self._together = Batch(*(np.empty((count, *column.shape[1:]), column.dtype) for column in first))
        for part in chain([first], parts):
            for column, values in zip(self._together, part, strict=True):
                column[place : place + len(values)] = values
            place += len(part.weight_B)
        return self._together


def _taken(samples: Batch, order_K: Int64) -> Batch:
    return Batch(*(np.take(column, order_K, axis=0) for column in samples))
