"""Records as they are, byte for byte: how ticks are archived, so that rows can be computed from them again."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
from aiokafka import ConsumerRecord

from data_io.archive.columns import Chunk, Columns
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
    columns = [
        pa.array([record.offset for record in records], pa.int64()),
        pa.array([record.timestamp for record in records], pa.int64()).cast(SCHEMA.field("timestamp").type),
        pa.array([record.timestamp_type for record in records], pa.int8()),
        pa.array([record.key for record in records], pa.binary()),
        pa.array([record.value for record in records], pa.binary()),
        pa.array(
            [[{"key": key, "value": value} for key, value in record.headers] for record in records], pa.list_(_HEADER)
        ),
    ]
    yield Chunk(records[0].offset, pa.RecordBatch.from_arrays(columns, schema=SCHEMA))


def decode(batch: pa.RecordBatch) -> Records:
    """Return the columns ``READ`` as decoders take them."""
    offset, key, value, headers = (batch.column(each) for each in READ)
    found: list[tuple[Header, ...]] = [()] * len(headers)
    if len(headers.flatten()):
        found = [tuple((each["key"], each["value"]) for each in record) for record in headers.to_pylist()]
    return Records(offset.to_pylist(), key.to_pylist(), value.to_pylist(), found)


COLUMNS = Columns(encode, SCHEMA, dictionaries=("key",))
