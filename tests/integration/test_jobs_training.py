"""Training jobs as they run: a real Kafka, a real runner, real child processes, a real MLflow.

``TICKWISE_TEST_JOBS`` is how many jobs are run alone and at once; without it that takes too long.
"""

import os
import signal
import time

import pytest

from ml_core.types import JobKind, JobState, OffsetRange
from model_ops_manager.champion import load_serving
from tests.integration.jobs_lab import TICKS, TRAIN, Lab, publish_ticks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

JOBS = int(os.environ.get("TICKWISE_TEST_JOBS", "0"))


@pytest.fixture(scope="module")
def ticks_topic(kafka):
    return publish_ticks(kafka)


@pytest.fixture(scope="module")
def make_lab(kafka, ticks_topic, model_store):
    labs = []

    def make(folder):
        labs.append(Lab(kafka, ticks_topic, folder, model_store(folder / "home")))
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()


@pytest.fixture(scope="module")
def busy_lab(make_lab, tmp_path_factory):
    """One runner with room for two jobs; each test has a pipeline of its own."""
    lab = make_lab(tmp_path_factory.mktemp("busy"))
    lab.start_runner(max_parallel=2)
    return lab


@pytest.fixture(scope="module")
def alone(busy_lab):
    """A job beside which no other one ran."""
    return busy_lab.until_final(busy_lab.submit(busy_lab.pipeline("demo"), seed=3))


@pytest.fixture
def lab(make_lab, tmp_path):
    return make_lab(tmp_path)


ENDLESS = {"train": {**TRAIN, "epochs": 10_000, "patience": 10_000}}


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_first_model_is_trained_registered_promoted_and_served_and_a_second_goes_on_from_it(busy_lab, alone):
    lab, spec = busy_lab, busy_lab.pipeline("demo")

    first = alone

    assert first.state is JobState.SUCCEEDED, first.error
    result = first.result
    assert (result["version"], result["decision"]["promote"], result["parent"]) == (1, True, None)
    assert result["metrics"]["holdout_log_loss"] < result["metrics"]["prior_log_loss"]
    assert result["ticks"] == TICKS
    assert [part["start"] for part in result["ranges"]] == [0, 0]
    assert sum(part["end"] for part in result["ranges"]) == TICKS
    assert first.progress["stage"] == "register"
    assert lab.agent.champion("demo").version == 1
    contract = load_serving(lab.agent, "demo", 1).scorer.contract
    assert contract.ranges == tuple(OffsetRange.model_validate(part) for part in result["ranges"])
    assert (contract.topic, contract.seed, contract.metrics) == (lab.topic, 3, result["metrics"])

    second = lab.until_final(lab.submit(spec, kind=JobKind.INCREMENTAL, trigger="rows"))

    assert second.state is JobState.SUCCEEDED, second.error
    assert (second.result["version"], second.result["parent"]) == (2, "demo/1")
    assert second.result["metrics"]["new_rows"] > second.result["metrics"]["new_train_rows"] >= 0
    assert second.result["intervals"]["holdout_log_loss"]["blocks"] > 0
    details = lab.agent.versions("demo")[0]
    about = [details.tags[f"tickwise.{name}"] for name in ("parent", "trigger", "job")]
    assert about == ["demo/1", "rows", second.id]
    assert (details.metrics, details.decision) == (second.result["metrics"], second.result["decision"])
    assert "version 1" in details.decision["reason"]
    assert lab.agent.champion("demo").version == (2 if second.result["decision"]["promote"] else 1)


def test_two_jobs_at_once_give_what_one_gives_alone(busy_lab, alone):
    lab, names = busy_lab, ("one", "twin")

    jobs = [lab.submit(lab.pipeline(name), seed=3) for name in names]
    lab.until(lambda: all(lab.store.get(job.id).state is JobState.RUNNING for job in jobs))
    ended = [lab.until_final(job) for job in jobs]

    assert [job.state for job in ended] == [JobState.SUCCEEDED] * 2, [job.error for job in ended]
    for name, job in zip(names, ended, strict=True):
        assert {**job.result, "decision": None} == {**alone.result, "decision": None}
        assert [each.tags["tickwise.job"] for each in lab.agent.versions(name)] == [job.id]
        assert lab.made_by(job) == lab.made_by(alone)


@pytest.mark.skipif(not JOBS, reason="TICKWISE_TEST_JOBS says how many")
@pytest.mark.timeout(3000)
def test_many_jobs_at_once_on_two_pipelines_give_what_each_gives_alone(lab):
    lab.start_runner(max_parallel=JOBS)
    pipelines = [lab.pipeline("one"), lab.pipeline("other", features={"use": ["queue_imbalance"], "window": 4})]
    asked = [(pipelines[number % 2], number // 2) for number in range(JOBS)]

    alone = [lab.until_final(lab.submit(spec, seed=seed), 600) for spec, seed in asked]
    at_once = [lab.submit(spec, seed=seed) for spec, seed in asked]
    ended = [lab.until_final(job, 1200) for job in at_once]
    beside = [sum(each.started_ns <= job.started_ns < each.finished_ns for each in ended) for job in ended]

    assert {job.state for job in alone + ended} == {JobState.SUCCEEDED}, [job.error for job in alone + ended]
    made = [lab.made_by(job) for job in alone]
    assert [lab.made_by(job) for job in ended] == made
    assert len({each.weights_hash for each in made}) == JOBS
    assert max(beside) > JOBS // 2  # a busy machine starts the last ones when the first have ended


def test_a_running_job_is_cancelled_within_a_second_and_leaves_nothing(busy_lab):
    lab = busy_lab
    job = lab.submit(lab.pipeline("cancelled", **ENDLESS))
    lab.until_training(job)
    pid = lab.pid_of(job)

    asked_s = time.monotonic()
    lab.store.request_cancel(job.id)
    ended = lab.until_final(job, timeout_s=10)
    took_s = time.monotonic() - asked_s

    assert ended.state is JobState.CANCELLED
    assert took_s < 1.5  # one second, and half of one for a busy machine
    lab.until(lambda: gone(pid), timeout_s=2)
    assert lab.agent.versions("cancelled") == []


def test_a_child_that_is_killed_again_and_again_is_a_failed_job(busy_lab):
    lab = busy_lab
    doomed, killed = lab.submit(lab.pipeline("doomed", **ENDLESS)), set()

    for _ in range(3):
        killed.add(lab.until(lambda: (now := lab.pid_of(doomed)) not in killed and now))
        os.kill(lab.pid_of(doomed), signal.SIGKILL)
    failed = lab.until_final(doomed)

    assert (failed.state, failed.attempt, len(killed)) == (JobState.FAILED, 3, 3)
    assert failed.error.startswith("killed by signal 9 (SIGKILL)")
    assert busy_lab.runners[0].poll() is None
    assert lab.agent.versions("doomed") == []


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"job_timeout_s": 1}, "it ran longer than TICKWISE_JOB_TIMEOUT_S allows"),
        ({"job_memory_mb": 50}, "it held more memory than TICKWISE_JOB_MEMORY_MB allows"),
    ],
)
def test_a_job_past_a_limit_has_failed(lab, settings, error):
    lab.start_runner(**settings)
    job = lab.until_final(lab.submit(lab.pipeline("demo", **ENDLESS)))
    assert (job.state, job.error) == (JobState.FAILED, error)


def test_a_lost_runner_takes_its_child_along_and_one_that_stops_gives_its_job_back(lab):
    first = lab.start_runner(lease_s=3)
    job = lab.submit(lab.pipeline("demo", **ENDLESS))
    lab.until_training(job)
    pid = lab.pid_of(job)

    first.kill()
    first.wait()
    lab.until(lambda: gone(pid), timeout_s=10)

    second = lab.start_runner(lease_s=3)
    taken = lab.until(lambda: (now := lab.store.get(job.id)).attempt == 2 and now)
    assert (taken.state, taken.runner != job.runner) == (JobState.RUNNING, True)
    pid = lab.until(lambda: (now := lab.pid_of(job)) != pid and now)

    second.send_signal(signal.SIGTERM)

    assert second.wait(20) == 0
    assert gone(pid)
    back = lab.store.get(job.id)
    assert (back.state, back.attempt, back.runner) == (JobState.QUEUED, 2, None)
    assert lab.agent.versions("demo") == []


def test_a_runner_without_its_job_store_says_so_and_exits(lab):
    runner = lab.start_runner(jobs_url="postgresql://user:s3cret@127.0.0.1:1/jobs")
    assert runner.wait(60) == 3
    said = lab.log_file.read_text()
    assert "job store" in said
    assert "s3cret" not in said
