"""A version is trained once more from its ticks in Kafka; predictions of past ticks equal those of a file."""

import asyncio
import json
import secrets
import subprocess
import sys
from contextlib import closing

import numpy as np
import pyarrow.parquet as pq
import pytest
from aiokafka import TopicPartition

from api import cli
from data_io import log_reader
from data_io.data_fetcher.kafka_range import fetch_ranges, newest_ranges
from data_io.data_fetcher.sources import open_source
from data_io.publisher import publish
from data_io.topics.admin import ensure_topics
from data_io.topics.ticks import TickDecoder, topic_spec
from ml_core.errors import InputError, LeaseLostError
from ml_core.fit import fit
from ml_core.model.export import restated
from ml_core.spec import parse
from ml_core.types import JobSpec
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.jobs.store import JobStore
from model_ops_manager.jobs.works import base
from model_ops_manager.jobs.works.predict import Predict
from model_ops_manager.mlflow_agent import MlflowAgent
from model_ops_manager.recipe import Recipe
from model_ops_manager.registration import register

pytestmark = pytest.mark.integration

SOURCE = "synthetic:symbols=3,ticks=9000,rate=100,seed=5,edge=3"
PIPELINE = """
name = "again"
source = {{ topic = "{topic}" }}
features = {{ use = ["queue_imbalance"] }}
label = {{ horizons = ["1s"] }}
train = {{ epochs = 2, min_rows = 200 }}
"""


def tickwise(home, kafka, *words):
    environment = {"TICKWISE_HOME": str(home), "TICKWISE_KAFKA": kafka, "TICKWISE_PIPELINES": str(home / "p.toml")}
    found = subprocess.run(
        [sys.executable, "-m", "api.cli", *words, "--json"],
        capture_output=True, text=True, timeout=120, check=False, env={"PATH": "/usr/bin", **environment},
    )  # fmt: skip
    return found.returncode, json.loads(found.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def spec():
    topic = f"ticks-{secrets.token_hex(4)}"
    return parse({"name": "again", "source": {"topic": topic}, "features": {"use": ["queue_imbalance"]},
                  "label": {"horizons": ["1s"]}, "train": {"epochs": 2, "min_rows": 200}})  # fmt: skip


@pytest.fixture(scope="module")
def version(kafka, spec, home, model_store):
    topic = spec.source.topic
    (home / "p.toml").write_text(PIPELINE.format(topic=topic))

    async def fetched():
        await ensure_topics(kafka, [topic_spec(topic, 2)])
        await publish(open_source(SOURCE), bootstrap=kafka, topic=topic)
        return await fetch_ranges(kafka, topic, await newest_ranges(kafka, topic, 100_000), TickDecoder())

    found = asyncio.run(fetched())
    model = restated(fit(found.frame, spec, seed=4).model, topic=topic, ranges=found.ranges)
    return register(model_store(home), model, params={}, tags={}, recipe=Recipe.of(spec))


def test_a_version_that_is_trained_once_more_is_the_same_to_the_bit(version, kafka, home) -> None:
    code, found = tickwise(home, kafka, "reproduce", f"models:/again/{version.version}")

    assert (code, found["same_weights"], found["ticks"]) == (0, True, 9000)
    assert found["metrics"]
    assert all(recorded == reproduced for recorded, reproduced in found["metrics"].values())


def test_past_ticks_of_a_topic_are_predicted_whole_or_in_a_range(version, kafka, home) -> None:
    def scores(*options):
        out = home / "out.parquet"
        code, said = tickwise(home, kafka, "predict", "again", "--version", "1", "--out", str(out), *options)
        rows = pq.read_table(out).to_pylist()
        assert (code, said["rows"]) == (0, len(rows))
        return {(row["partition"], row["offset"]): (row["score"], row["reason"]) for row in rows}

    whole, part = scores(), scores("--range", "1:1000-1499")

    assert len(whole) == 9000
    assert part == {name: each for name, each in whole.items() if name[0] == 1 and 1000 <= name[1] < 1500}
    assert len(part) == 500


def test_a_job_predicts_what_the_command_does_also_when_it_is_killed_on_its_way(
    version, kafka, home, spec, monkeypatch
) -> None:
    monkeypatch.setattr(base, "PROGRESS_S", 0.0)
    for name, value in {"HOME": home, "KAFKA": kafka, "PIPELINES": home / "p.toml"}.items():
        monkeypatch.setenv(f"TICKWISE_{name}", str(value))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["predict", "again", "--version", "1", "--range", "1:0-1999", "--out", str(home / "command.parquet")])
    assert stopped.value.code == 0
    ranges = [{"partition": 1, "start": 0, "end": 2000}]
    topic = f"past-{secrets.token_hex(4)}"
    settings = RunnerSettings(home=home, kafka=kafka, prediction_topics=[topic])
    agent = MlflowAgent(settings.tracking_uri, home)
    asyncio.run(ensure_topics(kafka, [topic_spec(topic, 2)]))
    with closing(JobStore(settings.job_store_url)) as store:

        def lease(out):
            asked = {"pipeline": "again", "kind": "predict", "ranges": ranges, "predict": {"to": out, "version": 1}}
            store.submit(JobSpec.model_validate(asked), spec)
            return store.lease("test", 60)

        def killed(job, **how):
            if how.get("ticks"):
                raise LeaseLostError("killed")
            return tell(job, **how)

        Predict(lease("job.parquet"), store, agent, settings).run(lambda: None)
        with pytest.raises(InputError, match=f"TICKWISE_PREDICTION_TOPICS names {topic}"):
            Predict(lease("topic:market.ticks.v1"), store, agent, settings).run(lambda: None)
        job, tell = lease(f"topic:{topic}"), store.progress
        with monkeypatch.context() as patch:
            patch.setattr(store, "progress", killed)
            with pytest.raises(LeaseLostError):
                Predict(job, store, agent, settings).run(lambda: None)
        before = len(records(kafka, topic))
        store.retry(job, "killed")
        result = Predict(store.lease("test", 60), store, agent, settings).run(lambda: None)

    file = home / "predictions" / "job.parquet"
    assert file.read_bytes() == (home / "command.parquet").read_bytes()
    rows, sent = pq.read_table(file).to_pylist(), records(kafka, topic)
    assert 0 < before < len(sent) == before + result["rows"] == before + len(rows)
    said = {f"{row['topic_id']}-{row['partition']}-{row['offset']}-{row['index']}": row for row in rows}
    assert {each["id"] for each in sent} == set(said)
    for each in sent:
        row = said[each["id"]]
        assert (each["score"] and np.float32(each["score"]), each["reason"]) == (row["score"], row["reason"])


def records(kafka, topic):
    async def read():
        async with log_reader.consumer(kafka) as consumer:
            held = await log_reader.held(consumer, [TopicPartition(topic, number) for number in range(2)])
            return [json.loads(each.value) async for _, found in log_reader.read(consumer, held) for each in found]

    return asyncio.run(read())
