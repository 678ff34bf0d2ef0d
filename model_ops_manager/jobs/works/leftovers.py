"""Runs of MLflow that a killed attempt left behind as if they went on."""

from ml_core.errors import JobNotFoundError
from model_ops_manager.jobs.job import Job
from model_ops_manager.jobs.store import JobStore
from model_ops_manager.mlflow_agent import JOB_TAG, MlflowAgent


def end_leftovers(agent: MlflowAgent, store: JobStore, job: Job) -> None:
    """Mark as failed the running runs of ``job``, of its attempts before, and of other jobs of its pipeline that ended.

    None of them has a version: a run is finished before its version is made.

    Raises:
        ModelStoreUnavailableError, JobStoreUnavailableError: A retry is safe.
    """
    client = agent.client()
    with agent.errors():
        experiment = client.get_experiment_by_name(job.spec.pipeline)
        if experiment is None:
            return
        running = client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
    for run in running:
        owner = run.data.tags.get(JOB_TAG)
        if owner is not None and (owner == job.id or is_over(store, owner)):
            with agent.errors():
                client.set_terminated(run.info.run_id, "FAILED")


def is_over(store: JobStore, job_id: str) -> bool:
    """Return whether a job has reached its final state; of a job that ``store`` does not know nobody here can tell."""
    try:
        return store.get(job_id).state.is_final
    except JobNotFoundError:  # of another store, whose runner may be at it
        return False
