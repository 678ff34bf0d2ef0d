"""Predictions as Arrow: a record holds an Arrow IPC stream of many rows, in place of one JSON record for each.

Shapes: N rows, H horizons.
"""

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import pyarrow as pa

from data_io.topics import arrow_records as arrow
from data_io.topics.arrow_kernel import Fill
from data_io.topics.prediction_batch import NO_SCORE, STATE_OF_FLAGS, STATES, WINDOW, PredictionBatch, row_id
from data_io.topics.record_batch import RecordBatch
from ml_core.compiled import njit
from ml_core.errors import SchemaMismatchError
from ml_core.spec import format_duration
from ml_core.types import Float32, UInt8, as_compiled

# About 60 bytes each; with symbols as long as they may be, below the broker's default message.max.bytes of 1 MB.
MAX_ROWS = 4096
_STATUSES, _OK = ("abstained", "ok"), 1
# Sources of the kernel, in the order in which ``record_batches`` gives them; 0 and 2 are those that it knows.
_OFFSET, _INDEX, _SYMBOL, _TS, _STATUS, _REASON, _SCORE = range(7)


class ArrowPredictionEncoder:
    """Writes the predictions of one model for one partition; it keeps what is the same for all of them.

    The columns are the fields of JSON, save that the parts of ``id`` are columns of their own: ``topic_id``,
    ``partition``, ``offset`` and ``index``. Texts of few values are dictionaries. A score that JSON gives as null is
    null here too.
    """

    def __init__(self, *, topic_id: str, partition: int, horizons_ns: Sequence[int], model: str, version: int) -> None:
        """Prepare what does not depend on the row; the arguments are those of ``PredictionEncoder``."""
        self.version = version
        horizons = [format_duration(horizon) for horizon in horizons_ns]
        scores = [arrow.numbers(4, _SCORE, part, null=Fill.NULL_WHERE_0, ok=_STATUS) for part in range(len(horizons))]
        reason = arrow.numbers(1, _REASON, null=Fill.NULL_WHERE_1, ok=_STATUS)
        first = arrow.same(1, 0)  # the only entry of a dictionary
        several: dict[str, tuple[pa.Array, arrow.Part]] = {}
        if len(horizons) > 1:
            kind = pa.struct([(horizon, pa.float32()) for horizon in horizons])
            several["scores"] = (pa.nulls(1, kind), arrow.struct_of(scores))
        columns: dict[str, tuple[pa.Array, arrow.Part]] = {
            "topic_id": (_of_few([topic_id]), first),
            "partition": (pa.nulls(1, pa.int32()), arrow.same(4, partition)),
            "offset": (pa.nulls(1, pa.int64()), arrow.numbers(8, _OFFSET)),
            "index": (pa.nulls(1, pa.int32()), arrow.numbers(4, _INDEX)),
            "symbol": (pa.nulls(1, pa.string()), arrow.texts()),
            "ts": (pa.nulls(1, pa.int64()), arrow.numbers(8, _TS)),
            "horizon": (_of_few(horizons[:1]), first),
            "score": (pa.nulls(1, pa.float32()), scores[0]),
            **several,
            "model": (_of_few([model]), first),
            "version": (pa.nulls(1, pa.int32()), arrow.same(4, version)),
            "status": (_of_few(_STATUSES), arrow.numbers(1, _STATUS)),
            "reason": (_of_few(STATES[1:]), reason),
        }
        arrays, parts = zip(*columns.values(), strict=True)
        example = pa.RecordBatch.from_arrays(list(arrays), names=list(columns))
        self._records = arrow.ArrowRecords(example, parts, [], max_rows=MAX_ROWS)

    def record_batches(self, batch: PredictionBatch) -> list[RecordBatch]:
        """Return record batches of at most BATCH_BYTES, ready to be sent; their records have no key."""
        score_NH = as_compiled(batch.score_NH, np.float32)
        rows, horizons = score_NH.shape
        state_2N, score_HN = np.empty((2, rows), np.uint8), np.empty((horizons, rows), np.float32)
        flags_N, window_ok_N = as_compiled(batch.flags_N, np.uint8), as_compiled(batch.window_ok_N, np.bool_)
        _judge(score_NH, flags_N, window_ok_N, STATE_OF_FLAGS, WINDOW, NO_SCORE, state_2N, score_HN)
        columns = (
            as_compiled(batch.offset_N, np.int64),
            as_compiled(batch.index_N, np.int32),
            as_compiled(batch.symbol_N, np.int32),
            as_compiled(batch.ts_ns_N, np.int64),
            state_2N[0],
            state_2N[1],
            score_HN,
        )
        return self._records.record_batches(columns, batch.symbols)


def decode(value: bytes | None) -> list[dict[str, Any]]:
    """Return the predictions of one record, with the fields that JSON has; a score is the shortest decimal, as there.

    Raises:
        SchemaMismatchError: The value is no record of predictions. A retry will not help.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(value or b"")) as stream:
            table = stream.read_all()
        table.validate(full=True)
        return [_fields(row) for row in table.to_pylist()]
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise SchemaMismatchError(f"the record holds no predictions: {error}") from error


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache, so that the first batch does not wait."""
    long_1, int_1 = np.zeros(1, np.int64), np.zeros(1, np.int32)
    score_11, flags_1, ok_1 = np.zeros((1, 1), np.float32), np.zeros(1, np.uint8), np.zeros(1, np.bool_)
    batch = PredictionBatch(long_1, int_1, int_1, long_1, score_11, flags_1, ok_1, ["A"])
    ArrowPredictionEncoder(topic_id="", partition=0, horizons_ns=[1], model="", version=0).record_batches(batch)


def _of_few(values: Sequence[str]) -> pa.Array:
    """Return one row of a column that has only these values."""
    texts = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    # pa.array would import pandas, which takes 30 MB of a worker's memory.
    array = pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))
    return pa.DictionaryArray.from_arrays(pa.nulls(1, pa.int8()), array)


@njit(cache=True, nogil=True)
def _judge(
    score_NH: Float32,
    flags_N: UInt8,
    window_ok_N: Any,
    state_F: UInt8,
    window: int,
    no_score: int,
    out_2N: UInt8,
    score_HN: Float32,
) -> None:
    """Write for each row status and reason, as places in their dictionaries, and its scores, or 0 where it has none."""
    rows, horizons = score_NH.shape
    for n in range(rows):
        state = numba.int64(state_F[flags_N[n]])
        if state == 0 and not window_ok_N[n]:
            state = window
        if state == 0:
            for h in range(horizons):
                if not np.isfinite(score_NH[n, h]):
                    state = no_score
        out_2N[0, n] = state == 0
        out_2N[1, n] = max(state - 1, 0)
        for h in range(horizons):
            score_HN[h, n] = score_NH[n, h] if state == 0 else np.float32(0)


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    name = row_id(row["topic_id"], row["partition"], row["offset"], row["index"])
    fields = {"id": name, "symbol": row["symbol"], "ts": row["ts"], "horizon": row["horizon"]}
    fields["score"] = _shortest(row["score"])
    if "scores" in row:
        fields["scores"] = {horizon: _shortest(score) for horizon, score in row["scores"].items()}
    return fields | {key: row[key] for key in ("model", "version", "status", "reason")}


def _shortest(score: float | None) -> float | None:
    """Return the number that a reader of JSON gets for a float32."""
    return None if score is None else float(str(np.float32(score)))
