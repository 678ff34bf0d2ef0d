"""The worker with models from a real MLflow: crashes change no score, a moved alias is followed, a bad one refused."""

import pytest

from data_io.data_fetcher.sources import open_source
from data_io.topics import admin, arrow_records
from data_io.topics import predictions as predictions_topic
from ml_core import fit as learning
from ml_core.model.export import restated
from ml_core.spec import PipelineSpec
from model_ops_manager.mlflow_agent import MlflowAgent
from model_ops_manager.registration import register
from streams.transport.published import of_predictions, published
from tests.integration.worker_lab import stop

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

SOURCE = "synthetic:symbols=6,ticks={ticks},rate=50,seed={seed}"
PARTS = {"label": {"horizons": ["1s"]}, "train": {"epochs": 2, "min_rows": 500}, "features": {"window": 4}}


@pytest.fixture(scope="module")
def fitted() -> learning.FittedModel:
    spec = PipelineSpec.model_validate({"name": "fitted", **PARTS})
    return learning.fit(open_source(SOURCE.format(ticks=8_000, seed=1)).fetch(), spec).model


@pytest.fixture
def store(lab) -> MlflowAgent:
    return MlflowAgent(f"sqlite:///{lab.home / 'mlflow.db'}", lab.home)


def crown(store: MlflowAgent, spec: PipelineSpec, model: learning.FittedModel) -> int:
    """Register ``model`` for ``spec`` and make it champion."""
    version = register(store, restated(model, pipeline=spec.name), params={}, tags={})
    store.set_champion(spec.name, version.version, reason="test")
    return version.version


def by_name(predictions: list[dict]) -> dict[str, tuple]:
    """What each prediction says, by its id; a name that was written twice must say the same twice."""
    found: dict[str, tuple] = {}
    for each in predictions:
        said = tuple(each[key] for key in ("symbol", "ts", "horizon", "score", "version", "status", "reason"))
        assert found.setdefault(each["id"], said) == said, f"two values under one name: {each['id']}"
    return found


async def test_predictions_as_arrow_equal_those_as_json_also_after_a_kill(lab, store, fitted) -> None:
    plain, arrow = lab.pipeline("json", **PARTS), lab.pipeline("arrow", **PARTS, predictions={"format": "arrow"})
    for spec in (plain, arrow):
        crown(store, spec, fitted)
    await lab.publish(SOURCE.format(ticks=4_000, seed=2))
    process = lab.start(arrow, instance="a")
    await lab.until_rows(arrow, 4_000)
    process.kill()
    process.wait(10)
    await lab.publish("synthetic:symbols=9,ticks=4000,rate=200,seed=3")
    processes = [lab.start(arrow, instance="a"), lab.start(plain)]
    expected = await lab.expected_rows(arrow)
    for spec in (arrow, plain):
        await lab.until_rows(spec, len(expected))
    assert [stop(process) for process in processes] == [0, 0]

    found = by_name(await lab.predictions(arrow))

    assert len(found) == len(expected)
    assert found == by_name(await lab.predictions(plain))
    topic = predictions_topic.name(arrow.name)
    records = [record async for record in lab.records(topic, 0)]
    assert {dict(record.headers)["content-type"] for record in records} == {arrow_records.CONTENT_TYPE}
    newest = [max(offset for number, offset, _ in expected if number == partition) for partition in (0, 1)]
    topic_id = (await admin.describe(lab.kafka, lab.topic)).topic_id
    reached = [
        (await published(lab.kafka, {topic: of_predictions}, partition, topic_id))[topic] for partition in (0, 1)
    ]
    assert [each.place for each in reached] == [(offset, 0) for offset in newest]


async def test_a_moved_alias_is_followed_without_restart_and_no_row_is_scored_twice(lab, store, fitted) -> None:
    spec = lab.pipeline("moved", **PARTS)
    first = crown(store, spec, fitted)
    process = lab.start(spec)
    await lab.publish(SOURCE.format(ticks=4_000, seed=2))
    await lab.until_rows(spec, 4_000)
    second = crown(store, spec, fitted)
    await lab.until(lambda: lab.log().count("models swapped") >= 4)  # two partitions, two models
    await lab.publish("synthetic:symbols=9,ticks=4000,rate=200,seed=3")
    expected = await lab.expected_rows(spec)
    await lab.until_rows(spec, len(expected))
    assert stop(process) == 0

    predictions = await lab.predictions(spec)

    assert len(predictions) == len(by_name(predictions)) == len(expected)
    assert [each["version"] for each in predictions].count(second) == len(expected) - 4_000
    assert {each["version"] for each in predictions} == {first, second}


async def test_a_model_that_does_not_fit_is_refused_and_the_old_one_stays(lab, store, fitted) -> None:
    spec = lab.pipeline("refused", **PARTS)
    good = crown(store, spec, fitted)
    process = lab.start(spec)
    await lab.until(lambda: "models swapped" in lab.log())
    bad = crown(store, spec, restated(fitted, feature_hash="0" * 16))
    await lab.until(lambda: "schema: trained on features 0000000000000000" in lab.log())
    await lab.publish(SOURCE.format(ticks=2_000, seed=2))
    await lab.until_rows(spec, 2_000)
    assert stop(process) == 0

    assert {each["version"] for each in await lab.predictions(spec)} == {good} != {bad}
