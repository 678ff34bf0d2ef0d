"""The topic ``features.<feature set>.v1``: an Arrow IPC stream a record, which holds feature rows of one partition."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from data_io.topics.admin import TopicSpec, log_topic
from data_io.topics.record_batch import Record
from data_io.topics.records import Header
from ml_core.errors import SchemaMismatchError
from ml_core.types import Float32, RowBatch

# 16 features make about 450 KB, below the broker's default message.max.bytes of 1 MB.
MAX_ROWS = 4096
MAX_RECORD_BYTES = 900_000
CONTENT_TYPE = b"application/vnd.apache.arrow.stream"
HASH_HEADER, FROM_HEADER, TO_HEADER = "tickwise.schema-hash", "tickwise.offset-from", "tickwise.offset-to"


_COLUMNS = [
    ("offset", pa.int64()),
    ("index", pa.int32()),
    ("symbol", pa.string()),
    ("ts", pa.int64()),
    ("mid", pa.float64()),
    ("spread", pa.float64()),
    ("flags", pa.uint8()),
]
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream


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

    def __init__(self, names: Sequence[str], hash: str, kernel_version: int) -> None:
        """Prepare what does not depend on the rows.

        Args:
            names: Their F features.
            hash: Of the feature schema.
            kernel_version: Of the kernel that computed them.
        """
        about = {"names": json.dumps(list(names)), "hash": hash, "kernel_version": str(kernel_version)}
        x_type = pa.list_(pa.float32(), len(names))
        self._schema = pa.schema([*_COLUMNS, ("x", x_type)], metadata=about)
        self._head = self._schema.serialize().to_pybytes()
        self._hash = hash.encode()
        self._step = max(1, min(MAX_ROWS, MAX_RECORD_BYTES // (64 + 4 * len(names))))
        self._symbols = pa.array([], pa.string())

    def encode(self, rows: RowBatch) -> list[Record]:
        """Return key (none), value and headers of as few records as their bounds allow, in order; no rows, no record.

        Args:
            rows: Rows in arrival order; their symbol table only grows from call to call.
        """
        if len(self._symbols) != len(rows.symbols):
            self._symbols = pa.array(rows.symbols, pa.string())
        return [self._record(rows, slice(at, at + self._step)) for at in range(0, len(rows), self._step)]

    def _record(self, rows: RowBatch, part: slice) -> Record:
        x_NF: Float32 = np.ascontiguousarray(rows.x_NF[part], np.float32)
        offset_N = rows.offset_N[part]
        columns = [pa.array(column[part]) for column in (rows.ts_ns_N, rows.mid_N, rows.spread_N, rows.flags_N)]
        columns = [
            pa.array(offset_N),
            pa.array(rows.index_N[part]),
            self._symbols.take(pa.array(rows.symbol_N[part])),
            *columns,
            pa.FixedSizeListArray.from_arrays(pa.array(x_NF.reshape(-1)), x_NF.shape[1]),
        ]
        body = pa.RecordBatch.from_arrays(columns, schema=self._schema).serialize()
        headers: list[Header] = [
            ("content-type", CONTENT_TYPE),
            (HASH_HEADER, self._hash),
            (FROM_HEADER, str(offset_N[0]).encode()),
            (TO_HEADER, str(offset_N[-1]).encode()),
        ]
        return None, b"".join((self._head, body, _END)), headers


def encode(rows: RowBatch, names: Sequence[str], hash: str, kernel_version: int) -> list[Record]:
    """Return the records of ``rows``, as a new ``RowEncoder`` of the same writes them."""
    return RowEncoder(names, hash, kernel_version).encode(rows)


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


def to_frame(rows: RowBatch, names: Sequence[str]) -> pd.DataFrame:
    """Return a frame of feature rows: place, symbol, time, prices and flags of each, then its features by name."""
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
        # to_numpy refuses nulls, which the cast lets through
        return batch.column(name).cast(kind).to_numpy(zero_copy_only=True)

    symbol = batch.column("symbol").dictionary_encode()
    return RowBatch(
        offset_N=column("offset", pa.int64()),
        index_N=column("index", pa.int32()),
        symbol_N=symbol.indices.cast(pa.int32()).to_numpy(zero_copy_only=True),
        ts_ns_N=column("ts", pa.int64()),
        mid_N=column("mid", pa.float64()),
        spread_N=column("spread", pa.float64()),
        x_NF=batch.column("x")
        .flatten()
        .cast(pa.float32())
        .to_numpy(zero_copy_only=True)
        .reshape(batch.num_rows, features),
        flags_N=column("flags", pa.uint8()),
        symbols=symbol.dictionary.to_pylist(),
    )
