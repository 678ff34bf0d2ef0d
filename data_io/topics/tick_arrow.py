"""Reads ticks from an Arrow IPC stream in the value of one record."""

import pyarrow as pa

from data_io.topics.records import Header
from data_io.topics.tick_rules import FIELDS, BadTickError, shorten

CONTENT_TYPE = "application/vnd.apache.arrow.stream"
# Bounds what one record can make this process hold: a repeated value costs an Arrow stream next to nothing.
MAX_ROWS = 65_536


def is_arrow(headers: tuple[Header, ...]) -> bool:
    """Return whether ``headers`` declare an Arrow stream."""
    return any(name.lower() == "content-type" and value == CONTENT_TYPE.encode() for name, value in headers)


def read_rows(value: bytes | None) -> list[dict[str, object]]:
    """Return the rows of ``value`` as fields of a tick, in order; ``ts`` may be an integer or a timestamp.

    Raises:
        BadTickError: The stream as a whole cannot be read.
    """
    if value is None:
        raise BadTickError("null_value", "the record has no value")
    try:
        return [row for batch in _batches(value) for row in batch.to_pylist()]
    except (pa.ArrowException, ValueError, TypeError, KeyError, OverflowError, OSError) as error:
        raise BadTickError("bad_arrow", f"{type(error).__name__}: {shorten(str(error))}") from None


def _batches(value: bytes) -> list[pa.RecordBatch]:
    found, rows = [], 0
    with pa.ipc.open_stream(pa.py_buffer(value)) as stream:
        for batch in stream:
            rows += batch.num_rows
            if rows > MAX_ROWS:
                raise BadTickError("too_large", f"the record holds more than {MAX_ROWS} ticks")
            batch.validate(full=True)
            found.append(_plain(batch))
    return found


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    names = [name for name in FIELDS if name in batch.schema.names]
    columns = [batch.column(name) for name in names]
    for i, column in enumerate(columns):
        if pa.types.is_timestamp(column.type):
            columns[i] = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
    return pa.RecordBatch.from_arrays(columns, names=names)
