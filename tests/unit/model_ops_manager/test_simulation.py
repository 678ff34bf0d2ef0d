"""The loop in virtual time: repeatable, blind to what comes later, and equal to what a worker makes of the ticks."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_io.data_fetcher.sources import open_source
from ml_core import frames
from ml_core.errors import InputError, ModelRefusedError
from ml_core.model.export import restated
from ml_core.spec import parse
from ml_core.types import SymbolTable
from model_ops_manager import simulated_training
from model_ops_manager.batch_prediction import Replay
from model_ops_manager.prediction_sinks import ParquetSink
from model_ops_manager.promotion import Decision
from model_ops_manager.simulated_training import JobTrainer
from model_ops_manager.simulation import Simulation, Trained

S = 10**9
TAKES_NS = 3 * S
MARKET = "synthetic:symbols=3,ticks=12000,rate=80,seed=3,edge=4,regimes=2"
SPEC = parse(
    {
        "name": "demo",
        "features": {"use": ["queue_imbalance", "signed_volume:2s"], "window": 2},
        "label": {"horizons": ["500ms"], "kind": "direction"},
        "model": {"kind": "boosting", "params": {"rounds": 20}},
        "train": {"span": "40s", "min_rows": 100, "holdout": 0.45},
        "retrain": {"when": ["every 25s"], "cooldown": "5s"},
    }
)


@pytest.fixture(scope="module")
def frame():
    return open_source(MARKET).fetch()


def run(frame, folder, *, cut=65_536, first=None):
    """Report, predictions, and the models of a simulation of ``frame``, read ``cut`` ticks at a time."""
    models = []

    def trainer(ticks, champion):
        trained = JobTrainer(SPEC)(ticks, champion)
        models.append(trained.model)
        return trained

    folder.mkdir(parents=True, exist_ok=True)
    sink = ParquetSink(folder / "p.parquet", topic_id="T", horizons_ns=[S // 2], model="demo", version=0)
    simulation = Simulation(SPEC, trainer, training_takes_ns=TAKES_NS, sink=sink)
    if first is not None:
        simulation.start_with(first)
    for start in range(0, len(frame), cut):
        simulation.add(frames.to_batch(frame.iloc[start : start + cut], simulation.symbols))
    report = simulation.report()
    sink.finish()
    return report, pq.read_table(folder / "p.parquet").to_pandas(), models


@pytest.fixture(scope="module")
def done(frame, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return *run(frame, folder), (folder / "p.parquet").read_bytes()


def test_a_second_run_cut_elsewhere_gives_the_same_bytes(frame, done, tmp_path) -> None:
    report, *_, file = done

    again, *_ = run(frame, tmp_path, cut=997)

    assert json.dumps(again) == json.dumps(report)
    assert (tmp_path / "p.parquet").read_bytes() == file
    assert {version["promoted"] for version in report["versions"]} == {True, False}


def test_a_version_scores_from_the_time_it_was_ready_until_the_next_one_is(done) -> None:
    report, made, *_ = done
    clock_N = np.maximum.accumulate(made["ts"].to_numpy())
    swapped = 0

    for version in report["versions"]:
        mine_N = made["version"].to_numpy() == version["version"]
        if not version["promoted"]:
            assert not mine_N.any()
            assert version["served"] is None
            continue
        swapped += 1
        assert version["served"]["from_ns"] == version["started_ns"] + TAKES_NS == version["over_ns"]
        assert clock_N[mine_N].min() >= version["over_ns"] > version["last_tick_ns"] + TAKES_NS
        assert (clock_N[~mine_N & (made["version"] < version["version"]).to_numpy()] < version["over_ns"]).all()
        assert int(mine_N.sum()) == version["rows"]
    assert swapped >= 2
    assert report["rows"] == len(made) + report["rows_without_model"]


def test_what_comes_after_a_trigger_changes_nothing_before(frame, done, tmp_path) -> None:
    report, made, *_ = done
    third = report["versions"][2]
    later_N = frame["ts_ns"].to_numpy() >= third["started_ns"]
    other = frame.copy()
    for name, of in (("price", "price"), ("bid", "ask"), ("ask", "bid")):
        other[name] = frame[name].where(~later_N, 1e4 / frame[of])

    changed, remade, *_ = run(other, tmp_path)

    told = ("started_ns", "ticks", "last_tick_ns", "dataset_hash", "weights_hash", "training", "promoted", "evidence")
    for before, after in zip(report["versions"][:3], changed["versions"][:3], strict=True):
        assert [before[name] for name in told] == [after[name] for name in told]
    until = int(np.searchsorted(made["ts"], third["started_ns"]))
    assert until > 1000
    assert remade[:until].equals(made[:until])
    assert changed["versions"][3]["dataset_hash"] != report["versions"][3]["dataset_hash"]


def test_scores_are_those_of_a_worker_with_the_same_model(frame, done) -> None:
    report, made, models, _ = done
    whole = frames.to_batch(frame)

    for version, model in zip(report["versions"], models, strict=True):
        if version["served"] is None:
            continue
        replay = Replay(SPEC, model.scorer())
        replay.symbols = replay._state.symbols = SymbolTable(whole.symbols)
        expected = replay.predictions(whole)
        mine = made[made["version"] == version["version"]]
        score_N = expected.score_NH[np.searchsorted(expected.offset_N, mine["offset"]), 0]
        is_ok_N = (mine["status"] == "ok").to_numpy()
        np.testing.assert_array_equal(mine["score"].to_numpy(np.float32)[is_ok_N], score_N[is_ok_N])
        assert is_ok_N.sum() == version["scored"] > 1000


def test_a_training_that_harms_is_refused_and_the_champion_stays(frame, done, tmp_path, monkeypatch) -> None:
    good, fit = done[2][1], simulated_training.fit

    def harmful(frame, spec, **how):
        """Learn from prices turned upside down, and be held against the true ones."""
        upside_down = frame.assign(price=1e4 / frame["price"], bid=1e4 / frame["ask"], ask=1e4 / frame["bid"])
        return fit(frame, spec, **how)._replace(model=fit(upside_down, spec, **how).model)

    monkeypatch.setattr(simulated_training, "fit", harmful)
    behind_ns = good.contract.trained_to_ns  # the market stays as it was for another 25 s
    unseen_N = (frame["ts_ns"] > behind_ns) & (frame["ts_ns"] < behind_ns + 33 * S)

    report, made, _ = run(frame[unseen_N], tmp_path, first=good)

    given, *others = report["versions"]
    assert [(each["promoted"], each["evidence"]["rival"]) for each in others] == [(False, "version 0")]
    assert given["served"]["to_ns"] == report["to_ns"]
    assert set(made["version"]) == {0}


def test_a_job_that_fails_is_told_and_the_next_trigger_tries_again(frame, tmp_path) -> None:
    incremental = parse({**SPEC.model_dump(mode="json"), "retrain": {"when": ["every 25s"], "kind": "incremental"}})
    simulation = Simulation(incremental, JobTrainer(incremental))
    simulation.add(frames.to_batch(frame, simulation.symbols))

    report = simulation.report()

    assert report["versions"] == []
    assert len(report["failed"]) >= 2
    assert "no champion to go on from" in report["failed"][0]["error"]
    assert report["rows_without_model"] == report["rows"]


def test_a_training_reads_the_span_before_its_trigger_and_no_more_ticks_than_a_job(frame) -> None:
    asked, frame = [], frame.copy()
    frame.loc[500, "ts_ns"] += 3600 * S  # a wrong stamp, from the future

    def trainer(ticks, _):
        asked.append(ticks)
        raise InputError("enough")

    for most in (2_000_000, 1000):
        asked.clear()
        simulation = Simulation(SPEC, trainer, max_ticks=most)
        for start in range(0, len(frame), 501):
            simulation.add(frames.to_batch(frame[start : start + 501], simulation.symbols))
        for ticks, job in zip(asked, simulation.report()["failed"], strict=True):
            ts_ns_N = frame["ts_ns"].to_numpy()
            known_N = (ts_ns_N < job["started_ns"]) & (ts_ns_N >= job["started_ns"] - SPEC.train.span)
            assert ticks.offset_N.tolist() == np.flatnonzero(known_N)[-most:].tolist()
        assert sum(map(len, simulation._held)) < most + 501 or most > len(frame)


def test_a_night_without_ticks_trains_nothing_anew(frame, done) -> None:
    # second   0 ... 40 | 140 ... 160, a job every 25: those at 75, 100 and 125 see the ticks that the one at 50 saw
    begin_ns = frame["ts_ns"].iloc[0] // S * S
    is_late = frame["ts_ns"] >= begin_ns + 40 * S
    broken = frame.assign(ts_ns=frame["ts_ns"].where(~is_late, frame["ts_ns"] + 100 * S))
    spec = parse({**SPEC.model_dump(mode="json"), "train": {"span": "1h"}})
    asked = []

    def trainer(ticks, _):
        asked.append(len(ticks))
        return Trained(done[2][1], Decision(False, "no", {}), len(ticks), 0, 0)

    simulation = Simulation(spec, trainer)
    simulation.add(frames.to_batch(broken[broken["ts_ns"] < begin_ns + 160 * S], simulation.symbols))

    told = [version["ticks"] for version in simulation.report()["versions"]]
    assert asked == sorted(set(told))
    assert told == [asked[0], *[asked[1]] * 4, asked[2]]


def test_symbols_one_after_the_other_are_refused(frame) -> None:
    simulation = Simulation(SPEC, JobTrainer(SPEC))
    apart = frame.sort_values("symbol", kind="stable")

    with pytest.raises(InputError, match="in the order of time"):
        simulation.add(frames.to_batch(apart, simulation.symbols))


def test_a_model_of_another_question_is_refused_at_the_start(done) -> None:
    other = parse({**SPEC.model_dump(mode="json"), "label": {"horizons": ["2s"]}})
    with pytest.raises(ModelRefusedError, match="horizons"):
        Simulation(other, JobTrainer(other)).start_with(done[2][1])

    label = {"horizons": ["500ms"], "kind": "triple_barrier", "barriers": {"up": 3, "down": 3}}
    other = parse({**SPEC.model_dump(mode="json"), "label": label})
    near = restated(done[2][1], label_kind="triple_barrier", barriers=(1.0, 1.0, 300 * S))
    with pytest.raises(ModelRefusedError, match="barriers"):
        Simulation(other, JobTrainer(other)).start_with(near)
