"""A job that is killed, loses its runner, or runs on Ray gives the model that a notebook makes of the same ticks.

``TICKWISE_TEST_KILLS`` is how often a child is killed at any moment, each in a job of its own; not without it.
"""

import json
import os
import random
import signal
import tempfile
import time
from contextlib import suppress
from functools import partial

import pytest

from api import cli
from data_io.data_fetcher.sources import open_source
from ml_core.fit import fit
from ml_core.model.fitted import FittedModel
from ml_core.spec import parse
from ml_core.types import JobState
from model_ops_manager.jobs.checkpoints import job_ids
from tests.integration.jobs_lab import PIPELINE, SOURCE, Lab, Made, publish_ticks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

KILLS = int(os.environ.get("TICKWISE_TEST_KILLS", "0"))
AT_ONCE = 2


@pytest.fixture(scope="module")
def topic(kafka):
    return publish_ticks(kafka)


@pytest.fixture
def lab(kafka, topic, model_store, tmp_path):
    lab = Lab(kafka, topic, tmp_path, model_store(tmp_path / "home"))
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def undisturbed():
    """What a notebook makes of the same ticks."""
    return Made.of(fit(open_source(SOURCE).fetch(), parse({**PIPELINE, "name": "notebook"}), seed=3).model)


def test_the_command_trains_the_model_of_a_notebook(undisturbed, tmp_path):
    file, out = tmp_path / "file.toml", tmp_path / "model"
    keys = [f"{name}.{key} = {json.dumps(value)}" for name, part in PIPELINE.items() for key, value in part.items()]
    file.write_text("\n".join(['name = "file"', *keys]))
    words = ["--pipeline", str(file), "--history", SOURCE, "--out", str(out), "--seed", "3", "--json"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", *words])

    assert stopped.value.code == 0
    assert Made.of(FittedModel.load(out)) == undisturbed


def test_a_job_that_is_killed_loses_its_runner_and_ends_on_ray_gives_the_model_of_a_notebook(
    lab, undisturbed, monkeypatch
):
    runner = lab.start_runner(lease_s=3)
    job = lab.submit(lab.pipeline("disturbed"), seed=3)
    first = lab.pid_of(job)
    lab.until(lambda: lab.stage_of(job) == "train")
    time.sleep(random.uniform(0, 0.5))
    os.kill(first, signal.SIGKILL)
    lab.until(lambda: lab.pid_of(job) != first and lab.stage_of(job) in ("train", "register"))
    runner.kill()
    runner.wait()

    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)  # its sockets have short path limits
        start_on_ray(lab, job)
        ended = lab.until_final(job, timeout_s=300)

        assert (ended.state, ended.attempt, ended.losses) == (JobState.SUCCEEDED, 3, 2), ended.error
        assert lab.made_by(ended) == undisturbed
        assert lab.until(lambda: job_ids(lab.home) == [])
        assert "actor" in lab.logged("start-job")[-1]
        assert lab.until(lambda: lab.logged("register"))[-1]["attempt"] == 3  # its log comes back on its own
        lab.close()


def start_on_ray(lab, job):
    """Start a runner; Ray gives its parts 30 s to come up, too little for a machine that is busy enough."""
    for _ in range(3):
        runner = lab.start_runner(lease_s=3, runner_executor="ray", ray_address="local")
        took = partial(lambda runner: runner.poll() or lab.store.get(job.id).attempt == 3, runner)
        if lab.until(took) is True:
            return


@pytest.mark.skipif(not KILLS, reason="TICKWISE_TEST_KILLS says how often")
@pytest.mark.timeout(3000)
def test_jobs_killed_at_any_moment_give_the_same_model_and_one_version(lab, undisturbed):
    lab.start_runner(max_parallel=AT_ONCE)
    calm = lab.until_final(lab.submit(lab.pipeline("calm"), seed=3))
    length_s = (calm.finished_ns - calm.started_ns) / 1e9
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
            said = f"{name} at {moments[name]:.2f} of {length_s:.2f} s, attempt {ended.attempt}"
            assert ended.state is JobState.SUCCEEDED, f"{said}: {ended.error}"
            assert lab.made_by(ended) == undisturbed, said
            assert lab.run_states(name)[0] == "FINISHED", said
            assert "RUNNING" not in lab.run_states(name), said
            print(said)  # noqa: T201  # when each was killed
    assert job_ids(lab.home) == []
