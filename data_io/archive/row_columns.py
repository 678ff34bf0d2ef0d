"""Feature rows as columns: how they are archived, so that a notebook opens them as they are.

Shapes: N rows, F features.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
import structlog
from aiokafka import ConsumerRecord

from data_io.archive import metrics
from data_io.archive.columns import Chunk, Columns
from data_io.topics import rows
from data_io.topics.rows import DecodedRows
from ml_core.errors import SchemaMismatchError

log = structlog.get_logger()

_FIELDS = [
    ("record_offset", pa.int64()),  # in the topic of rows
    ("timestamp", pa.timestamp("ms", "UTC")),  # of that record
    ("offset", pa.int64()),  # of the tick
    ("index", pa.int32()),
    ("symbol", pa.string()),
    ("ts_ns", pa.int64()),
    ("mid", pa.float64()),
    ("spread", pa.float64()),
    ("flags", pa.uint8()),
]


def encode(records: Sequence[ConsumerRecord]) -> Iterator[Chunk]:
    """Yield a chunk for each run of records of one schema; what holds no rows is counted, logged and left out."""
    chunks = groupby(_each(records), key=lambda chunk: chunk.batch.schema.metadata)
    for _, run in chunks:
        first, *more = run
        yield Chunk(first.first, pa.concat_batches([first.batch, *(chunk.batch for chunk in more)]))


def _each(records: Sequence[ConsumerRecord]) -> Iterator[Chunk]:
    for record in records:
        try:
            found = rows.decode(record.value)
        except SchemaMismatchError as error:
            metrics.REFUSED.labels(record.topic).inc()
            place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
            log.error("a record holds no rows and is not archived", action="archive", error=str(error), **place)
            continue
        yield Chunk(record.offset, _batch(record, found))


def _batch(record: ConsumerRecord, found: DecodedRows) -> pa.RecordBatch:
    made, n = found.rows, len(found.rows)
    about = {"tickwise.schema-hash": found.hash, "tickwise.kernel-version": str(found.kernel_version)}
    schema = pa.schema([*_FIELDS, *((feature, pa.float32()) for feature in found.names)], metadata=about)
    symbol = pa.DictionaryArray.from_arrays(made.symbol_N, pa.array(made.symbols, pa.string()))
    columns = [
        np.full(n, record.offset),
        pa.array(np.full(n, record.timestamp), pa.timestamp("ms", "UTC")),
        made.offset_N,
        made.index_N,
        symbol.cast(pa.string()),
        made.ts_ns_N,
        made.mid_N,
        made.spread_N,
        made.flags_N,
        *np.ascontiguousarray(made.x_NF.T),
    ]
    return pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=schema)


COLUMNS = Columns(encode, pa.schema(_FIELDS), dictionaries=("symbol",))
