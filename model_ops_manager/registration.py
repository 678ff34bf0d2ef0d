"""Writes a fitted model to the model store as one that any user of MLflow can load and serve."""

import hashlib
import importlib
import json
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import mlflow.onnx
import numpy as np
import onnx
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelStatus, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from ml_core.contract import ModelContract
from ml_core.errors import ModelStoreUnavailableError
from ml_core.model.fitted import FittedModel
from model_ops_manager import experiments
from model_ops_manager import recipe as recipes
from model_ops_manager.mlflow_agent import JOB_TAG, METRICS_TAG, MlflowAgent, ModelVersion, as_version
from model_ops_manager.recipe import Recipe

with warnings.catch_warnings():
    # MLflow warns of a type hint of its own, when its models are first saved or loaded
    warnings.filterwarnings("ignore", message=r".*Any type hint is inferred as AnyType", category=UserWarning)
    importlib.import_module("mlflow.pyfunc")

_SERVED_WITH = ("mlflow", "onnx", "onnxruntime", "numpy")
_MAX_VALUE = 6000  # characters of a parameter that MLflow stores
_MAX_METRICS = 1000  # that MLflow takes at once; boosting has two a round
_AWAIT_S = 10
_DATASET_TRIES = 3


def register(
    agent: MlflowAgent,
    model: FittedModel,
    *,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    recipe: Recipe | None = None,
) -> ModelVersion:
    """Log ``model`` with its files, parameters, metrics and data set, and register it as its pipeline's next version.

    The version is made by the last call of all: a failure before leaves a run marked FAILED and no version.

    Args:
        agent: The store.
        model: What training gave; its contract says what it was trained on.
        params: Parameters of the run.
        tags: Of run and version; ``tickwise.job`` names the job. A job that has registered before gets that version.
        recipe: What the model was trained by; without one nobody can reproduce it.

    Raises:
        ModelStoreUnavailableError: The store did not answer. A retry is safe.
    """
    name, client = model.contract.pipeline, agent.client()
    if JOB_TAG in tags and (known := agent.version_of_job(name, tags[JOB_TAG])) is not None:
        return known
    with agent.errors():
        experiment = experiments.of_pipeline(agent, name)
        run_id = client.create_run(experiment, run_name=tags.get(JOB_TAG), tags=dict(tags)).info.run_id
        with _marked_failed_on_error(agent, run_id):
            _log_run(agent, run_id, model, params)
            model_id, place = _log_model(agent, run_id, experiment, model, tags, recipe)
            _ensure_registered(agent, name)
            client.set_terminated(run_id)
            made = client.create_model_version(
                name,
                source=place,  # MLflow looks for a models:/ source in the store of its global state
                run_id=run_id,
                model_id=model_id,
                tags={**tags, METRICS_TAG: json.dumps(model.contract.metrics)},
                await_creation_for=_AWAIT_S,
            )
            return as_version(made)


@contextmanager
def _marked_failed_on_error(agent: MlflowAgent, run_id: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(ModelStoreUnavailableError), agent.errors():
            agent.client().set_terminated(run_id, "FAILED")
        raise


def _ensure_registered(agent: MlflowAgent, name: str) -> None:
    try:
        agent.client().create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _log_run(agent: MlflowAgent, run_id: str, model: FittedModel, params: Mapping[str, Any]) -> None:
    client, now_ms = agent.client(), time.time_ns() // 1_000_000
    metrics = [Metric(key, value, now_ms, 0) for key, value in model.contract.metrics.items()]
    for epoch in model.report.get("epochs", []):
        figures = {key: value for key, value in epoch.items() if key != "epoch" and value is not None}
        metrics += [Metric(key, float(value), now_ms, int(epoch["epoch"])) for key, value in figures.items()]
    given = [Param(key, str(value)[:_MAX_VALUE]) for key, value in params.items()]
    client.log_batch(run_id, params=given)
    for start in range(0, len(metrics), _MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + _MAX_METRICS])
    if model.contract.topic is None and model.contract.source_hash is None:
        return  # trained elsewhere: nobody here knows on what
    for tries_left in reversed(range(_DATASET_TRIES)):
        try:
            client.log_inputs(run_id, datasets=[_dataset(model.contract)])
        except MlflowException:  # MLflow looks before it inserts: of two jobs with equal ranges one may meet the other
            if not tries_left:
                raise
        else:
            return


def _dataset(contract: ModelContract) -> DatasetInput:
    """Return where the ticks came from: exact offsets, or the hash of a file."""
    ranges = [each.model_dump() for each in contract.ranges]
    source = json.dumps({"topic": contract.topic, "ranges": ranges, "file_hash": contract.source_hash})
    digest = contract.source_hash or hashlib.sha256(source.encode()).hexdigest()[:16]
    kind = "kafka" if contract.topic else "file"
    profile = {"from_ns": contract.trained_from_ns, "to_ns": contract.trained_to_ns}
    dataset = Dataset(
        name=contract.topic or contract.pipeline,
        digest=digest[:36],
        source_type=kind,
        source=source,
        profile=json.dumps(profile),
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])


def _log_model(
    agent: MlflowAgent,
    run_id: str,
    experiment: str,
    model: FittedModel,
    tags: Mapping[str, str],
    recipe: Recipe | None,
) -> tuple[str, str]:
    """Return the id of the logged model and where its files are."""
    client = agent.client()
    logged = client.create_logged_model(
        experiment, name=model.contract.pipeline, source_run_id=run_id, tags=dict(tags), model_type="onnx"
    )
    try:
        with tempfile.TemporaryDirectory(prefix="tickwise-model-") as folder:
            _write_flavour(Path(folder) / "model", model, run_id, logged.model_id)
            if recipe is not None:
                (Path(folder) / "model" / recipes.FILE).write_text(recipe.model_dump_json(indent=2), encoding="utf-8")
            client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
    except BaseException:
        with suppress(ModelStoreUnavailableError), agent.errors():
            client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return logged.model_id, logged.artifact_location


def _write_flavour(folder: Path, model: FittedModel, run_id: str, model_id: str) -> None:
    """Write ``model`` as MLflow's onnx flavour with our files beside it."""
    contract = model.contract
    row = TensorSpec(np.dtype(np.float32), (-1, contract.window, len(contract.features)), "x")
    answer = TensorSpec(np.dtype(np.float32), (-1, contract.outputs), "y")
    mlflow.onnx.save_model(
        onnx.load_from_string(model.onnx),
        str(folder),
        signature=ModelSignature(inputs=Schema([row]), outputs=Schema([answer])),
        mlflow_model=Model(run_id=run_id, model_id=model_id),
        # stated, because MLflow would find them out by loading the model in a process of its own
        pip_requirements=[f"{name}=={installed(name)}" for name in _SERVED_WITH],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )
    model.save(folder)  # writes the graph again: the very bytes that were probed
