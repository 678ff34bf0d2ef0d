"""The model store on a real MLflow: SQLite in a folder, and a server over HTTP."""

import dataclasses
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ml_core.errors import ModelNotFoundError, ModelRefusedError, ModelStoreUnavailableError
from ml_core.model.export import restated
from ml_core.model.runtime import Scorer, probe_rows
from ml_core.spec import parse
from ml_core.types import OffsetRange
from model_ops_manager import mlflow_agent
from model_ops_manager.mlflow_agent import MlflowAgent
from model_ops_manager.registration import register
from tests.api.model_lab import make_model

FEATURES = {"use": ["return:1s", "queue_imbalance"]}
EPOCHS = [
    {"epoch": 0, "train_loss": None, "validation_loss": 1.1},
    {"epoch": 1, "train_loss": 1.0, "validation_loss": 0.9},
]


@pytest.fixture(scope="module")
def model():
    made = make_model(parse({"name": "demo", "features": FEATURES}))
    ranges = (OffsetRange(partition=0, start=5, end=9),)
    return dataclasses.replace(restated(made, topic="md.ticks", ranges=ranges), report={"epochs": EPOCHS})


@pytest.fixture
def agent(model_store, tmp_path):
    return model_store(tmp_path)


def test_a_registered_model_comes_back_bit_for_bit_and_the_alias_moves_only_when_told(agent, model):
    assert agent.champion("demo") is None
    assert agent.versions("demo") == []

    made = register(agent, model, params={"seed": 3}, tags={"tickwise.job": "train-1"})

    assert (made.name, made.version) == ("demo", 1)
    assert agent.champion("demo") is None
    assert agent.version("demo", 1) == made
    assert agent.load_onnx(made) == model.onnx
    fitted = agent.load_fitted(made)
    assert (fitted.contract, fitted.onnx, fitted.report) == (model.contract, model.onnx, model.report)
    assert all(np.array_equal(fitted.weights[name], value) for name, value in model.weights.items())

    agent.set_champion("demo", 1, reason="better", figures={"p_value": 0.01})

    assert agent.champion("demo") == made
    details = agent.versions("demo")[0]
    assert details.metrics == model.contract.metrics
    assert details.decision == {"promote": True, "reason": "better", "figures": {"p_value": 0.01}}
    assert details.tags == {"tickwise.job": "train-1"}
    assert abs(details.created_at.timestamp() - time.time()) < 60


def test_the_run_tells_how_the_model_was_made(agent, model):
    made = register(agent, model, params={"seed": 3}, tags={"tickwise.job": "train-1"})

    run = agent.client().get_run(made.run_id)
    history = agent.client().get_metric_history(made.run_id, "validation_loss")
    source = run.inputs.dataset_inputs[0].dataset

    assert (run.info.status, run.info.run_name) == ("FINISHED", "train-1")
    assert run.data.params == {"seed": "3"}
    assert {name: run.data.metrics[name] for name in model.contract.metrics} == model.contract.metrics
    assert [(each.step, each.value) for each in history] == [(0, 1.1), (1, 0.9)]
    assert (source.name, source.source_type) == ("md.ticks", "kafka")
    assert '"start": 5, "end": 9' in source.source


def test_any_user_of_mlflow_can_score_with_it(agent, model, tmp_path):
    import mlflow
    from mlflow.artifacts import download_artifacts

    made = register(agent, model, params={}, tags={})
    folder = download_artifacts(made.source, dst_path=str(tmp_path / "copy"), tracking_uri=agent.tracking_uri)

    loaded = mlflow.pyfunc.load_model(folder)
    x_BTF = probe_rows(model.contract)[10:20]

    assert np.array_equal(loaded.predict(x_BTF)["y"], model.scorer().outputs(x_BTF))
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 1, 2)


def test_a_job_registers_once_however_often_it_tries(agent, model):
    first = register(agent, model, params={}, tags={"tickwise.job": "train-1"})
    assert register(agent, model, params={}, tags={"tickwise.job": "train-1"}) == first
    assert register(agent, model, params={}, tags={"tickwise.job": "train-2"}).version == 2
    assert [each.version for each in agent.versions("demo")] == [2, 1]


def test_jobs_that_register_at_once_in_two_stores_stay_apart(model_store, tmp_path):
    agents = [model_store(tmp_path / name) for name in "ab"]
    names = [f"p-{number}" for number in range(2)]
    models = [make_model(parse({"name": name, "features": FEATURES}), seed=i) for i, name in enumerate(names)]
    gate = threading.Barrier(4)

    def work(number):
        gate.wait(20)
        agent, model = agents[number % 2], models[number // 2]
        return [register(agent, model, params={}, tags={}).version for _ in range(2)]

    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(work, range(4)))

    assert versions == [[1, 2]] * 4
    for agent in agents:
        for name, model in zip(names, models, strict=True):
            assert agent.load_onnx(agent.version(name, 2)) == model.onnx


def test_threads_that_register_one_new_pipeline_at_once_share_it(agent, model):
    gate = threading.Barrier(3)

    def work(number):
        gate.wait(20)
        return register(agent, model, params={}, tags={"tickwise.job": str(number)}).version

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(work, range(3))) == [1, 2, 3]


def test_a_failure_before_the_last_step_leaves_no_version_and_a_failed_run(agent, model, tmp_path):
    (tmp_path / "mlartifacts").write_text("a file where the folder of all models should be")

    with pytest.raises(ModelStoreUnavailableError):
        register(agent, model, params={}, tags={})

    assert agent.versions("demo") == []
    experiment = agent.client().get_experiment_by_name("demo").experiment_id
    assert [run.info.status for run in agent.client().search_runs([experiment])] == ["FAILED"]
    (tmp_path / "mlartifacts").unlink()
    assert register(agent, model, params={}, tags={}).version == 1


def test_what_is_not_there_is_not_found(agent, model):
    made = register(agent, model, params={}, tags={})
    with pytest.raises(ModelNotFoundError, match="no version 7 of demo"):
        agent.version("demo", 7)
    with pytest.raises(ModelNotFoundError):
        agent.set_champion("demo", 7, reason="x")
    with pytest.raises(ModelNotFoundError):
        agent.set_champion("nothing", 1, reason="x")
    Path(made.source.removeprefix("file://"), "weights.npz").unlink()
    with pytest.raises(ModelNotFoundError, match=r"version 1 of demo has no weights\.npz"):
        agent.load_fitted(made)
    assert agent.load_onnx(made) == model.onnx


def test_a_file_that_is_too_large_is_refused_before_it_is_fetched(agent, model, monkeypatch):
    made = register(agent, model, params={}, tags={})
    monkeypatch.setattr(mlflow_agent, "MAX_BYTES", 100)
    with pytest.raises(ModelRefusedError, match="too_large"):
        agent.load_onnx(made)


READ = """
import sys
from pathlib import Path
from ml_core.model.runtime import Scorer
from model_ops_manager.mlflow_agent import MlflowAgent
agent = MlflowAgent(sys.argv[1], Path(sys.argv[2]))
champion = agent.champion("demo")
if champion is not None:
    Scorer(agent.load_onnx(champion)).probe()
print(champion and champion.version, sorted({"torch", "onnx", "onnxscript"} & set(sys.modules)))
"""


def read_in_a_new_process(uri: str, home: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-W", "error::UserWarning", "-c", READ, uri, str(home)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path.cwd())


def test_a_process_that_serves_needs_neither_torch_nor_onnx(agent, model, tmp_path):
    agent.set_champion("demo", register(agent, model, params={}, tags={}).version, reason="x")

    said, errors = read_in_a_new_process(agent.tracking_uri, tmp_path).communicate(timeout=60)

    assert said.strip() == "1 []", errors
    assert errors == ""


def test_processes_that_meet_an_empty_store_make_it_once(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    ends = [read_in_a_new_process(uri, tmp_path) for _ in range(2)]
    assert [(*process.communicate(timeout=100), process.returncode) for process in ends] == [("None []\n", "", 0)] * 2


def test_a_server_that_is_away_or_hangs_is_reported_within_ten_seconds(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for address in ("127.0.0.1:1", f"127.0.0.1:{silent.getsockname()[1]}"):
            agent = MlflowAgent(f"http://user:s3cret@{address}", tmp_path)
            began_s = time.monotonic()
            with pytest.raises(ModelStoreUnavailableError) as caught:
                agent.champion("demo")
            assert time.monotonic() - began_s < 10
            assert "s3cret" not in str(caught.value)


@pytest.fixture(scope="module")
def server(tmp_path_factory, model_store):
    folder = tmp_path_factory.mktemp("server")
    model_store(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", folder / "files"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words], stdout=log, stderr=log, env={**os.environ, **quiet},
            start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while not _answers(f"{address}/health"):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - http on the loopback
            return answer.status == 200
    except OSError:
        return False


def test_over_http_it_is_the_same(server, model, tmp_path):
    agent, name = MlflowAgent(server, tmp_path), f"demo-{secrets.token_hex(3)}"
    named = restated(model, pipeline=name)
    assert (agent.champion(name), agent.versions(name)) == (None, [])

    made = register(agent, named, params={"seed": 3}, tags={"tickwise.job": "train-1"})
    assert register(agent, named, params={}, tags={"tickwise.job": "train-1"}) == made
    agent.set_champion(name, 1, reason="better", figures={"p_value": 0.01})

    assert agent.champion(name) == made
    Scorer(agent.load_onnx(made)).probe()
    assert agent.load_fitted(made).contract == named.contract
    assert [each.decision["figures"] for each in agent.versions(name)] == [{"p_value": 0.01}]
    with pytest.raises(ModelNotFoundError, match=f"no version 7 of {name}"):
        agent.version(name, 7)
    assert not list(tmp_path.iterdir())
