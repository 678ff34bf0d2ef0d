"""Records as they are, byte for byte: how ticks are archived, so that rows can be computed from them again."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from aiokafka import ConsumerRecord

from data_io.archive.columns import Chunk, Columns, bytes_or_none, numbers, starts
from data_io.topics.records import Header, Records

_HEADER = pa.struct([("key", pa.string()), ("value", pa.binary())])
SCHEMA = pa.schema(
    [
        ("offset", pa.int64()),
        ("timestamp", pa.timestamp("ms", "UTC")),
        ("timestamp_type", pa.int8()),  # 0: stamped by the producer, 1: by the broker on arrival
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("headers", pa.list_(_HEADER)),
    ]
)
READ = ["offset", "key", "value", "headers"]


def encode(records: Sequence[ConsumerRecord]) -> Iterator[Chunk]:
    """Yield all of ``records`` as one chunk."""
    if not records:
        return
    n = len(records)
    columns = [
        numbers(np.fromiter((record.offset for record in records), np.int64, n), pa.int64()),
        numbers(np.fromiter((record.timestamp for record in records), np.int64, n), SCHEMA.field("timestamp").type),
        numbers(np.fromiter((record.timestamp_type for record in records), np.int8, n), pa.int8()),
        bytes_or_none([record.key for record in records], pa.binary()),
        bytes_or_none([record.value for record in records], pa.binary()),
        _headers(records),
    ]
    yield Chunk(records[0].offset, pa.RecordBatch.from_arrays(columns, schema=SCHEMA))


def decode(batch: pa.RecordBatch) -> Records:
    """Return the columns ``READ`` as decoders take them."""
    offset, key, value, headers = (batch.column(each) for each in READ)
    found: list[tuple[Header, ...]] = [()] * len(headers)
    if len(headers.flatten()):
        found = [tuple((each["key"], each["value"]) for each in record) for record in headers.to_pylist()]
    return Records(offset.to_pylist(), key.to_pylist(), value.to_pylist(), found)


def _headers(records: Sequence[ConsumerRecord]) -> pa.Array:
    lengths_N = np.fromiter((len(record.headers) for record in records), np.int32, len(records))
    pairs = [header for record in records for header in record.headers]
    keys = bytes_or_none([key.encode() for key, _ in pairs], pa.string())
    values = bytes_or_none([value for _, value in pairs], pa.binary())
    both = pa.Array.from_buffers(_HEADER, len(pairs), [None], children=[keys, values])
    places = pa.py_buffer(starts(lengths_N))
    return pa.Array.from_buffers(pa.list_(_HEADER), len(records), [None, places], children=[both])


COLUMNS = Columns(encode, SCHEMA, dictionaries=("key",))
