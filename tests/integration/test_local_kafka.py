"""Brokers that come and go: what is there while they run, and that nothing is left after them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from api.cli import main
from data_io.topics.admin import describe, ensure_topics, log_topic
from ml_core.errors import ConflictError, KafkaUnavailableError, SetupError
from streams.local_kafka import background, broker, container, node, probe, temporary

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(container.engine_answers(), reason="with a Docker engine brokers run in containers"),
]

HOLD = """
import signal, sys
from streams.local_kafka import broker
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background of a shell ignores it
with broker() as address:
    print(address, flush=True)
    sys.stdin.read()
"""


def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


def processes_of(folder: Path) -> list[str]:
    """The command lines, of all processes, that name ``folder``."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line]


@pytest.fixture
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everything temporary of a child goes, so that a test sees what is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("TICKWISE_KAFKA", raising=False)
    return folder


@pytest.fixture
def holder(temporary_files: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that starts a broker and holds it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def test_nothing_is_left_after_sigkill_of_the_process_that_held_it(
    holder: subprocess.Popen[str], temporary_files: Path
) -> None:
    assert holder.stdout is not None
    address = holder.stdout.readline().strip()
    assert probe.brokers(address) == 1
    assert processes_of(temporary_files) != []

    holder.kill()

    until(lambda: processes_of(temporary_files) == [])
    assert list(temporary_files.iterdir()) == []
    assert probe.brokers(address) == 0


def test_nothing_is_left_after_ctrl_c_while_it_starts(holder: subprocess.Popen[str], temporary_files: Path) -> None:
    until(lambda: any(temporary_files.glob("*/kafka.log")))

    os.killpg(holder.pid, signal.SIGINT)  # as a terminal does: the whole foreground group

    assert holder.wait(20) != 0
    assert list(temporary_files.iterdir()) == []
    assert processes_of(temporary_files) == []


def test_the_block_ends_with_everything_gone(temporary_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)  # read TMPDIR again
    (port,) = node.free_ports(1)

    with broker(port=port) as address:
        assert address == f"127.0.0.1:{port}"
        assert probe.brokers(address) == 1

    assert list(temporary_files.iterdir()) == []
    assert processes_of(temporary_files) == []


def test_a_broker_that_dies_early_is_quoted(temporary_files: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(KafkaUnavailableError, match="Address already in use"), temporary._from_jars(port, 60):
            pass


def test_a_kafka_that_runs_already_is_used_and_left_alone(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKWISE_KAFKA", kafka)
    with broker() as address:
        assert address == kafka
    with broker(kafka) as address:
        assert address == kafka

    assert probe.brokers(kafka) > 0


async def test_an_address_that_is_given_goes_before_that_of_the_settings(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKWISE_KAFKA", "127.0.0.1:1")

    with broker(kafka) as address:
        assert address == kafka


async def test_data_outlives_a_stop_in_the_background(tmp_path: Path, unique: str) -> None:
    folder = tmp_path / "with, comma and space"
    try:
        first = background.start(folder, 0)
        assert background.status(folder) == first
        await ensure_topics(first.address, [log_topic(unique, 1)])
        before = await describe(first.address, unique)
        async with AIOKafkaProducer(bootstrap_servers=first.address) as producer:
            await producer.send_and_wait(unique, b"tick")

        assert background.start(folder, 0) == first  # it runs: left as it is
        with pytest.raises(ConflictError, match=first.address):
            background.start(folder, int(first.address.partition(":")[2]) - 1)
        assert background.stop(folder)
        assert background.status(folder).pid == 0

        second = background.start(folder, 0)
        assert await describe(second.address, unique) == before
        async with AIOKafkaConsumer(unique, bootstrap_servers=second.address, auto_offset_reset="earliest") as consumer:
            record = await consumer.getone()
        assert record.value == b"tick"
    finally:
        background.stop(folder)
    assert processes_of(folder) == []


def test_the_command_starts_looks_and_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--folder", str(tmp_path / "kafka"), "--json"]

    def run(*words: str) -> tuple[int, dict[str, object]]:
        with pytest.raises(SystemExit) as ended:
            main(["kafka", *words, *where])
        return int(ended.value.code or 0), json.loads(capsys.readouterr().out)

    assert run("status") == (3, {"address": None, "answers": False, "pid": None, "folder": str(tmp_path / "kafka")})
    with socket.create_server(("127.0.0.1", 0)) as busy:
        code, told = run("start", "--port", str(busy.getsockname()[1]))
        assert (code, told["error"]) == (2, SetupError.__name__)
    try:
        code, started = run("start", "--port", "0")
        assert code == 0
        assert started["answers"] is True
        assert run("status") == (0, started)
    finally:
        stopped = run("stop")
    assert stopped == (0, {"stopped": True, "folder": str(tmp_path / "kafka")})
    assert run("stop") == (0, {"stopped": False, "folder": str(tmp_path / "kafka")})
    assert not (tmp_path / "kafka" / "kafka.pid").exists()
