"""What a kind of topic is made of in Parquet."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
from aiokafka import ConsumerRecord


class Chunk(NamedTuple):
    """Records of one schema."""

    first: int  # offset of the first record
    batch: pa.RecordBatch


class Columns(NamedTuple):
    """How records of one kind become columns; the first one is the offset of the record."""

    encode: Callable[[Sequence[ConsumerRecord]], Iterator[Chunk]]  # in log order
    schema: pa.Schema  # of a file without a record
    dictionaries: tuple[str, ...]  # columns with few values
