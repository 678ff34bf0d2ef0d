"""A real Kafka for the integration tests: one for the whole run."""

import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from model_ops_manager.mlflow_agent import MlflowAgent
from streams.local_kafka import broker
from tests.integration.worker_lab import WorkerLab


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap address of the Kafka of this run; ``TICKWISE_TEST_KAFKA`` names one that is there already."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("TICKWISE_KAFKA", raising=False)  # the Kafka people work with is no place for tests
        with broker(os.environ.get("TICKWISE_TEST_KAFKA")) as address:
            yield address


@pytest.fixture
def unique() -> str:
    """A suffix for topic and group names that no other test uses."""
    return secrets.token_hex(4)


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], MlflowAgent]:
    """Return a function that gives a folder an empty model store; MLflow itself takes seconds to make one."""
    empty = tmp_path_factory.mktemp("model-store")
    MlflowAgent(f"sqlite:///{empty / 'mlflow.db'}", empty).client()

    def make(home: Path) -> MlflowAgent:
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(empty / "mlflow.db", home / "mlflow.db")
        return MlflowAgent(f"sqlite:///{home / 'mlflow.db'}", home)

    return make


@pytest.fixture
async def lab(kafka, unique, tmp_path, model_store, compiled_kernels) -> AsyncIterator[WorkerLab]:
    """A topic of ticks and whatever workers the test starts on it."""
    lab = WorkerLab(kafka, unique, tmp_path)
    model_store(lab.home)
    await lab.create_topic()
    try:
        yield lab
    finally:
        lab.stop_all()
