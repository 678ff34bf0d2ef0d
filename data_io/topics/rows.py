"""The topic ``features.<feature set>.v1``: an Arrow IPC stream a record, which holds feature rows of one partition."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from data_io.topics.admin import TopicSpec, log_topic
from data_io.topics.records import Header
from ml_core.errors import SchemaMismatchError
from ml_core.types import Float32, RowBatch

# 16 features make about 450 KB, below the broker's default message.max.bytes of 1 MB.
MAX_ROWS = 4096
MAX_RECORD_BYTES = 900_000
CONTENT_TYPE = b"application/vnd.apache.arrow.stream"
HASH_HEADER, FROM_HEADER, TO_HEADER = "tickwise.schema-hash", "tickwise.offset-from", "tickwise.offset-to"


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


def encode(
    rows: RowBatch,
    names: Sequence[str],
    hash: str,
    kernel_version: int,
) -> list[tuple[bytes | None, bytes, list[Header]]]:
    """Return key (none), value and headers of as few records as their bounds allow, in order; no rows, no record.

    Args:
        rows: Rows in arrival order.
        names: Their F features.
        hash: Of the feature schema.
        kernel_version: Of the kernel that computed them.
    """
    row_bytes = 64 + 4 * len(names)
    step = max(1, min(MAX_ROWS, MAX_RECORD_BYTES // row_bytes))
    about = {"names": json.dumps(list(names)), "hash": hash, "kernel_version": str(kernel_version)}
    return [_record(rows, slice(at, at + step), about) for at in range(0, len(rows), step)]


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


def _record(rows: RowBatch, part: slice, about: dict[str, str]) -> tuple[bytes | None, bytes, list[Header]]:
    used, place_N = np.unique(rows.symbol_N[part], return_inverse=True)
    x_NF: Float32 = np.ascontiguousarray(rows.x_NF[part], np.float32)
    offset_N = rows.offset_N[part]
    columns: dict[str, Any] = {
        "offset": pa.array(offset_N, pa.int64()),
        "index": pa.array(rows.index_N[part], pa.int32()),
        "symbol": pa.DictionaryArray.from_arrays(
            pa.array(place_N.astype(np.int32)), pa.array([rows.symbols[i] for i in used.tolist()], pa.string())
        ),
        "ts": pa.array(rows.ts_ns_N[part], pa.int64()),
        "mid": pa.array(rows.mid_N[part], pa.float64()),
        "spread": pa.array(rows.spread_N[part], pa.float64()),
        "flags": pa.array(rows.flags_N[part], pa.uint8()),
        "x": pa.FixedSizeListArray.from_arrays(pa.array(x_NF.reshape(-1), pa.float32()), x_NF.shape[1]),
    }
    batch = pa.RecordBatch.from_pydict(columns, metadata=about)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    headers: list[Header] = [
        ("content-type", CONTENT_TYPE),
        (HASH_HEADER, about["hash"].encode()),
        (FROM_HEADER, str(offset_N[0]).encode()),
        (TO_HEADER, str(offset_N[-1]).encode()),
    ]
    return None, sink.getvalue().to_pybytes(), headers


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
