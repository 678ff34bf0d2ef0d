"""The model store in the words of tickwise: find the champion, load it natively, move the alias.

Only ``MlflowClient`` with explicit ids is used, so several threads and jobs never meet in MLflow's global state. What
writes models stands in ``registration.py``, which needs the training extra.
"""

import fcntl
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from ml_core.errors import ModelNotFoundError, ModelRefusedError, ModelStoreUnavailableError
from ml_core.model.fitted import FILES, MODEL, FittedModel
from ml_core.model.runtime import MAX_BYTES

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
METRICS_TAG, DECISION_TAG, JOB_TAG = "tickwise.metrics", "tickwise.decision", "tickwise.job"
# Twice 3 s and a pause of at most 2 s: a server that is away is reported within 10 s; MLflow's defaults wait minutes.
# An operator's own values win.
LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
INIT_WAIT_S = 60  # the first use of an empty SQLite file runs all migrations of MLflow
_NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the latter for an alias that is not set


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
    """The models of all pipelines; a pipeline's registered model has its name. Calls block and are safe in threads.

    Every method raises ModelStoreUnavailableError when the store does not answer; a retry is safe.
    """

    def __init__(self, tracking_uri: str, home: Path) -> None:
        """Use the store at ``tracking_uri``; a local one keeps its files under ``home``. Nothing is contacted yet."""
        self.tracking_uri, self.home = tracking_uri, home.absolute()
        self._made: MlflowClient | None = None
        self._lock = Lock()

    @property
    def artifact_root(self) -> str | None:
        """Where files of a store without a server go; None where the server decides."""
        is_remote = self.tracking_uri.startswith("http")
        return None if is_remote else (self.home / "mlartifacts").as_uri()

    def champion(self, name: str) -> ModelVersion | None:
        """Return the version with the alias ``champion``; None where there is none."""
        try:
            with self.errors(f"no champion of {name}"):
                return as_version(self.client().get_model_version_by_alias(name, CHAMPION))
        except ModelNotFoundError:
            return None

    def version(self, name: str, number: int) -> ModelVersion:
        """Return one version.

        Raises:
            ModelNotFoundError: There is none of that number. A retry will not help.
        """
        with self.errors(f"no version {number} of {name}"):
            return as_version(self.client().get_model_version(name, str(number)))

    def versions(self, name: str, limit: int = 100) -> list[VersionDetails]:
        """Return the newest versions of ``name``, newest first; empty where there are none."""
        with self.errors(f"no model {name}"):
            found = self.client().search_model_versions(
                f"name = '{name}'", max_results=limit, order_by=["version_number DESC"]
            )
        return [_details(each) for each in found]

    def version_of_job(self, name: str, job_id: str) -> ModelVersion | None:
        """Return the version that the job registered; None where it did not."""
        with self.errors(f"no model {name}"):
            found = self.client().search_model_versions(
                f"name = '{name}' AND tag.`{JOB_TAG}` = '{job_id}'", max_results=1
            )
        return as_version(found[0]) if found else None

    def set_champion(self, name: str, number: int, *, reason: str, figures: Mapping[str, Any] | None = None) -> None:
        """Move the alias ``champion`` to a version, and note why on the version.

        When the store does not answer, whether the alias moved is unknown.

        Raises:
            ModelNotFoundError: There is none of that number. A retry will not help.
        """
        self.note_decision(name, number, promote=True, reason=reason, figures=figures or {})
        with self.errors(f"no version {number} of {name}"):
            self.client().set_registered_model_alias(name, CHAMPION, str(number))

    def set_challenger(self, name: str, number: int) -> None:
        """Move the alias ``challenger``, which serves nothing, to a version; raises as ``set_champion``."""
        with self.errors(f"no version {number} of {name}"):
            self.client().set_registered_model_alias(name, CHALLENGER, str(number))

    def note_decision(self, name: str, number: int, *, promote: bool, reason: str, figures: Mapping[str, Any]) -> None:
        """Write on a version whether it was promoted, and on what figures; raises as ``set_champion``."""
        text = json.dumps({"promote": promote, "reason": reason, "figures": dict(figures)})
        with self.errors(f"no version {number} of {name}"):
            self.client().set_model_version_tag(name, str(number), DECISION_TAG, text)

    def load_onnx(self, version: ModelVersion) -> bytes:
        """Return the graph of a version as it was registered, bit for bit.

        Raises:
            ModelNotFoundError: The version has no such file. A retry will not help.
            ModelRefusedError: The file is larger than a model may be (``too_large``). A retry will not help.
        """
        return self.load_file(version, MODEL)

    def load_fitted(self, version: ModelVersion) -> FittedModel:
        """Return a version with its weights, to go on training from it; raises as ``load_onnx``."""
        with tempfile.TemporaryDirectory(prefix="tickwise-model-") as folder:
            self._download(version, FILES, Path(folder))
            return FittedModel.load(Path(folder))

    def load_file(self, version: ModelVersion, name: str) -> bytes:
        """Return one file of a version; raises as ``load_onnx``."""
        with tempfile.TemporaryDirectory(prefix="tickwise-model-") as folder:
            return self._download(version, [name], Path(folder))[0].read_bytes()

    def _download(self, version: ModelVersion, names: list[str] | tuple[str, ...], folder: Path) -> list[Path]:
        from mlflow.artifacts import download_artifacts, list_artifacts

        client, said = self.client(), f"version {version.version} of {version.name}"
        with self.errors(f"{said} has no files"):
            root = client.get_model_version_download_uri(version.name, str(version.version))
            if root.startswith("models:/m-"):
                root = client.get_logged_model(root.removeprefix("models:/")).artifact_location
            listed = list_artifacts(artifact_uri=root, tracking_uri=self.tracking_uri)
            sizes = {Path(each.path).name: each.file_size or 0 for each in listed}
            missing = [name for name in names if name not in sizes]
            if missing:
                raise ModelNotFoundError(f"{said} has no {', '.join(missing)}; was it registered by tickwise?")
            large = [name for name in names if sizes[name] > MAX_BYTES]
            if large:
                raise ModelRefusedError(f"too_large: {large[0]} of {said} has {sizes[large[0]]} bytes")
            place = {"dst_path": str(folder), "tracking_uri": self.tracking_uri}
            return [Path(download_artifacts(f"{root}/{name}", **place)) for name in names]

    def client(self) -> "MlflowClient":
        """Return the client, made on first use."""
        with self._lock:
            if self._made is None:
                with self.errors(f"no model store of the kind {urlsplit(self.tracking_uri).scheme!r} is known"):
                    self._made = self._make_client()
            return self._made

    @contextmanager
    def errors(self, not_found: str | None = None) -> Iterator[None]:
        """Translate MLflow's errors; ``not_found`` is what a missing thing is called, None where nothing can be."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except MlflowException as error:
            if not_found is not None and error.error_code in _NOT_FOUND:
                raise ModelNotFoundError(not_found) from error
            raise self._away(error) from error
        except (OSError, SQLAlchemyError) as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> ModelStoreUnavailableError:
        netloc = urlsplit(self.tracking_uri).netloc  # may hold a password, and MLflow's messages repeat it
        said = f"the model store {self.tracking_uri} did not do as asked: {str(error) or type(error).__name__}"
        return ModelStoreUnavailableError(said.splitlines()[0].replace(netloc, netloc.rpartition("@")[2])[:500])

    def _make_client(self) -> "MlflowClient":
        for key, value in LIMITS.items():
            os.environ.setdefault(key, value)
        from mlflow import MlflowClient
        from sqlalchemy.exc import SADeprecationWarning

        # MLflow maps its tables in a way that SQLAlchemy 2.1 no longer likes; it is theirs to change, and works.
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=SADeprecationWarning)
        for name in ("mlflow", "alembic"):  # at INFO they tell of every migration, and not in our log format
            logging.getLogger(name).setLevel(logging.WARNING)
        if self.artifact_root is None:
            return MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)
        # Processes that find an empty database at once would all try to create its tables.
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "mlflow.lock").open("w") as lock:
            _wait_for(lock.fileno())
            client = MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
            return client


def as_version(found: Any) -> ModelVersion:
    """Return MLflow's model version in our words."""
    return ModelVersion(found.name, int(found.version), found.run_id or "", found.source)


def _details(found: Any) -> VersionDetails:
    own = (METRICS_TAG, DECISION_TAG)
    return VersionDetails(
        version=int(found.version),
        created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        metrics=json.loads(found.tags.get(METRICS_TAG, "{}")),
        decision=json.loads(found.tags.get(DECISION_TAG, "{}")),
        tags={key: value for key, value in found.tags.items() if key not in own},
    )


def _wait_for(lock: int) -> None:
    deadline = time.monotonic() + INIT_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process initialises the model store since {INIT_WAIT_S} s") from None
            time.sleep(0.05)
        else:
            return
