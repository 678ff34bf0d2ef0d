"""What a runner makes of the ends of its attempts: a real store, and processes whose end the test writes."""

import threading

import pytest
from sqlalchemy import text

from ml_core.errors import InputError
from ml_core.spec import parse
from ml_core.types import JobKind, JobSpec, JobState
from model_ops_manager.jobs import runner as runner_module
from model_ops_manager.jobs.attempt import Attempt
from model_ops_manager.jobs.checkpoints import JobCheckpoint, job_ids
from model_ops_manager.jobs.executor import ENDED_BY_SIGTERM, MACHINE_LOST, STORE_AWAY
from model_ops_manager.jobs.runner import Runner
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.jobs.store import JobStore

KILLED = -9


class Script:
    """An executor whose processes end when they are told to, or when the test sets ``code``."""

    def __init__(self) -> None:
        self.started = []
        self.refuses = False

    def start(self, job):
        if self.refuses:
            raise OSError("no room")
        self.started.append(Process(job))
        return self.started[-1]

    def close(self) -> None:
        pass


class Process:
    def __init__(self, job) -> None:
        self.job, self.code, self.size_mb, self.is_closed = job, None, 10, False
        self.place = {"pid": 1}

    def exit_code(self):
        return self.code

    def memory_mb(self):
        return self.size_mb

    def end(self):
        self.code = ENDED_BY_SIGTERM

    def kill(self):
        self.code = KILLED

    def close(self):
        self.is_closed = True


class Bench:
    def __init__(self, home, store, **settings) -> None:
        self.home, self.store, self.executor = home, store, Script()
        self.runner = Runner(RunnerSettings.read(home=home, **settings), store, self.executor)

    def submit(self, pipeline="demo", **job):
        return self.store.submit(JobSpec(pipeline=pipeline, **job), parse({"name": pipeline}))

    def started(self, pipeline="demo", **job):
        """Submit a job and return the process that the runner starts for it."""
        self.submit(pipeline, **job)
        self.runner.step()
        return self.executor.started[-1]

    def ends(self, process, code):
        process.code = code
        self.runner.step()
        return self.store.get(process.job.id)

    def checkpoint(self, process):
        return JobCheckpoint(self.home, process.job.id, process.job.attempt)


@pytest.fixture
def store(tmp_path):
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield store
    store.close()


@pytest.fixture
def bench(tmp_path, store):
    return Bench(tmp_path, store, max_parallel=4)


@pytest.mark.parametrize("code", [KILLED, -11, ENDED_BY_SIGTERM, MACHINE_LOST])
def test_a_job_whose_process_was_killed_is_tried_again_from_its_checkpoint(bench, code):
    process = bench.started()
    bench.checkpoint(process).save(b"epoch 3")

    job = bench.ends(process, code)
    again = bench.executor.started[-1]

    assert (job.state, job.attempt, job.losses) == (JobState.RUNNING, 2, 1)
    assert process.is_closed
    assert again.job.id == process.job.id
    assert bench.checkpoint(again).load() == b"epoch 3"


def test_a_job_that_is_killed_three_times_has_failed_with_the_reason_and_keeps_nothing(bench):
    process = bench.started()
    for _ in range(3):
        process = bench.executor.started[-1]
        bench.checkpoint(process).save(b"epoch 3")
        job = bench.ends(process, KILLED)

    assert (job.state, job.attempt, job.losses) == (JobState.FAILED, 3, 3)
    assert job.error == "killed by signal 9 (SIGKILL); was the machine out of memory?; 3 attempts were lost"
    assert job_ids(bench.home) == []
    assert len(bench.executor.started) == 3


def test_a_job_whose_process_found_the_store_away_is_tried_again(bench):
    job = bench.ends(bench.started(), STORE_AWAY)
    assert (job.state, job.attempt, job.losses) == (JobState.RUNNING, 2, 1)


def test_a_runner_passes_over_a_job_of_a_kind_that_only_a_newer_version_knows(bench):
    newer = bench.submit(priority=9)
    with bench.store._database.write() as connection:
        connection.execute(text("UPDATE jobs SET spec = replace(spec, '\"batch\"', '\"dream\"')"))

    process = bench.started()

    assert process.job.id != newer.id
    assert [job.id for job in bench.store.list()] == [process.job.id]


def test_a_runner_outlives_the_row_of_its_job(bench):
    process, other = bench.started(), bench.started("other")
    with bench.store._database.write() as connection:
        connection.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": process.job.id})

    bench.runner.step()
    bench.runner.step()

    assert (process.code, process.is_closed) == (ENDED_BY_SIGTERM, True)
    assert bench.ends(other, 1).state is JobState.FAILED


NESTED: list = []
for _ in range(300):
    NESTED = [NESTED]


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], "\ud800", {"\0": 1}, NESTED])
def test_parameters_that_a_database_or_a_reader_chokes_on_are_refused(bench, value):
    with pytest.raises(InputError, match="params: 'width'"):
        bench.submit(params={"width": value})
    bench.submit(params={"width": [1, 2.5, None, True, {"ä": "日本 😀"}]})


def test_attempts_that_were_given_back_do_not_count_as_lost(bench):
    bench.submit()
    for _ in range(5):
        bench.store.give_back(bench.store.lease("stopping", 10))
    bench.runner.step()

    job = bench.ends(bench.executor.started[-1], KILLED)

    assert (job.state, job.attempt, job.losses) == (JobState.RUNNING, 7, 1)


def test_a_process_that_ends_without_a_word_is_no_second_try(bench):
    job = bench.ends(bench.started(), 1)
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert "exit code 1" in job.error


@pytest.mark.parametrize("end", ["job_memory_mb", "job_timeout_s"])
def test_a_job_past_a_limit_fails_at_once(tmp_path, store, end):
    bench = Bench(tmp_path, store, job_memory_mb=100, job_timeout_s=3600)
    process = bench.started()
    bench.checkpoint(process).save(b"epoch 3")
    if end == "job_memory_mb":
        process.size_mb = 101
    else:
        bench.runner._attempts[0].started_s -= 3601

    bench.runner.step()
    bench.runner.step()

    job = store.get(process.job.id)
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert end.upper() in job.error
    assert job_ids(tmp_path) == []


def test_a_killed_job_that_was_to_be_cancelled_is_cancelled(bench):
    process = bench.started()
    bench.store.request_cancel(process.job.id)

    assert bench.ends(process, KILLED).state is JobState.CANCELLED
    assert len(bench.executor.started) == 1


def test_a_job_killed_while_it_registered_cannot_be_cancelled_any_more(bench):
    process = bench.started()
    assert bench.store.begin_registering(process.job)
    job = bench.ends(process, KILLED)

    assert (job.attempt, job.registering) == (2, True)


def test_an_attempt_whose_job_was_taken_over_leaves_it_alone(bench):
    process = bench.started()
    bench.store.give_back(process.job)
    taken = bench.store.lease("other", 10)
    bench.checkpoint(process).save(b"old")

    assert bench.ends(process, KILLED) == taken
    assert job_ids(bench.home) == [taken.id]


@pytest.mark.parametrize("is_leased", [True, False])
def test_an_attempt_whose_job_was_taken_over_is_ended_at_the_next_look(tmp_path, store, is_leased):
    bench = Bench(tmp_path, store, max_parallel=1)
    process = bench.started()
    store.give_back(process.job)
    if is_leased:
        store.lease("other", 10)

    bench.runner.step()

    assert process.code == ENDED_BY_SIGTERM


def test_a_machine_without_room_for_a_process_fails_none_of_the_jobs_that_wait(bench):
    bench.executor.refuses = True
    jobs = [bench.submit(), bench.submit()]
    for _ in range(3):
        bench.runner.step()
    assert [(each.state, each.losses) for each in map(bench.store.get, (job.id for job in jobs))] == [
        (JobState.QUEUED, 0)
    ] * 2
    assert bench.store.get(jobs[0].id).attempt == 1, "it does not try again at once"

    bench.executor.refuses, bench.runner._lease_from_s = False, 0.0
    bench.runner.step()
    assert bench.executor.started[0].job.id == jobs[0].id


def test_a_runner_that_stops_ends_its_processes_and_gives_their_jobs_back(bench):
    process = bench.started()
    bench.checkpoint(process).save(b"epoch 3")
    stop = threading.Event()
    stop.set()

    bench.runner.run(stop)

    job = bench.store.get(process.job.id)
    assert (job.state, job.losses, process.is_closed) == (JobState.QUEUED, 0, True)
    assert job_ids(bench.home) == [job.id]


def test_a_runner_starts_no_more_than_the_quotas_allow(tmp_path, store):
    bench = Bench(tmp_path, store, max_parallel=9, max_per_pipeline=2, max_per_kind={"incremental": 1})
    for _ in range(3):
        bench.submit("one")
    bench.submit("two", kind=JobKind.INCREMENTAL)
    bench.submit("three", kind=JobKind.INCREMENTAL)

    for _ in range(6):
        bench.runner.step()

    assert [process.job.spec.pipeline for process in bench.executor.started] == ["one", "one", "two"]
    bench.ends(bench.executor.started[2], 1)
    assert bench.executor.started[-1].job.spec.pipeline == "three"


def test_what_jobs_kept_that_others_ended_is_swept(bench, monkeypatch):
    monkeypatch.setattr(runner_module, "SWEEP_S", 0.0)
    waiting, over = bench.submit(), bench.submit()
    bench.store.request_cancel(over.id)
    for job_id in (waiting.id, over.id, "train-of-another-store"):
        JobCheckpoint(bench.home, job_id, 1).save(b"x")

    bench.runner.step()

    assert job_ids(bench.home) == sorted([waiting.id, "train-of-another-store"])


def test_the_first_reason_for_an_end_is_kept():
    from model_ops_manager.jobs.attempt import Why

    attempt = Attempt(None, Process(None))
    attempt.end(Why.MEMORY)
    attempt.end(Why.STOPPING)
    assert attempt.why is Why.MEMORY
