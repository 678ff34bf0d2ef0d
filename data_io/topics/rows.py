"""The topic ``features.<feature set>.v1``: an Arrow IPC stream a record, which holds feature rows of one partition."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from data_io.topics import arrow_records
from data_io.topics.admin import TopicSpec, log_topic
from data_io.topics.arrow_records import ArrowRecords
from data_io.topics.raw_records import RawFetch, unpack
from data_io.topics.record_batch import Record, RecordBatch, seal
from data_io.topics.tick_rules import MAX_SYMBOL_BYTES
from ml_core.errors import SchemaMismatchError
from ml_core.types import RowBatch, as_compiled

if TYPE_CHECKING:
    import pandas as pd

# 16 features make about 450 KB, below the broker's default message.max.bytes of 1 MB.
MAX_ROWS = 4096
MAX_RECORD_BYTES = 900_000
HASH_HEADER = "tickwise.schema-hash"
TOPIC_HEADER = "tickwise.topic-id"  # of the ticks: offset and index alone do not name a row

_COLUMNS = [
    ("offset", pa.int64()),
    ("index", pa.int32()),
    ("symbol", pa.string()),
    ("ts", pa.int64()),
    ("mid", pa.float64()),
    ("spread", pa.float64()),
    ("flags", pa.uint8()),
]
_PARTS = [
    arrow_records.texts() if kind == pa.string() else arrow_records.numbers(kind.bit_width // 8, source)
    for source, (_, kind) in enumerate(_COLUMNS)
]
_ROW_BYTES = 41 + MAX_SYMBOL_BYTES  # of a row beside its features, at most


class DecodedRows(NamedTuple):
    """Rows of one record, and what their features are."""

    rows: RowBatch
    names: tuple[str, ...]  # F feature names
    hash: str  # of the feature schema
    kernel_version: int


def name(feature_set: str) -> str:
    """Return the topic of the rows of ``feature_set``.

    >>> name("demo")
    'features.demo.v1'
    """
    return f"features.{feature_set}.v1"


def topic_spec(feature_set: str, partitions: int) -> TopicSpec:
    """Return the topic of the rows of ``feature_set``: as many partitions as the ticks have."""
    return log_topic(name(feature_set), partitions)


class RowEncoder:
    """Writes the rows of one feature set for one partition; it keeps what is the same for all of them."""

    def __init__(self, names: Sequence[str], hash: str, kernel_version: int, topic_id: str | None = None) -> None:
        """Prepare what does not depend on the rows.

        Args:
            names: Their F features.
            hash: Of the feature schema.
            kernel_version: Of the kernel that computed them.
            topic_id: Of the ticks; None says nothing of it.
        """
        about = {"names": json.dumps(list(names)), "hash": hash, "kernel_version": str(kernel_version)}
        schema = pa.schema([*_COLUMNS, ("x", pa.list_(pa.float32(), len(names)))], metadata=about)
        self._records = ArrowRecords(
            pa.RecordBatch.from_arrays([pa.nulls(1, field.type) for field in schema], schema=schema),
            [*_PARTS, arrow_records.lists(len(names), 4, source=len(_PARTS))],
            [(HASH_HEADER, hash.encode()), *([(TOPIC_HEADER, topic_id.encode())] if topic_id is not None else [])],
            max_rows=max(1, min(MAX_ROWS, MAX_RECORD_BYTES // (_ROW_BYTES + 4 * len(names)))),
        )

    def record_batches(self, rows: RowBatch) -> list[RecordBatch]:
        """Return record batches of as few records as their bounds allow, in order and ready to be sent.

        Args:
            rows: Rows in arrival order; their symbol table only grows from call to call.
        """
        columns = (
            as_compiled(rows.offset_N, np.int64),
            as_compiled(rows.index_N, np.int32),
            as_compiled(rows.symbol_N, np.int32),
            as_compiled(rows.ts_ns_N, np.int64),
            as_compiled(rows.mid_N, np.float64),
            as_compiled(rows.spread_N, np.float64),
            as_compiled(rows.flags_N, np.uint8),
            as_compiled(rows.x_NF, np.float32),
        )
        return self._records.record_batches(columns, rows.symbols)


def encode(rows: RowBatch, names: Sequence[str], hash: str, kernel_version: int) -> list[Record]:
    """Return key (none), value and headers of the records that a new ``RowEncoder`` of the same writes."""
    made: list[Record] = []
    for batch in RowEncoder(names, hash, kernel_version).record_batches(rows):
        seal(batch, producer_id=-1, epoch=-1, sequence=-1, transactional=False)
        records, _ = unpack(RawFetch(batch.data.tobytes(), 0, []))
        made += zip(records.key, records.value, map(list, records.headers), strict=True)
    return made


def warm_up() -> None:
    """Compile the kernel, or load it from numba's cache, so that the first batch does not wait."""
    long_1, int_1, double_1 = np.zeros(1, np.int64), np.zeros(1, np.int32), np.zeros(1)
    x_11, flags_1 = np.zeros((1, 1), np.float32), np.zeros(1, np.uint8)
    rows = RowBatch(long_1, int_1, int_1, long_1, double_1, double_1, x_11, flags_1, ["A"])
    RowEncoder(["a"], "", 0).record_batches(rows)


def decode(value: bytes | None) -> DecodedRows:
    """Return the rows of one record, with a symbol table of their own.

    Raises:
        SchemaMismatchError: The value is no record of this topic. A retry will not help.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(value or b"")) as stream:
            batch = stream.read_next_batch()
        batch.validate(full=True)
        about = {key.decode(): text.decode() for key, text in (batch.schema.metadata or {}).items()}
        names = tuple(json.loads(about["names"]))
        return DecodedRows(_rows(batch, len(names)), names, about["hash"], int(about["kernel_version"]))
    except (pa.ArrowException, KeyError, ValueError, TypeError, StopIteration, OSError) as error:
        raise SchemaMismatchError(f"the record holds no feature rows: {error}") from error


def to_frame(rows: RowBatch, names: Sequence[str]) -> "pd.DataFrame":
    """Return a frame of feature rows: place, symbol, time, prices and flags of each, then its features by name."""
    import pandas as pd  # 30 MB that a worker does without

    symbol_N = pd.Categorical.from_codes(rows.symbol_N, categories=pd.Index(list(rows.symbols)))
    known = {
        "offset": rows.offset_N,
        "index": rows.index_N,
        "symbol": symbol_N,
        "ts_ns": rows.ts_ns_N,
        "mid": rows.mid_N,
        "spread": rows.spread_N,
        "flags": rows.flags_N,
    }
    return pd.DataFrame(known | {feature: rows.x_NF[:, f] for f, feature in enumerate(names)})


def _rows(batch: pa.RecordBatch, features: int) -> RowBatch:
    def column(name: str, kind: pa.DataType) -> Any:
        return _numbers(batch.column(name).cast(kind))

    symbol = batch.column("symbol").dictionary_encode()
    return RowBatch(
        offset_N=column("offset", pa.int64()),
        index_N=column("index", pa.int32()),
        symbol_N=_numbers(symbol.indices.cast(pa.int32())),
        ts_ns_N=column("ts", pa.int64()),
        mid_N=column("mid", pa.float64()),
        spread_N=column("spread", pa.float64()),
        x_NF=_numbers(batch.column("x").flatten().cast(pa.float32())).reshape(batch.num_rows, features),
        flags_N=column("flags", pa.uint8()),
        symbols=symbol.dictionary.to_pylist(),
    )


def _numbers(column: pa.Array) -> Any:
    """Return ``column`` as it lies in memory; its own ``to_numpy`` imports pandas."""
    if column.null_count:  # which a cast lets through
        raise ValueError("a column holds nulls")
    name = {"float": "float32", "double": "float64"}.get(str(column.type), str(column.type))
    whole = np.frombuffer(column.buffers()[1] or b"", np.uint8)
    size = np.dtype(name).itemsize
    return whole[column.offset * size : (column.offset + len(column)) * size].view(name)
