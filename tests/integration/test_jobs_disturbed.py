"""A job that is killed, loses its runner, or runs on Ray gives the model that it gives undisturbed.

``TICKWISE_TEST_KILLS`` is how often a child is killed, each in a job of its own.
"""

import os
import random
import signal
import tempfile
import time
from contextlib import suppress

import pytest

from ml_core.types import JobState
from model_ops_manager.jobs.checkpoints import job_ids
from tests.integration.jobs_lab import Lab, publish_ticks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

KILLS = int(os.environ.get("TICKWISE_TEST_KILLS", "3"))
AT_ONCE = 2


@pytest.fixture(scope="module")
def lab(kafka, model_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("disturbed")
    lab = Lab(kafka, publish_ticks(kafka), folder, model_store(folder / "home"))
    lab.start_runner(max_parallel=AT_ONCE)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def undisturbed(lab):
    """Hash of the weights and length in seconds of the job that the others are compared with."""
    job = lab.until_final(lab.submit(lab.pipeline("calm"), seed=3))
    assert job.state is JobState.SUCCEEDED, job.error
    return lab.weights_hash("calm"), (job.finished_ns - job.started_ns) / 1e9


@pytest.fixture
def apart(lab, model_store, tmp_path):
    """The same topic with stores of its own, so that runners of other tests stay out of it."""
    apart = Lab(lab.kafka, lab.topic, tmp_path, model_store(tmp_path / "home"))
    yield apart
    apart.close()


def test_a_job_killed_at_any_moment_gives_the_same_model_and_one_version(lab, undisturbed):
    weights, length_s = undisturbed
    moments = {f"killed-{number}": random.uniform(0, length_s) for number in range(KILLS)}

    for names in (list(moments)[start : start + AT_ONCE] for start in range(0, KILLS, AT_ONCE)):
        jobs = {name: lab.submit(lab.pipeline(name), seed=3) for name in names}
        for name in sorted(names, key=moments.__getitem__):
            pid = lab.pid_of(jobs[name])
            left_s = lab.store.get(jobs[name].id).started_ns / 1e9 + moments[name] - time.time()
            time.sleep(max(0.0, left_s))
            with suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
        for name, job in jobs.items():
            ended = lab.until_final(job)
            said = f"{name} at {moments[name]:.2f} of {length_s:.2f} s"
            assert ended.state is JobState.SUCCEEDED, f"{said}: {ended.error}"
            assert lab.weights_hash(name) == weights, said
            assert lab.run_states(name)[0] == "FINISHED", said
            assert "RUNNING" not in lab.run_states(name), said
    assert job_ids(lab.home) == []


def test_a_job_whose_runner_is_killed_gives_the_same_model(apart, undisturbed):
    job = apart.submit(apart.pipeline("orphan"), seed=3)
    runner = apart.start_runner(lease_s=3)
    apart.until(lambda: (apart.store.get(job.id).progress or {}).get("stage") in ("train", "register"))
    runner.kill()
    runner.wait()

    apart.start_runner(lease_s=3)
    ended = apart.until_final(job)

    assert (ended.state, ended.attempt, ended.losses) == (JobState.SUCCEEDED, 2, 1), ended.error
    assert apart.weights_hash("orphan") == undisturbed[0]


def test_a_job_on_ray_gives_the_same_model_and_its_log(apart, undisturbed, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)  # its sockets have short path limits
        apart.start_runner(runner_executor="ray", ray_address="local")
        ended = apart.until_final(apart.submit(apart.pipeline("far"), seed=3), timeout_s=300)

        assert ended.state is JobState.SUCCEEDED, ended.error
        assert apart.weights_hash("far") == undisturbed[0]
        apart.until(lambda: apart.logged("register"))  # its log comes back on its own
        assert [entry["job"] for entry in apart.logged("register")] == [ended.id]
        assert "actor" in apart.logged("start-job")[0]
        apart.close()
