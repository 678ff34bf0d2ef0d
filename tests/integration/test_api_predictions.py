"""Predictions asked for over HTTP equal those that a real worker wrote to a real Kafka."""

import warnings
from contextlib import asynccontextmanager

import httpx
import pytest

from api.server import create_app
from api.settings import ServerSettings
from data_io.data_fetcher.sources import open_source
from data_io.publisher import publish
from data_io.topics import admin
from ml_core.types import TickBatch
from model_ops_manager.mlflow_agent import MlflowAgent
from tests.api.model_lab import make_model
from tests.integration.worker_lab import stop

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

SOURCE = "synthetic:symbols=12,ticks=4000,rate=40,seed=3"  # 100 s of events: warm-up takes 30 s

WINDOW = 8


class Part:
    """Ticks ``[start, end)`` of a source."""

    def __init__(self, source, start, end):
        self.source, self.start, self.end, self.ts_source = source, start, end, source.ts_source

    def stream(self, batch_size=65536):
        at = 0
        for batch in self.source.stream(batch_size):
            columns = [column[max(self.start - at, 0) : max(self.end - at, 0)] for column in batch[:-1]]
            at += len(batch)
            yield TickBatch(*columns, symbols=batch.symbols)


@asynccontextmanager
async def serving(lab, spec):
    settings = ServerSettings.read(
        kafka=lab.kafka, home=lab.home, pipelines=lab.folder / f"{spec.name}.json.toml", champion_poll_s=0.2
    )
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client, app.state.parts


def register_champion(lab, spec):
    agent = MlflowAgent(f"sqlite:///{lab.home.absolute() / 'mlflow.db'}", lab.home)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts of MLflow warn about MLflow's own type hints when they are imported
        from model_ops_manager.registration import register

        version = register(agent, make_model(spec), params={}, tags={})
    agent.set_champion(spec.name, version.version, reason="first")


async def newest_of(lab, spec, count):
    """Wait for ``count`` rows and the predictions for them, and return the last prediction of each symbol."""

    async def whole():
        made = await lab.live_rows(spec)
        found = {tuple(map(int, each["id"].split("-")[-3:])): each for each in await lab.predictions(spec)}
        return found if len(made) >= count and max(made) in found and min(made) in found else None

    found = await lab.until(whole)
    assert len(found) == count
    return {found[name]["symbol"]: found[name] for name in sorted(found)}


async def test_answers_equal_the_stream_while_rows_keep_coming(lab):
    source = open_source(SOURCE)
    spec = lab.pipeline(
        "asked", features={"window": WINDOW, "use": ["return:1s", "queue_imbalance"]}, label={"horizons": ["1s", "10s"]}
    )
    register_champion(lab, spec)
    process = lab.start(spec)
    await lab.until(lambda: "champion loaded" in lab.log())
    async with serving(lab, spec) as (client, parts):
        followed = parts.rows[spec.feature_set]
        topic_id = (await admin.describe(lab.kafka, lab.topic)).topic_id
        for start, end in ((0, 2000), (2000, 4000)):
            await publish(Part(source, start, end), bootstrap=lab.kafka, topic=lab.topic)
            streamed = await newest_of(lab, spec, end)
            assert len(streamed) == 12

            def caught_up(streamed=streamed):
                if followed.problem is not None:
                    return False
                held = {s: followed.newest(s, WINDOW).row.ts_ns_N[0] for s in streamed if followed.symbols == 12}
                return held == {symbol: each["ts"] for symbol, each in streamed.items()}

            await lab.until(caught_up)
            for symbol, record in streamed.items():
                answer = await client.post("/v1/predictions", json={"pipeline": spec.name, "symbol": symbol})
                assert answer.status_code == 200, answer.text
                body = answer.json()
                assert body.pop("feature_age_s") > 0
                assert body == record
                assert body["id"].startswith(f"{topic_id}-")
                assert set(body["scores"]) == {"1s", "10s"}
            assert "ok" in {each["status"] for each in streamed.values()}, streamed
        assert (await client.get("/readyz")).text == "ok"
    assert stop(process) == 0
