"""A job that predicts ends with the predictions of the command, also where an attempt before was killed."""

import asyncio
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from data_io.data_fetcher.sources import open_source
from ml_core.errors import InputError, LeaseLostError, ModelNotFoundError, TrainingCancelledError
from ml_core.fit import fit
from ml_core.spec import parse
from ml_core.types import JobSpec, JobState, PredictSpec
from model_ops_manager import batch_prediction, prediction_run
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.jobs.store import JobStore
from model_ops_manager.jobs.works import base
from model_ops_manager.jobs.works.predict import Predict
from model_ops_manager.mlflow_agent import ModelVersion
from model_ops_manager.prediction_sinks import ParquetSink

SPEC = parse(
    {
        "name": "demo",
        "features": {"use": ["queue_imbalance", "return:1s"]},
        "label": {"horizons": ["1s"], "kind": "return"},
        "model": {"kind": "boosting", "params": {"rounds": 2}},
        "train": {"min_rows": 100},
    }
)


@pytest.fixture(scope="module")
def ticks():
    return open_source("synthetic:symbols=3,ticks=4000,rate=100,seed=3").fetch()


@pytest.fixture(scope="module")
def model(ticks):
    return fit(ticks, SPEC).model


class Bench:
    """A store of jobs, a folder of ticks and a model store of two equal versions; the first is champion."""

    def __init__(self, home, ticks, model):
        self.settings = RunnerSettings(home=home, history=home / "history", predictions=home / "out")
        self.store = JobStore(self.settings.job_store_url)
        self.settings.history.mkdir()
        ticks.to_parquet(self.settings.history / "ticks.parquet")
        self.model, self.champion = model, 1
        self.agent = SimpleNamespace(
            champion=lambda name: self.champion and ModelVersion(name, self.champion, "", ""),
            version=lambda name, number: ModelVersion(name, number, "", ""),
            load_onnx=lambda _version: self.model.onnx,
        )

    def lease(self, **asked):
        work = PredictSpec.model_validate({"to": "past.parquet", "source": "ticks.parquet", **asked})
        self.store.submit(JobSpec(pipeline="demo", kind="predict", predict=work), SPEC)
        return self.store.lease("test", 60)

    def run(self, job, point_of_no_return=lambda: None):
        return Predict(job, self.store, self.agent, self.settings).run(point_of_no_return)

    def again(self, job):
        """The next attempt."""
        self.store.retry(job, "killed")
        return self.store.lease("test", 60)

    @property
    def out(self):
        return sorted(path.name for path in self.settings.predictions.iterdir())


@pytest.fixture
def bench(tmp_path, ticks, model, monkeypatch):
    monkeypatch.setattr(base, "PROGRESS_S", 0.0)
    monkeypatch.setattr(batch_prediction, "CHUNK_TICKS", 1000)
    bench = Bench(tmp_path, ticks, model)
    yield bench
    bench.store.close()


def killed_after(monkeypatch, store, ticks):
    """Let the attempt end, as if it was killed, when it tells that it has come so far."""
    tell = store.progress

    def progress(job, **how):
        if how.get("ticks", 0) >= ticks:
            raise LeaseLostError("killed")
        return tell(job, **how)

    monkeypatch.setattr(store, "progress", progress)
    monkeypatch.setattr(ParquetSink, "discard", lambda _sink: None)


async def test_the_file_of_a_job_is_that_of_the_command(bench, tmp_path) -> None:
    result = await asyncio.to_thread(bench.run, bench.lease())
    ticks = prediction_run.of_source(str(bench.settings.history / "ticks.parquet"))
    file = tmp_path / "command.parquet"
    found = await prediction_run.run(bench.settings, SPEC, bench.model.scorer(), 1, ticks, str(file))

    assert bench.out == ["past.parquet"]
    assert (bench.settings.predictions / "past.parquet").read_bytes() == file.read_bytes()
    assert result == {"version": 1, "out": str(bench.settings.predictions / "past.parquet"), "ranges": None,
                      **found._asdict()}  # fmt: skip
    assert found.ticks == 4000


def test_an_attempt_after_one_that_was_killed_gives_the_same_file_and_leaves_nothing_else(bench, monkeypatch) -> None:
    bench.run(bench.lease(to="calm.parquet"))
    job = bench.lease()
    with monkeypatch.context() as patch:
        killed_after(patch, bench.store, 2000)
        with pytest.raises(LeaseLostError):
            bench.run(job)
    assert bench.out == [f".past.parquet.{job.id}-1.part", "calm.parquet"]
    bench.champion = 2  # promoted meanwhile

    result = bench.run(bench.again(job))

    assert (result["version"], bench.out) == (1, ["calm.parquet", "past.parquet"])
    calm, past = (bench.settings.predictions / name for name in bench.out)
    assert past.read_bytes() == calm.read_bytes()


def test_what_other_jobs_left_behind_goes_when_they_are_over(bench, monkeypatch) -> None:
    over, waiting = bench.lease(to="over.parquet"), bench.lease(to="waiting.parquet")
    with monkeypatch.context() as patch:
        killed_after(patch, bench.store, 2000)
        for job in (over, waiting):
            with pytest.raises(LeaseLostError):
                bench.run(job)
    bench.store.finish(over, JobState.CANCELLED)

    bench.run(bench.lease())

    assert bench.out == [f".waiting.parquet.{waiting.id}-1.part", "past.parquet"]


def test_a_job_that_is_cancelled_before_its_file_has_a_name_gives_none(bench) -> None:
    job = bench.lease()
    with pytest.raises(TrainingCancelledError):
        bench.run(job, lambda: bench.store.request_cancel(job.id))
    assert bench.out == []


def test_ticks_that_changed_between_two_attempts_end_the_job(bench, ticks) -> None:
    job = bench.lease()
    bench.run(job)
    ticks.iloc[:3000].to_parquet(bench.settings.history / "ticks.parquet")

    with pytest.raises(InputError, match="not those that an attempt before has found"):
        bench.run(bench.again(job))


def test_a_folder_is_no_file_of_ticks(bench) -> None:
    (bench.settings.history / "folder").mkdir()
    with pytest.raises(InputError, match="TICKWISE_HISTORY has no file 'folder'"):
        bench.run(bench.lease(source="folder"))


@pytest.mark.parametrize("name", ["since", "until"])
def test_no_tick_arrived_before_1970(name) -> None:
    with pytest.raises(ValidationError, match="must not lie before 1970"):
        PredictSpec.model_validate({"to": "past.parquet", name: "1969-12-31T23:59:59Z"})


def test_without_a_champion_or_a_folder_of_ticks_the_job_says_what_is_missing(bench) -> None:
    bench.champion = None
    with pytest.raises(ModelNotFoundError, match="has no champion"):
        bench.run(bench.lease())
    bench.champion, bench.settings = 1, bench.settings.model_copy(update={"history": None})
    with pytest.raises(InputError, match="TICKWISE_HISTORY names no folder"):
        bench.run(bench.lease())
