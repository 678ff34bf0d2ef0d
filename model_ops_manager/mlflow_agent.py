"""The model store in the words of tickwise: register a model, find the champion, load it natively.

Only ``MlflowClient`` with explicit ids is used, so several threads and jobs never meet in MLflow's global state.
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ml_core.errors import ModelNotFoundError, ModelRefusedError, ModelStoreUnavailableError
from ml_core.model.fitted import FILES, MODEL, FittedModel
from ml_core.model.runtime import MAX_BYTES

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

CHAMPION = "champion"
METRICS_TAG, DECISION_TAG = "tickwise.metrics", "tickwise.decision"
# A store that does not answer is reported in seconds; MLflow's own default waits for minutes.
HTTP_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


class ModelVersion(NamedTuple):
    """One registered version; ``name`` is that of its pipeline."""

    name: str
    version: int
    run_id: str
    source: str  # where MLflow keeps its files


class VersionDetails(NamedTuple):
    """What is known of a version besides its files."""

    version: int
    created_at: datetime
    metrics: dict[str, float]
    decision: dict[str, Any]  # promote, reason, figures; empty before it was judged
    tags: dict[str, str]


class MlflowAgent:
    """Registers and loads the models of pipelines; a pipeline's registered model has its name."""

    def __init__(self, tracking_uri: str, home: Path) -> None:
        """Use the store at ``tracking_uri``; a local one keeps its files under ``home``. Nothing is contacted yet."""
        self.tracking_uri, self.home = tracking_uri, home.absolute()
        self._made: MlflowClient | None = None

    def champion(self, name: str) -> ModelVersion | None:
        """Return the version with the alias ``champion``; None where there is none.

        Raises:
            ModelStoreUnavailableError: The store did not answer. A retry is safe.
        """
        try:
            with self._errors(f"no champion of {name}"):
                return _version(self._client().get_model_version_by_alias(name, CHAMPION))
        except ModelNotFoundError:
            return None

    def version(self, name: str, number: int) -> ModelVersion:
        """Return one version.

        Raises:
            ModelNotFoundError: There is none of that number.
            ModelStoreUnavailableError: The store did not answer. A retry is safe.
        """
        with self._errors(f"no version {number} of {name}"):
            return _version(self._client().get_model_version(name, str(number)))

    def versions(self, name: str, limit: int = 100) -> list[VersionDetails]:
        """Return the newest versions of ``name``, newest first; empty where there are none.

        Raises:
            ModelStoreUnavailableError: The store did not answer. A retry is safe.
        """
        with self._errors(f"no model {name}"):
            found = self._client().search_model_versions(
                f"name = '{name}'", max_results=limit, order_by=["version_number DESC"]
            )
        return [
            VersionDetails(
                version=int(each.version),
                created_at=datetime.fromtimestamp(each.creation_timestamp / 1000, UTC),
                metrics=json.loads(each.tags.get(METRICS_TAG, "{}")),
                decision=json.loads(each.tags.get(DECISION_TAG, "{}")),
                tags={key: value for key, value in each.tags.items() if key not in (METRICS_TAG, DECISION_TAG)},
            )
            for each in found
        ]

    def set_champion(self, name: str, number: int, *, reason: str, figures: Mapping[str, Any] | None = None) -> None:
        """Move the alias ``champion`` to a version, and note why on the version.

        Raises:
            ModelNotFoundError: There is none of that number.
            ModelStoreUnavailableError: The store did not answer; whether the alias moved is unknown. A retry is safe.
        """
        self.version(name, number)
        self.note_decision(name, number, promote=True, reason=reason, figures=figures or {})
        with self._errors(f"no version {number} of {name}"):
            self._client().set_registered_model_alias(name, CHAMPION, str(number))

    def note_decision(self, name: str, number: int, *, promote: bool, reason: str, figures: Mapping[str, Any]) -> None:
        """Write on a version whether it was promoted, and on what figures; raises as ``set_champion``."""
        text = json.dumps({"promote": promote, "reason": reason, "figures": dict(figures)})
        with self._errors(f"no version {number} of {name}"):
            self._client().set_model_version_tag(name, str(number), DECISION_TAG, text)

    def load_onnx(self, version: ModelVersion) -> bytes:
        """Return the graph of a version.

        Raises:
            ModelNotFoundError: The version has no such file.
            ModelRefusedError: The file is larger than a model may be.
            ModelStoreUnavailableError: The store did not answer. A retry is safe.
        """
        with tempfile.TemporaryDirectory(prefix="tickwise-model-") as folder:
            return self._download(version, MODEL, Path(folder)).read_bytes()

    def load_fitted(self, version: ModelVersion) -> FittedModel:
        """Return a version with its weights, to go on training from it; raises as ``load_onnx``."""
        with tempfile.TemporaryDirectory(prefix="tickwise-model-") as folder:
            for name in FILES:
                self._download(version, name, Path(folder))
            return FittedModel.load(Path(folder))

    def register(self, model: FittedModel, *, params: Mapping[str, Any], tags: Mapping[str, str]) -> ModelVersion:
        """Log ``model`` with its files, parameters and metrics, and register it as the next version of its pipeline.

        Registration is the last step: a failure before it leaves a run marked FAILED and no version.

        Raises:
            ModelStoreUnavailableError: The store did not answer. A retry may leave one more run.
        """
        name, client = model.contract.pipeline, self._client()
        with self._errors(f"cannot register a model of {name}"):
            experiment = self._experiment(name)
            run = client.create_run(experiment, run_name=tags.get("tickwise.job"), tags=dict(tags))
            try:
                logged = self._log(run.info.run_id, experiment, model, params, tags)
                self._ensure_registered(name)
                made = client.create_model_version(
                    name,
                    # The place itself: a `models:/m-...` address would be looked up in MLflow's global state.
                    source=logged.artifact_location,
                    run_id=run.info.run_id,
                    model_id=logged.model_id,
                    tags={**tags, METRICS_TAG: json.dumps(model.contract.metrics)},
                )
            except BaseException:
                client.set_terminated(run.info.run_id, "FAILED")
                raise
            client.set_terminated(run.info.run_id)
            return _version(made)

    def _log(
        self, run_id: str, experiment: str, model: FittedModel, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> "LoggedModel":
        from mlflow.entities import Metric, Param

        client, now_ms = self._client(), int(datetime.now(UTC).timestamp() * 1000)
        metrics = [Metric(key, value, now_ms, 0) for key, value in model.contract.metrics.items()]
        for epoch in model.report.get("epochs", []):
            known = {key: value for key, value in epoch.items() if key != "epoch" and value is not None}
            metrics += [Metric(key, value, now_ms, epoch["epoch"]) for key, value in known.items()]
        client.log_batch(run_id, metrics=metrics, params=[Param(key, str(value)) for key, value in params.items()])
        logged = client.create_logged_model(
            experiment, name=model.contract.pipeline, source_run_id=run_id, tags=dict(tags), model_type="onnx"
        )
        with tempfile.TemporaryDirectory(prefix="tickwise-model-") as folder:
            _write_flavour(Path(folder) / "model", model, run_id, logged.model_id)
            client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
        client.finalize_logged_model(logged.model_id, "READY")
        return logged

    def _download(self, version: ModelVersion, file: str, folder: Path) -> Path:
        from mlflow.artifacts import download_artifacts

        with self._errors(f"version {version.version} of {version.name} has no {file}"):
            root = self._client().get_model_version_download_uri(version.name, str(version.version))
            if root.startswith("models:/m-"):
                root = self._client().get_logged_model(root.removeprefix("models:/")).artifact_location
            try:
                path = Path(download_artifacts(f"{root}/{file}", dst_path=str(folder), tracking_uri=self.tracking_uri))
            except OSError as error:
                raise ModelNotFoundError(f"version {version.version} of {version.name} has no {file}") from error
        if path.stat().st_size > MAX_BYTES:
            raise ModelRefusedError(f"too_large: {file} of version {version.version} of {version.name}")
        return path

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        client = self._client()
        found = client.get_experiment_by_name(name)
        if found is None:
            place = None if self.tracking_uri.startswith("http") else (self.home / "mlartifacts" / name).as_uri()
            try:
                return str(client.create_experiment(name, artifact_location=place))
            except MlflowException:  # another job was first
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _ensure_registered(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client().create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _client(self) -> "MlflowClient":
        if self._made is None:
            from mlflow import MlflowClient

            for key, value in HTTP_LIMITS.items():
                os.environ.setdefault(key, value)
            # Two processes that both find an empty SQLite file would both try to create its tables.
            self.home.mkdir(parents=True, exist_ok=True)
            with (self.home / "mlflow.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                client = MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)
                if self.tracking_uri.startswith("sqlite"):
                    client.search_experiments(max_results=1)
            self._made = client
        return self._made

    @contextmanager
    def _errors(self, not_found: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except MlflowException as error:
            if error.error_code in _NOT_FOUND:
                raise ModelNotFoundError(not_found) from error
            raise ModelStoreUnavailableError(f"the model store did not answer: {_first_line(error)}") from error
        except (OSError, SQLAlchemyError) as error:
            raise ModelStoreUnavailableError(f"the model store did not answer: {_first_line(error)}") from error


def _write_flavour(folder: Path, model: FittedModel, run_id: str, model_id: str) -> None:
    """Write ``model`` as a folder that any user of MLflow can load and serve, with our files beside it."""
    import mlflow.onnx
    import numpy as np
    import onnx
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    contract = model.contract
    row = TensorSpec(np.dtype(np.float32), (-1, contract.window, len(contract.features)), "x")
    answer = TensorSpec(np.dtype(np.float32), (-1, contract.outputs), "y")
    mlflow.onnx.save_model(
        onnx.load_from_string(model.onnx),
        str(folder),
        signature=ModelSignature(inputs=Schema([row]), outputs=Schema([answer])),
        mlflow_model=Model(run_id=run_id, model_id=model_id),
        pip_requirements=["mlflow", "onnx", "onnxruntime"],
        save_as_external_data=False,
    )
    model.save(folder)


def _version(found: Any) -> ModelVersion:
    return ModelVersion(found.name, int(found.version), found.run_id or "", found.source)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
