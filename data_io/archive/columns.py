"""What a kind of topic is made of in Parquet, and how columns are made.

Shapes: N values.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from aiokafka import ConsumerRecord

from ml_core.types import Int32


class Chunk(NamedTuple):
    """Records of one schema."""

    first: int  # offset of the first record
    batch: pa.RecordBatch


class Columns(NamedTuple):
    """How records of one kind become columns; the first one is the offset of the record."""

    encode: Callable[[Sequence[ConsumerRecord]], Iterator[Chunk]]  # in log order
    schema: pa.Schema  # of a file without a record
    dictionaries: tuple[str, ...]  # columns with few values


def numbers(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Return ``values`` as they lie in memory; ``pa.array`` would import pandas, which takes a second and 30 MB."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def bytes_or_none(values: Sequence[bytes | None], kind: pa.DataType) -> pa.Array:
    """Return ``values`` as bytes, or as texts where they are UTF-8; None becomes null."""
    lengths_N = np.fromiter((len(value) if value else 0 for value in values), np.int32, len(values))
    there_N = np.fromiter((value is not None for value in values), np.bool_, len(values))
    buffers = [np.packbits(there_N, bitorder="little"), starts(lengths_N), b"".join(filter(None, values))]
    return pa.Array.from_buffers(kind, len(values), [pa.py_buffer(buffer) for buffer in buffers])


def starts(lengths_N: Int32) -> Int32:
    """Return where each of N things begins that lie one behind the other, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths_N, dtype=np.int32)])
