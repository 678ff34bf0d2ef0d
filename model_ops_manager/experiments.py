"""The experiment of a pipeline in the model store: where its runs are."""

from mlflow.exceptions import MlflowException

from model_ops_manager.mlflow_agent import MlflowAgent


def of_pipeline(agent: MlflowAgent, name: str) -> str:
    """Return the id of the experiment of a pipeline, made on first use; inside ``MlflowAgent.errors``."""
    client = agent.client()
    found = client.get_experiment_by_name(name)
    if found is None:
        place = None if agent.artifact_root is None else f"{agent.artifact_root}/{name}"
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException:  # another job may have been first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)
