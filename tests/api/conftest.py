"""The real application on a real job store and a real model store; Kafka is away unless a test brings it."""

from contextlib import asynccontextmanager

import httpx
import pytest

from api.server import create_app
from api.settings import ServerSettings

PIPELINE = """
name = "demo"
[features]
use = ["return:1s", "queue_imbalance"]
[label]
horizons = ["1s"]
"""
# nothing listens on this port of the loopback address
NO_KAFKA = "127.0.0.1:1"


@pytest.fixture
def make_settings(tmp_path):
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "demo.toml").write_text(PIPELINE)

    def make(**given):
        return ServerSettings.read(
            **{
                "home": tmp_path,
                "pipelines": folder,
                "kafka": NO_KAFKA,
                "mlflow_tracking_uri": f"sqlite:///{tmp_path / 'mlflow.db'}",
                "event_poll_s": 0.01,
                **given,
            }
        )

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
