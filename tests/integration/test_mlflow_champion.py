"""A follower of the alias on a real model store."""

import asyncio
import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ml_core.errors import ModelRefusedError
from ml_core.spec import parse
from model_ops_manager.champion import ChampionFollower, load_serving, must_fit
from model_ops_manager.registration import register
from tests.api.model_lab import make_model

SPEC = parse({"name": "demo", "features": {"use": ["return:1s", "queue_imbalance"]}})


def without_weights(file: bytes) -> bytes:
    """The same graph with weights that are no numbers."""
    model = onnx.load_from_string(file)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, np.nan, np.float32), tensor.name))
    return model.SerializeToString()


@pytest.fixture(scope="module")
def models():
    return [make_model(SPEC, seed=seed) for seed in range(2)]


@pytest.fixture
def agent(model_store, tmp_path):
    return model_store(tmp_path)


@pytest.fixture
def follower(agent):
    return ChampionFollower(agent, "demo", poll_s=0.02)


def promote(agent, model) -> int:
    version = register(agent, model, params={}, tags={}).version
    agent.set_champion("demo", version, reason="test")
    return version


def model_file(agent) -> Path:
    return Path(agent.champion("demo").source.removeprefix("file://"), "model.onnx")


async def test_nothing_serves_before_there_is_a_champion(follower):
    assert follower.age_s is None
    await follower.poll()
    assert (follower.current, follower.problem, follower.refused) == (None, None, {})
    assert 0 <= follower.age_s < 10


async def test_a_moved_alias_is_followed_and_told(agent, follower, models):
    told, seen = [], asyncio.Queue()
    follower.on_change += [lambda serving: told.append(serving.version.version), seen.put_nowait]
    task = asyncio.create_task(follower.run(), name="follow")
    try:
        async with asyncio.timeout(30):
            for model in models:
                await asyncio.to_thread(promote, agent, model)
                assert await seen.get() is follower.current
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    assert told == [1, 2]
    assert follower.problem is None
    x_BTF = np.ones((1, 1, 2), dtype=np.float32)
    assert follower.current.scorer.scores(x_BTF).tobytes() == models[1].scorer().scores(x_BTF).tobytes()


def test_a_version_that_fails_its_probe_is_refused_once_and_the_old_one_serves_on(agent, follower, models):
    promote(agent, models[0])
    asyncio.run(follower.poll())
    serving = follower.current
    promote(agent, dataclasses.replace(models[1], onnx=without_weights(models[1].onnx)))

    asyncio.run(follower.poll())
    model_file(agent).unlink()  # who looked again would not find it
    asyncio.run(follower.poll())

    assert follower.current is serving
    assert list(follower.refused) == [2]
    assert follower.refused[2].startswith("not_finite")
    assert follower.problem == f"version 2 was refused: {follower.refused[2]}"
    assert promote(agent, models[1]) == 3
    asyncio.run(follower.poll())
    assert (follower.current.version.version, follower.problem) == (3, None)


async def test_a_model_of_other_features_is_refused(agent, models):
    plan_hash = models[0].contract.feature_hash
    promote(agent, models[0])
    stranger = ChampionFollower(agent, "demo", 0.02, must_fit("another", 1))
    longer = ChampionFollower(agent, "demo", 0.02, must_fit(plan_hash, 64))
    fitting = ChampionFollower(agent, "demo", 0.02, must_fit(plan_hash, 1))

    for follower in (stranger, longer, fitting):
        await follower.poll()

    assert "schema: trained on features" in stranger.refused[1]
    assert "in windows of 64" in longer.refused[1]
    assert fitting.current.version.version == 1
    with pytest.raises(ModelRefusedError, match="schema"):
        load_serving(agent, "demo", 1, must_fit("another", 1))


def test_files_that_are_gone_are_looked_for_again(agent, follower, models):
    promote(agent, models[0])
    file = model_file(agent)
    content = file.read_bytes()
    file.unlink()

    asyncio.run(follower.poll())
    assert (follower.current, follower.refused) == (None, {})
    assert "has no model.onnx" in follower.problem

    file.write_bytes(content)
    asyncio.run(follower.poll())
    assert (follower.current.version.version, follower.problem) == (1, None)


async def test_a_store_that_is_away_changes_nothing(agent, follower, models, tmp_path):
    promote(agent, models[0])
    await follower.poll()
    serving, age_s = follower.current, follower.age_s
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 1000)

    await follower.poll()

    assert follower.current is serving
    assert "model store" in follower.problem
    assert follower.age_s > age_s
