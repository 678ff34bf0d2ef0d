"""A version is trained once more from its ticks in Kafka; predictions of past ticks equal those of a file."""

import asyncio
import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from data_io.data_fetcher.kafka_range import fetch_ranges, newest_ranges
from data_io.data_fetcher.sources import open_source
from data_io.publisher import publish
from data_io.topics.admin import ensure_topics
from data_io.topics.ticks import TickDecoder, topic_spec
from ml_core.fit import fit
from ml_core.model.export import restated
from ml_core.spec import parse
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


@pytest.fixture
def version(kafka, unique, tmp_path, model_store):
    topic = f"ticks-{unique}"
    (tmp_path / "p.toml").write_text(PIPELINE.format(topic=topic))
    spec = parse({"name": "again", "source": {"topic": topic}, "features": {"use": ["queue_imbalance"]},
                  "label": {"horizons": ["1s"]}, "train": {"epochs": 2, "min_rows": 200}})  # fmt: skip

    async def fetched():
        await ensure_topics(kafka, [topic_spec(topic, 2)])
        await publish(open_source(SOURCE), bootstrap=kafka, topic=topic)
        return await fetch_ranges(kafka, topic, await newest_ranges(kafka, topic, 100_000), TickDecoder())

    found = asyncio.run(fetched())
    model = restated(fit(found.frame, spec, seed=4).model, topic=topic, ranges=found.ranges)
    return register(model_store(tmp_path), model, params={}, tags={}, recipe=Recipe.of(spec))


def test_a_version_that_is_trained_once_more_is_the_same_to_the_bit(version, kafka, tmp_path) -> None:
    code, found = tickwise(tmp_path, kafka, "reproduce", f"models:/again/{version.version}")

    assert (code, found["same_weights"], found["ticks"]) == (0, True, 9000)
    assert found["metrics"]
    assert all(recorded == reproduced for recorded, reproduced in found["metrics"].values())


def test_past_ticks_of_a_topic_are_predicted_whole_or_in_a_range(version, kafka, tmp_path) -> None:
    def scores(*options):
        out = tmp_path / "out.parquet"
        code, said = tickwise(tmp_path, kafka, "predict", "again", "--version", "1", "--out", str(out), *options)
        rows = pq.read_table(out).to_pylist()
        assert (code, said["rows"]) == (0, len(rows))
        return {(row["partition"], row["offset"]): (row["score"], row["reason"]) for row in rows}

    whole, part = scores(), scores("--range", "1:1000-1499")

    assert len(whole) == 9000
    assert part == {name: each for name, each in whole.items() if name[0] == 1 and 1000 <= name[1] < 1500}
    assert len(part) == 500
