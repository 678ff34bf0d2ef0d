"""Feature rows as columns: how they are archived, so that a notebook opens them as they are.

Shapes: N rows, F features.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog
from aiokafka import ConsumerRecord

from data_io.archive import metrics
from data_io.archive.columns import Chunk, Columns, bytes_or_none, numbers
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
    chunks = groupby(_each(records), key=lambda chunk: (chunk.batch.schema.names, chunk.batch.schema.metadata))
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
    names = _columns(found.names)
    schema = pa.schema([*_FIELDS, *((name, pa.float32()) for name in names)], metadata=about)
    symbols = bytes_or_none([symbol.encode() for symbol in made.symbols], pa.string())
    known: dict[str, npt.NDArray[Any]] = {
        "record_offset": np.full(n, record.offset, np.int64),
        "timestamp": np.full(n, record.timestamp, np.int64),
        "offset": made.offset_N,
        "index": made.index_N,
        "ts_ns": made.ts_ns_N,
        "mid": made.mid_N,
        "spread": made.spread_N,
        "flags": made.flags_N,
    }
    known.update(zip(names, made.x_NF.T, strict=True))
    columns = {field.name: numbers(known[field.name], field.type) for field in schema if field.name != "symbol"}
    columns["symbol"] = pa.DictionaryArray.from_arrays(numbers(made.symbol_N, pa.int32()), symbols).cast(pa.string())
    return pa.RecordBatch.from_arrays([columns[field.name] for field in schema], schema=schema)


def _columns(features: Sequence[str]) -> list[str]:
    """Return a name of a column for each feature: its own, with ``feature.`` before it where it is taken.

    >>> _columns(["return:1s", "mid"])
    ['return:1s', 'feature.mid']
    """
    taken, names = {name for name, _ in _FIELDS}, []
    for feature in features:
        name = feature
        while name in taken:
            name = f"feature.{name}"
        taken.add(name)
        names.append(name)
    return names


COLUMNS = Columns(encode, pa.schema(_FIELDS), dictionaries=("symbol",))
