"""Runs that killed attempts left in the model store."""

import pytest

from ml_core.spec import parse
from ml_core.types import JobSpec
from model_ops_manager.jobs.store import JobStore
from model_ops_manager.jobs.works.leftovers import end_leftovers
from model_ops_manager.mlflow_agent import JOB_TAG


@pytest.fixture
def store(tmp_path):
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield store
    store.close()


def test_runs_that_nobody_works_on_are_ended_and_others_stay(store, tmp_path, model_store):
    agent, pipeline = model_store(tmp_path), parse({"name": "demo"})
    client = agent.client()
    own, other, over = (store.submit(JobSpec(pipeline="demo"), pipeline) for _ in range(3))
    store.request_cancel(over.id)
    end_leftovers(agent, store, own)  # there is no experiment yet
    experiment = client.create_experiment("demo")
    owners = {"own": own.id, "other": other.id, "over": over.id, "elsewhere": "train-1", "by hand": None}
    runs = {
        name: client.create_run(experiment, tags={} if job_id is None else {JOB_TAG: job_id}).info.run_id
        for name, job_id in owners.items()
    }

    end_leftovers(agent, store, own)

    states = {name: client.get_run(run_id).info.status for name, run_id in runs.items()}
    assert states == {
        "own": "FAILED",
        "over": "FAILED",
        "other": "RUNNING",
        "elsewhere": "RUNNING",
        "by hand": "RUNNING",
    }
