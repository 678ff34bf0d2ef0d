"""The benchmark's check of outputs: what the worker writes passes, and anything a little wrong is refused.

The right output comes from the path under test. The oracle takes features and flags from the same kernel, in float64,
and computes the network on its own; what the kernel makes is compared with its formulas, a sample of each workload.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from data_io.topics import predictions
from data_io.topics.raw_records import FoundRecords, RawFetch, find
from ml_core.contract import ModelContract, Scaler
from ml_core.data_processor import features, kernels
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.data_processor.scaling import fit_scaler, scale
from ml_core.spec import load
from ml_core.types import Float64, RowBatch, RowFlag, SymbolTable, TickBatch, UInt8
from model_ops_manager.scoring import ABSTAIN
from tests.benchmarks import kernel_check, oracle, slots, workload
from tests.benchmarks.oracle import Judge, Network, WrongOutputError

TICKS, PARTITION, TOPIC_ID = 90_000, 2, "NxrSSrYXQSGq5VVnQ1bVIA"
SPEC = load(workload.PIPELINE)
Record = tuple[bytes, bytes]


@pytest.fixture(scope="module")
def work():
    return workload.make(TICKS)


@pytest.fixture(scope="module")
def rows(work) -> RowBatch:
    """Rows of one partition, made by the kernel that the worker runs."""
    *columns, symbols = work.ticks
    mine = work.of_partition(PARTITION)
    ticks = TickBatch(*(column[mine] for column in columns), symbols)
    return features.step(ticks, FeatureState(FeaturePlan.from_spec(SPEC), SymbolTable(symbols)))


@pytest.fixture(scope="module")
def model(tmp_path_factory, rows):
    """A folder as `tests.benchmarks.model` leaves it, and the scores of its network in float32."""
    folder = tmp_path_factory.mktemp("model")
    scaler = fit_scaler(rows.x_NF[(rows.flags_N & ABSTAIN) == 0])
    rng = np.random.default_rng(0)
    shapes = {"layers.1": (64, 16), "layers.4": (32, 64), "layers.7": (1, 32)}
    weights = {
        f"{name}.{part}": (rng.standard_normal(shape if part == "weight" else shape[:1]) * 0.2).astype(np.float32)
        for name, shape in shapes.items()
        for part in ("weight", "bias")
    }
    np.savez(folder / "weights.npz", **weights)
    (folder / "contract.json").write_text(_contract(scaler).model_dump_json(), encoding="utf-8")
    hidden = scale(rows.x_NF, scaler)
    for name in shapes:
        hidden = hidden @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        hidden = np.maximum(hidden, np.float32(0)) if name != "layers.7" else hidden
    return folder, hidden.astype(np.float32)


@pytest.fixture(scope="module")
def right(rows, model) -> list[Record]:
    """Predictions as the worker encodes them."""
    _, score_NH = model
    score_NH = np.where(((rows.flags_N & ABSTAIN) != 0)[:, None], np.float32(np.nan), score_NH)
    numbered = np.arange(len(rows), dtype=np.int64)
    batch = predictions.PredictionBatch(
        offset_N=numbered,
        index_N=np.zeros(len(rows), np.int32),
        symbol_N=rows.symbol_N,
        ts_ns_N=rows.ts_ns_N,
        score_NH=score_NH,
        flags_N=rows.flags_N,
        window_ok_N=np.ones(len(rows), np.bool_),
        symbols=rows.symbols,
    )
    return predictions.encode(
        batch, topic_id=TOPIC_ID, partition=PARTITION, horizons_ns=SPEC.label.horizons, model="bench", version=1
    )


@pytest.fixture(scope="module")
def expected(work, model) -> oracle.Expected:
    return oracle.expected_of(work, PARTITION, 1, SPEC, Network(model[0]))


def judge(records: list[Record], expected: oracle.Expected) -> None:
    """Judge records in the way they come from Kafka, in two fetches."""
    judge = Judge(expected, topic_id=TOPIC_ID, partition=PARTITION, spec=SPEC)
    half = len(records) // 2
    for part in (records[:half], records[half:]):
        judge.take(fetched(part))


def fetched(records: list[Record]) -> FoundRecords:
    # the batch builder of the benchmark looks for the time of a tick, and a prediction has one too
    raw = bytearray(slots._batch(records)[0])
    raw[17:21] = slots.calc_crc32c(memoryview(raw)[21:]).to_bytes(4, "big")
    return find(RawFetch(bytes(raw), 0, []))


def changed(record: Record, **changes: object) -> Record:
    key, value = record
    return key, json.dumps(json.loads(value) | changes).encode()


def test_what_the_worker_writes_passes_and_most_of_it_is_scored(right, expected) -> None:
    judge(right, expected)

    assert len(right) == len(expected) > 20_000
    assert 0.3 < np.isfinite(expected.score_N).mean() < 1  # some are still warming up


def test_output_that_stops_early_passes_as_far_as_it_goes(right, expected) -> None:
    judge(right[:1000], expected)


def test_spaces_and_longer_decimals_are_no_fault(right, expected) -> None:
    judge([changed(record) for record in right], expected)


WRONG: dict[str, tuple[str, Callable[[list[Record]], list[Record]]]] = {
    "one is missing": ("its key is not|id is", lambda r: [*r[:-2], r[-1]]),
    "one comes twice": ("its key is not|id is", lambda r: [*r[:-1], r[-2]]),
    "two changed places": ("its key is not|id is", lambda r: [*r[:-2], r[-1], r[-2]]),
    "one too many": ("more predictions than ticks", lambda r: [*r, r[-1]]),
    "the key of another symbol": ("its key is not its symbol", lambda r: [*r[:-1], (b"SYN", r[-1][1])]),
    "another symbol": ("symbol is", lambda r: [*r[:-1], changed(r[-1], symbol="SYN99x")]),
    "another time": ("ts is", lambda r: [*r[:-1], changed(r[-1], ts=1)]),
    "another model": ("model and version", lambda r: [*r[:-1], changed(r[-1], version=2)]),
    "a score a little off": ("score is", lambda r: [*r[:-1], changed(r[-1], score=_score(r[-1]) * 1.0005 + 2e-5)]),
    "no score": ("score is", lambda r: [*r[:-1], changed(r[-1], score=None)]),
    "a score that should be none": ("score is", lambda r: [changed(r[0], score=0.1), *r[1:]]),
    "abstained without need": ("reason is", lambda r: [*r[:-1], changed(r[-1], status="abstained", reason="gap")]),
    "another status": ("status is", lambda r: [*r[:-1], changed(r[-1], status="abstained")]),
    "no JSON": ("after", lambda r: [*r[:-1], (r[-1][0], b'{"ts":1')]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_output_is_refused(case, right, expected) -> None:
    why, spoil = WRONG[case]

    with pytest.raises(WrongOutputError, match=why):
        judge(spoil(right), expected)


def test_the_kernel_makes_of_the_workload_what_the_formulas_say(work) -> None:
    kernel_check.check(work, SPEC)


@pytest.mark.parametrize("spoilt", ["return:30s", "ofi:10s", "trade_intensity:10s", "flags"])
def test_a_kernel_that_is_a_little_off_is_refused(spoilt, work, monkeypatch) -> None:
    names = FeaturePlan.from_spec(SPEC).names

    def rows(*arguments: object) -> Iterator[tuple[Float64, UInt8]]:
        for x_NF, flags_N in oracle.feature_rows(*arguments):
            if spoilt == "flags":
                flags_N[::50] ^= np.uint8(RowFlag.STALE)
            else:
                x_NF[:, names.index(spoilt)] *= 1 + 1e-6
            yield x_NF, flags_N

    monkeypatch.setattr(kernel_check, "feature_rows", rows)
    with pytest.raises(WrongOutputError, match=f"{spoilt} (is|are)"):
        kernel_check.check(work, SPEC)


def test_the_contender_in_java_takes_models_of_the_kernel_that_runs() -> None:
    source = next(Path(workload.__file__).parent.glob("contenders/kafka_streams/src/**/Model.java"))
    assert re.findall(r"kernel=(\d+)", source.read_text(encoding="utf-8")) == [str(kernels.KERNEL_VERSION)]


def test_a_later_pass_is_the_same_market_with_later_times(work) -> None:
    packed = slots.pack(work, 1_000)
    first = [record for _, batch in packed.slot(3, 0) for record in _values(bytes(batch))]
    later = [record for _, batch in packed.slot(3, 2) for record in _values(bytes(batch))]

    for tick in first:
        tick["ts"] += 2 * work.span_ns
    assert later == first
    assert len(first) == 1_000


def _values(raw: bytes) -> list[dict]:
    found = find(RawFetch(raw, 0, []))
    return [json.loads(value) for value in found.take(range(len(found.places.offset_N))).value]


def _score(record: Record) -> float:
    return json.loads(record[1])["score"]


def _contract(scaler: Scaler) -> ModelContract:
    plan = FeaturePlan.from_spec(SPEC)
    return ModelContract(
        pipeline=SPEC.name, spec_hash=SPEC.hash, model_kind="mlp", features=plan.names, feature_hash=plan.hash,
        window=1, label_kind="return", label_price="mid", horizons_ns=SPEC.label.horizons, delay_ns=0,
        dead_zone=(0.0,), prior=((0.0, 1.0),), scaler=scaler, trained_from_ns=0, trained_to_ns=1, seed=0,
        code_version="0",
    )  # fmt: skip
