"""Predictions as Arrow say what they say as JSON, in the bytes that pyarrow would write."""

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_io.topics import predictions
from data_io.topics.prediction_arrow import MAX_ROWS, ArrowPredictionEncoder
from data_io.topics.predictions import PredictionBatch, PredictionEncoder
from data_io.topics.raw_records import RawFetch, unpack
from data_io.topics.record_batch import BATCH_BYTES, HEADER_BYTES, RecordBatch, seal
from ml_core.errors import SchemaMismatchError
from ml_core.spec import format_duration
from ml_core.types import RowFlag

SECOND_NS = 10**9
HORIZONS_NS = [10 * SECOND_NS, 90 * SECOND_NS, 20_000_000]
SYMBOLS = ["UNUSED", "A", 'Ä"1', "BTC-USDT", "𝄞" * 16]
REASONS = ["no_calendar", "closed", "no_price", "warm_up", "gap", "stale", "late", "ahead", "window", "no_score"]
ARROW = [("content-type", b"application/vnd.apache.arrow.stream")]


def batch_of(count: int, *, horizons: int = 1, seed: int = 0, bad: float = 0.2) -> PredictionBatch:
    """Predictions of which about ``bad`` are abstained from, each for a reason of its own."""
    rng = np.random.default_rng(seed)
    score_NH = rng.normal(size=(count, horizons)).astype(np.float32)
    score_NH[rng.random((count, horizons)) < bad / 4] = np.nan
    score_NH[rng.random((count, horizons)) < bad / 8] = -np.inf
    return PredictionBatch(
        offset_N=np.cumsum(rng.integers(0, 1000, count)),
        index_N=rng.integers(0, 2**31 - 1, count).astype(np.int32),
        symbol_N=rng.integers(1, len(SYMBOLS), count).astype(np.int32),
        ts_ns_N=rng.integers(0, 2**62, count),
        score_NH=score_NH,
        flags_N=np.where(rng.random(count) < bad / 2, rng.integers(0, 256, count), 0).astype(np.uint8),
        window_ok_N=rng.random(count) >= bad / 4,
        symbols=SYMBOLS,
    )


def encoder(kind: type, horizons: int = 1):
    return kind(topic_id="a-b_c", partition=7, horizons_ns=HORIZONS_NS[:horizons], model="btc", version=300)


def records_of(made: list[RecordBatch]) -> list[tuple]:
    """Key, value and headers of each record, as a consumer gets them."""
    found = []
    for batch in made:
        seal(batch, producer_id=7, epoch=1, sequence=0, transactional=True)
        records, _ = unpack(RawFetch(batch.data.tobytes(), 0, []))
        found += zip(records.key, records.value, map(list, records.headers), strict=True)
    return found


def as_json(batch: PredictionBatch, horizons: int) -> list[dict]:
    return [json.loads(value) for _, value in encoder(PredictionEncoder, horizons).values(batch)]


def by_pyarrow(batch: PredictionBatch, said: list[dict], horizons: int) -> bytes:
    """The value of one record with the columns that ``said``, the same predictions as JSON, leads to."""
    names = [format_duration(horizon) for horizon in HORIZONS_NS[:horizons]]

    def of_few(values: list[str], code_N: list[int | None]) -> pa.Array:
        # Where a code is null, 0 stands under it.
        codes = pa.array([code or 0 for code in code_N], pa.int8())
        null_N = pa.array([code is None for code in code_N])
        return pa.DictionaryArray.from_arrays(with_nulls(codes, null_N), pa.array(values))

    def with_nulls(values: pa.Array, null_N: pa.Array) -> pa.Array:
        if not any(null_N.to_pylist()):
            return values
        bits = pa.compute.invert(null_N).buffers()[1]
        return pa.Array.from_buffers(values.type, len(values), [bits, values.buffers()[1]])

    def numbers(scores: list[float | None]) -> pa.Array:
        values = pa.array([0 if score is None else score for score in scores], pa.float32())
        return with_nulls(values, pa.array([score is None for score in scores]))

    zero_N, n = [0] * len(said), len(said)
    columns = {
        "topic_id": of_few(["a-b_c"], zero_N),
        "partition": pa.array([7] * n, pa.int32()),
        "offset": pa.array(batch.offset_N, pa.int64()),
        "index": pa.array(batch.index_N, pa.int32()),
        "symbol": pa.array([each["symbol"] for each in said]),
        "ts": pa.array(batch.ts_ns_N, pa.int64()),
        "horizon": of_few(names[:1], zero_N),
        "score": numbers([each["score"] for each in said]),
    }
    if horizons > 1:
        parts = [numbers([each["scores"][name] for each in said]) for name in names]
        columns["scores"] = pa.StructArray.from_arrays(parts, names)
    columns |= {
        "model": of_few(["btc"], zero_N),
        "version": pa.array([300] * n, pa.int32()),
        "status": of_few(["abstained", "ok"], [int(each["status"] == "ok") for each in said]),
        "reason": of_few(REASONS, [each["reason"] and REASONS.index(each["reason"]) for each in said]),
    }
    made = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, made.schema) as stream:
        stream.write_batch(made)
    return sink.getvalue().to_pybytes()


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 70),
    horizons=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    bad=st.sampled_from([0.0, 0.1, 0.9]),
)
@example(count=1, horizons=1, seed=0, bad=0.0)
@example(count=64, horizons=2, seed=1, bad=0.5)
def test_a_record_is_what_pyarrow_writes_and_says_what_json_says(
    count: int, horizons: int, seed: int, bad: float
) -> None:
    batch = batch_of(count, horizons=horizons, seed=seed, bad=bad)
    said = as_json(batch, horizons)

    [(key, value, headers)] = records_of(encoder(ArrowPredictionEncoder, horizons).record_batches(batch))

    first, last = (str(batch.offset_N[n]).encode() for n in (0, -1))
    assert (key, headers) == (None, [*ARROW, ("tickwise.offset-from", first), ("tickwise.offset-to", last)])
    assert value == by_pyarrow(batch, said, horizons)
    assert predictions.decode(value, headers) == said


@pytest.mark.parametrize("count", [MAX_ROWS, MAX_ROWS + 1, 9000, 60_000])
def test_many_predictions_are_cut_into_records_and_batches_within_their_bounds(count: int) -> None:
    batch = batch_of(count, seed=count)

    made = encoder(ArrowPredictionEncoder).record_batches(batch)

    assert max(len(each.data) for each in made) <= HEADER_BYTES + BATCH_BYTES
    assert all(len(one.data) + len(next_one.data) > BATCH_BYTES for one, next_one in pairwise(made))
    found = [predictions.decode(value, headers) for _, value, headers in records_of(made)]
    assert [len(each) for each in found] == [min(MAX_ROWS, count - at) for at in range(0, count, MAX_ROWS)]
    assert [each for part in found for each in part] == as_json(batch, 1)


def test_every_reason_is_told() -> None:
    flags = [RowFlag[name.upper()] for name in REASONS[:-2]] + [0, 0, 0]
    batch = batch_of(11, bad=0)._asdict() | {"flags_N": np.array(flags, np.uint8)}
    batch |= {"window_ok_N": np.arange(11) != 8, "score_NH": np.array([[1.0]] * 9 + [[np.nan], [0.1]], np.float32)}

    [(_, value, headers)] = records_of(encoder(ArrowPredictionEncoder).record_batches(PredictionBatch(**batch)))

    found = predictions.decode(value, headers)
    assert [each["reason"] for each in found] == [*REASONS, None]
    assert [each["score"] for each in found] == [None] * 10 + [0.1]


def test_a_frame_of_pandas_has_numbers_and_categories() -> None:
    batch = batch_of(500, seed=3)
    [(_, value, _)] = records_of(encoder(ArrowPredictionEncoder).record_batches(batch))
    with pa.ipc.open_stream(value) as stream:
        frame = stream.read_pandas()
    ok = [each["status"] == "ok" for each in as_json(batch, 1)]
    np.testing.assert_array_equal(frame["score"], np.where(ok, batch.score_NH[:, 0], np.nan))
    assert (frame["model"].unique().tolist(), frame["topic_id"].unique().tolist()) == (["btc"], ["a-b_c"])
    assert frame["status"].value_counts().to_dict() == {"ok": sum(ok), "abstained": len(ok) - sum(ok)}


def test_no_rows_make_no_records() -> None:
    assert encoder(ArrowPredictionEncoder).record_batches(batch_of(0)) == []


@pytest.mark.parametrize("headers", [ARROW, []])
@pytest.mark.parametrize("value", [None, b"", b"junk"])
def test_what_is_no_record_of_predictions_is_refused(value: bytes | None, headers: list) -> None:
    with pytest.raises(SchemaMismatchError, match="prediction"):
        predictions.decode(value, headers)


def test_a_cut_record_is_refused() -> None:
    [(_, value, headers)] = records_of(encoder(ArrowPredictionEncoder).record_batches(batch_of(50)))
    for kept in range(0, len(value) - 8, 97):
        with pytest.raises(SchemaMismatchError):
            predictions.decode(value[:kept], headers)
