"""The model store through a child process: what the agent says, whatever happens to the child."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from ml_core.errors import ModelNotFoundError, ModelStoreUnavailableError
from ml_core.spec import parse
from model_ops_manager import store_process
from model_ops_manager.registration import register
from model_ops_manager.store_process import StoreProcess
from tests.api.model_lab import make_model

WAIT_S = 60.0


@pytest.fixture(scope="module")
def model():
    return make_model(parse({"name": "demo", "features": {"use": ["return:1s", "queue_imbalance"]}}))


@pytest.fixture
def agent(model_store, tmp_path):
    return model_store(tmp_path)


@pytest.fixture
def process(agent, tmp_path) -> Iterator[StoreProcess]:
    with StoreProcess(agent.tracking_uri, tmp_path) as process:
        yield process


class Silent:
    """A server that takes connections and never answers."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://user:s3cret@127.0.0.1:{self.server.getsockname()[1]}"
        self._taken: list[socket.socket] = []

    def until_asked(self) -> None:
        assert select.select([self.server], [], [], WAIT_S)[0], "nobody asked the server"
        self._taken.append(self.server.accept()[0])

    def close(self) -> None:
        for each in (*self._taken, self.server):
            each.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    with closing(Silent()) as server:
        yield server


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        about = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return about.rpartition(")")[2].split()[0] != "Z"


def pid_of(process: StoreProcess) -> int:
    return process._child._process.pid


def test_it_says_what_the_agent_says(agent, process, model):
    assert process.champion("demo") is None
    first, second = (register(agent, model, params={}, tags={"tickwise.job": job}) for job in "ab")
    for made in (first, second, first):
        agent.set_champion("demo", made.version, reason="better")
        assert process.champion("demo") == made

    assert process.version("demo", 2) == second
    assert process.load_onnx(second) == model.onnx
    with pytest.raises(ModelNotFoundError, match="no version 7 of demo"):
        process.version("demo", 7)
    Path(second.source.removeprefix("file://"), "model.onnx").unlink()
    with pytest.raises(ModelNotFoundError, match=r"version 2 of demo has no model\.onnx"):
        process.load_onnx(second)


def test_a_store_in_a_file_is_asked_again_only_when_the_file_has_changed(agent, process, model, monkeypatch):
    monkeypatch.setattr(store_process, "IDLE_S", 0.2)
    monkeypatch.setattr(store_process, "SETTLED_S", 0.0)
    made = register(agent, model, params={}, tags={})
    assert process.champion("demo") is None
    first = process._child
    until(lambda: first.has_ended)

    assert process.champion("demo") is None
    assert process._child is first, "a process was started to hear the same again"

    agent.set_champion("demo", made.version, reason="better")
    assert process.champion("demo") == made
    assert process._child is not first


def test_questions_at_once_have_their_own_answers(process, agent, model):
    made = [register(agent, model, params={}, tags={"tickwise.job": job}) for job in "abc"]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda number: process.version("demo", number), [1, 2, 3] * 4)) == made * 4


def test_a_child_that_was_killed_is_replaced(process):
    assert process.champion("demo") is None
    killed = pid_of(process)
    os.kill(killed, signal.SIGKILL)

    with pytest.raises(ModelNotFoundError):
        process.version("demo", 1)

    assert pid_of(process) != killed


def test_a_child_that_dies_over_every_question_is_an_unavailable_store(silent, tmp_path):
    with StoreProcess(silent.uri, tmp_path) as process, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(process.champion, "demo")
        for _ in range(store_process.TRIES):
            silent.until_asked()
            os.kill(pid_of(process), signal.SIGKILL)

        with pytest.raises(ModelStoreUnavailableError, match="ended before it answered"):
            asked.result(WAIT_S)


def test_closing_ends_the_child_and_the_waiting(silent, tmp_path):
    process = StoreProcess(silent.uri, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(process.champion, "demo")
        silent.until_asked()
        pid = pid_of(process)

        process.close()

        with pytest.raises(ModelStoreUnavailableError, match="closed"):
            asked.result(WAIT_S)
    assert not is_alive(pid)
    with pytest.raises(ModelStoreUnavailableError, match="closed"):
        process.champion("demo")


def test_a_store_that_hangs_is_given_up(silent, tmp_path, monkeypatch):
    monkeypatch.setattr(store_process, "ANSWER_S", 0.5)
    with StoreProcess(silent.uri, tmp_path) as process:
        with pytest.raises(ModelStoreUnavailableError, match=r"did not answer in 0 s"):
            process.champion("demo")
        until(lambda: process._child.has_ended)


def test_a_store_that_is_away_is_unavailable_and_nobody_reads_its_password(tmp_path):
    with StoreProcess("http://user:s3cret@127.0.0.1:1", tmp_path) as process:
        with pytest.raises(ModelStoreUnavailableError, match=r"the model store http://127\.0\.0\.1:1 did") as caught:
            process.champion("demo")

        assert "s3cret" not in str(caught.value)
        assert b"s3cret" not in Path(f"/proc/{pid_of(process)}/cmdline").read_bytes()


OWNER = """
import sys, threading
from pathlib import Path
from model_ops_manager.store_process import StoreProcess
process = StoreProcess(sys.argv[1], Path(sys.argv[2]))
threading.Thread(target=process.champion, args=["demo"], daemon=True).start()
while process._child is None:
    pass
print(process._child._process.pid, "mlflow" in sys.modules, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("when", ["while it starts", "while it asks"])
def test_the_child_of_a_process_that_was_killed_ends(silent, tmp_path, when):
    words = [sys.executable, "-c", OWNER, silent.uri, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as owner:
        pid, imported = owner.stdout.readline().split()
        if when == "while it asks":
            silent.until_asked()
        assert (is_alive(int(pid)), imported) == (True, "False")

        owner.kill()
    until(lambda: not is_alive(int(pid)))
