import json
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_io.topics import predictions
from data_io.topics.predictions import PredictionBatch, PredictionEncoder
from data_io.topics.raw_records import RawFetch, unpack
from data_io.topics.record_batch import seal
from ml_core.types import RowFlag

SECOND_NS = 10**9


def batch_of(
    scores: list[list[float]], flags: list[int] | None = None, window_ok: list[bool] | None = None
) -> PredictionBatch:
    n = len(scores)
    return PredictionBatch(
        offset_N=np.arange(n) + 40,
        index_N=np.arange(n, dtype=np.int32),
        symbol_N=np.zeros(n, np.int32) + 1,
        ts_ns_N=np.arange(n) + 1_723_075_200_000_000_000,
        score_NH=np.array(scores, np.float32).reshape(n, -1),
        flags_N=np.array(flags or [0] * n, np.uint8),
        window_ok_N=np.array(window_ok or [True] * n),
        symbols=["UNUSED", 'Ä"1'],
    )


def values(batch: PredictionBatch, horizons_ns: tuple[int, ...] = (SECOND_NS,)) -> list[tuple[bytes, bytes]]:
    return predictions.encode(batch, topic_id="a-b_c", partition=2, horizons_ns=horizons_ns, model="btc", version=3)


def encode(batch: PredictionBatch, horizons_ns: tuple[int, ...] = (SECOND_NS,)) -> list[tuple[bytes, dict]]:
    return [(key, json.loads(value)) for key, value in values(batch, horizons_ns)]


def test_a_prediction_is_named_after_its_tick() -> None:
    assert encode(batch_of([[0.25], [-1.5]])) == [
        (
            'Ä"1'.encode(),
            {
                "id": predictions.row_id("a-b_c", 2, 40 + i, i),
                "symbol": 'Ä"1',
                "ts": 1_723_075_200_000_000_000 + i,
                "horizon": "1s",
                "score": score,
                "model": "btc",
                "version": 3,
                "status": "ok",
                "reason": None,
            },
        )
        for i, score in enumerate([0.25, -1.5])
    ]


def test_several_horizons_have_a_score_each() -> None:
    [(_, ok), (_, abstained)] = encode(batch_of([[0.5, 0.25], [1, 2]], [0, RowFlag.GAP]), (SECOND_NS, 90 * SECOND_NS))
    assert (ok["horizon"], ok["score"], ok["scores"]) == ("1s", 0.5, {"1s": 0.5, "90s": 0.25})
    assert (abstained["score"], abstained["scores"]) == (None, {"1s": None, "90s": None})


@pytest.mark.parametrize(
    ("flags", "window_ok", "score", "reason"),
    [
        (RowFlag.WARM_UP, True, 1.0, "warm_up"),
        (RowFlag.GAP, True, 1.0, "gap"),
        (RowFlag.NO_PRICE, True, 1.0, "no_price"),
        (RowFlag.STALE, True, 1.0, "stale"),
        (RowFlag.LATE, True, 1.0, "late"),
        (RowFlag.AHEAD, True, 1.0, "ahead"),
        (RowFlag.CLOSED, True, 1.0, "closed"),
        (RowFlag.NO_CALENDAR | RowFlag.WARM_UP, True, 1.0, "no_calendar"),
        (RowFlag.NO_CALENDAR | RowFlag.AHEAD, True, 1.0, "ahead"),
        (RowFlag.NO_CALENDAR | RowFlag.LATE, True, 1.0, "late"),
        (0, False, 1.0, "window"),
        (0, True, np.nan, "no_score"),
        (0, True, np.inf, "no_score"),
        (RowFlag.NO_PRICE | RowFlag.WARM_UP | RowFlag.GAP, False, np.nan, "no_price"),
    ],
)
def test_an_abstained_row_says_why_and_has_no_score(flags: int, window_ok: bool, score: float, reason: str) -> None:
    [(_, value)] = encode(batch_of([[score]], [flags], [window_ok]))
    assert (value["status"], value["reason"], value["score"]) == ("abstained", reason, None)


def test_no_rows_make_no_records() -> None:
    *columns, symbols = batch_of([[0.0]])
    assert encode(PredictionBatch(*(column[:0] for column in columns), symbols=symbols)) == []


def test_record_batches_hold_the_same_records_and_stay_below_their_bound() -> None:
    rng = np.random.default_rng(5)
    n = 12_000
    batch = batch_of(rng.normal(size=(n, 1)).tolist(), rng.choice([0, 0, 0, 2], n).tolist())
    encoder = PredictionEncoder(topic_id="a-b_c", partition=2, horizons_ns=(SECOND_NS,), model="btc", version=3)

    made = encoder.record_batches(batch)

    assert len(made) > 1
    assert max(len(each.data) for each in made) <= 1_000_100
    found = []
    for each in made:
        seal(each, producer_id=7, epoch=1, sequence=0, transactional=True)
        records, _ = unpack(RawFetch(each.data.tobytes(), 0, []))
        found += zip(records.key, records.value, strict=True)
    assert found == encoder.values(batch)


@given(scores=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_a_score_reads_back_as_the_same_float32(scores: list[float]) -> None:
    batch = batch_of([[score] for score in scores])
    found = np.array([value["score"] for _, value in encode(batch)], np.float32)
    assert found.tobytes() == batch.score_NH.tobytes()


@given(scores=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
@example(scores=[2097152.25, 2097152.75])  # as far from one decimal as from the next
@example(scores=[float(f"1.2345678e{power}") for power in range(-37, 39)])
def test_a_score_has_no_digit_more_than_it_needs(scores: list[float]) -> None:
    batch = batch_of([[score] for score in scores])
    written = [json.loads(value, parse_float=Decimal)["score"] for _, value in values(batch)]
    assert written == [Decimal(np.format_float_scientific(score)) for score in batch.score_NH[:, 0]]


@given(
    places=st.lists(
        st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**31 - 1), st.integers(1 - 2**63, 2**63 - 1)), min_size=1
    )
)
@example(places=[(10**n + d, (10**n + d) % 2**31, 10**n + d) for n in range(19) for d in (-1, 0)])
def test_numbers_of_any_size_are_written_to_the_last_digit(places: list[tuple[int, int, int]]) -> None:
    offsets, indices, times = zip(*places, strict=True)
    *columns, symbols = batch_of([[0.5]] * len(places))
    columns[:2] = [np.array(offsets), np.array(indices, np.int32)]
    columns[3] = np.array(times)

    found = encode(PredictionBatch(*columns, symbols=symbols))

    assert [(value["id"], value["ts"]) for _, value in found] == [
        (predictions.row_id("a-b_c", 2, offset, index), ts) for offset, index, ts in places
    ]


def test_symbols_that_come_later_are_written_by_the_same_encoder() -> None:
    encoder = PredictionEncoder(topic_id="a-b_c", partition=2, horizons_ns=(SECOND_NS,), model="btc", version=3)
    *columns, symbols = batch_of([[0.5]])
    columns[2] = np.array([2], np.int32)
    names = [*symbols, "x" * 9000]  # its records need lengths of three bytes
    encoder.values(batch_of([[0.5]]))

    [(key, value)] = encoder.values(PredictionBatch(*columns, symbols=names))
    [made] = encoder.record_batches(PredictionBatch(*columns, symbols=names))

    assert (key, json.loads(value)["symbol"]) == (names[2].encode(), names[2])
    seal(made, producer_id=7, epoch=1, sequence=0, transactional=False)
    records, _ = unpack(RawFetch(made.data.tobytes(), 0, []))
    assert (records.key, records.value) == ([key], [value])
