"""The trigger on a real job store in SQLite, with a clock of its own."""

import asyncio

import pytest

from ml_core.errors import JobStoreUnavailableError, NotFoundError
from ml_core.spec import parse
from ml_core.types import SECOND_NS, JobSpec, JobState
from model_ops_manager.jobs.store import JobStore
from streams.agents.retraining import Trigger, answer, until_answered

PIPELINE = parse({"name": "demo", "retrain": {"when": ["rows 100"], "cooldown": "60s", "kind": "incremental"}})


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_700_000_000 * SECOND_NS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}", clock)
    yield store
    store.close()


@pytest.fixture
def trigger(store, clock) -> Trigger:
    return Trigger(store, {PIPELINE.name: PIPELINE}, clock)


def finish(store, job_id: str) -> None:
    store.request_cancel(job_id)
    assert JobState(store.get(job_id).state).is_final


def test_a_job_is_started_with_the_kind_and_trigger_of_the_pipeline(trigger, store) -> None:
    job = store.get(trigger.start("demo", "rows", "rows:100:1"))

    assert (job.spec.kind, job.spec.trigger, job.spec.pipeline) == ("incremental", "rows", "demo")


def test_no_job_is_started_while_one_is_under_way_however_old(trigger, store, clock) -> None:
    trigger.start("demo", "rows", "rows:100:1")
    clock.now_ns += 3600 * SECOND_NS

    assert trigger.start("demo", "rows", "rows:100:2") is None
    assert len(store.list()) == 1


def test_the_next_job_waits_for_the_cooldown(trigger, store, clock) -> None:
    finish(store, trigger.start("demo", "rows", "rows:100:1"))
    clock.now_ns += 60 * SECOND_NS - 1
    assert trigger.start("demo", "rows", "rows:100:2") is None

    clock.now_ns += 1

    assert trigger.start("demo", "rows", "rows:100:2") is not None


def test_a_job_that_predicts_delays_no_training(trigger, store) -> None:
    store.submit(JobSpec(pipeline="demo", kind="predict", predict={"to": "past.parquet"}), PIPELINE)

    assert trigger.start("demo", "rows", "rows:100:1") is not None


def test_two_workers_that_ask_with_one_key_start_one_job(trigger, store, clock) -> None:
    other = Trigger(store, trigger.pipelines, clock)
    job = JobSpec(pipeline="demo")

    assert trigger.submit(job, "request:0:5") == other.submit(job, "request:0:5")
    assert trigger.submit(job, "request:0:6") != trigger.submit(job, "request:0:5")


def test_a_pipeline_that_this_worker_does_not_run_is_refused_by_name(trigger, store) -> None:
    with pytest.raises(NotFoundError, match=r"'demmo'.*known: demo"):
        trigger.submit(JobSpec(pipeline="demmo"), "request:0:1")
    assert store.list() == []


async def runs_elsewhere(pipeline: str) -> bool:
    return pipeline == "theirs"


async def test_a_request_for_a_pipeline_of_another_group_is_left_to_it(trigger, store) -> None:
    await answer(b'{"pipeline":"theirs"}', "request:0:1", trigger, runs_elsewhere)
    assert store.list() == []

    with pytest.raises(NotFoundError, match="'nobodys'"):
        await answer(b'{"pipeline":"nobodys"}', "request:0:2", trigger, runs_elsewhere)

    await answer(b'{"pipeline":"demo"}', "request:0:3", trigger, runs_elsewhere)
    assert [(job.spec.pipeline, job.spec.trigger) for job in store.list()] == [("demo", "request")]


async def test_a_request_waits_while_the_job_store_is_away(monkeypatch) -> None:
    answers = iter([JobStoreUnavailableError("away"), JobStoreUnavailableError("away"), "train-1"])
    pauses: list[float] = []

    async def submit() -> str:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", pause)

    assert await until_answered(submit) == "train-1"
    assert pauses == [1.0, 2.0]
