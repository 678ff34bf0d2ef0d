"""The real application on a real job store and a real model store; Kafka is away unless a test brings it."""

import shutil
import warnings
from contextlib import asynccontextmanager

import httpx
import pytest

from api.server import create_app
from api.settings import ServerSettings
from ml_core.spec import load_all
from model_ops_manager.mlflow_agent import MlflowAgent
from tests.api.model_lab import make_model

PIPELINE = """
name = "{name}"
[features]
window = {window}
use = ["return:1s", "queue_imbalance"]
[label]
horizons = ["1s"]
"""
WINDOWS = {"demo": 1, "windows": 3, "untrained": 1}
# nothing listens on this port of the loopback address
NO_KAFKA = "127.0.0.1:1"


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """A folder of three pipelines."""
    folder = tmp_path_factory.mktemp("pipelines")
    for name, window in WINDOWS.items():
        (folder / f"{name}.toml").write_text(PIPELINE.format(name=name, window=window))
    return folder


@pytest.fixture(scope="session")
def model_store(pipelines, tmp_path_factory):
    """A folder with a model store: two versions of `demo` and one of `windows`, the first of each is champion."""
    home, specs = tmp_path_factory.mktemp("models"), load_all(pipelines)
    agent = MlflowAgent(f"sqlite:///{home / 'mlflow.db'}", home)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts of MLflow warn about MLflow's own type hints when they are imported
        from model_ops_manager.registration import register

        for name, seed in (("demo", 0), ("demo", 1), ("windows", 0)):
            version = register(agent, make_model(specs[name], seed=seed), params={"seed": seed}, tags={})
            agent.note_decision(name, version.version, promote=seed == 0, reason="by hand", figures={})
        for name in ("demo", "windows"):
            agent.set_champion(name, 1, reason="first")
    return home


@pytest.fixture
def make_settings(tmp_path, pipelines, model_store):
    shutil.copy(model_store / "mlflow.db", tmp_path / "mlflow.db")

    def make(**given):
        defaults = {"home": tmp_path, "pipelines": pipelines, "kafka": NO_KAFKA, "event_poll_s": 0.01}
        return ServerSettings.read(**{**defaults, **given})

    return make


@pytest.fixture
def make_client(make_settings):
    """Return a context manager: a client of a server that was started with some settings."""

    @asynccontextmanager
    async def make(**given):
        app = create_app(make_settings(**given))
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", timeout=20) as client:
                client.parts = app.state.parts
                yield client

    return make


@pytest.fixture
async def client(make_client):
    async with make_client() as client:
        yield client


@pytest.fixture
def serving_of():
    """Return the model that a server serves, once it has seen it."""

    async def wait(client, name="demo"):
        follower = client.parts.followers[name]
        await follower.poll()
        assert follower.problem is None
        return follower.current

    return wait
