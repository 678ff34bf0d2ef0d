"""A Kafka for the length of a ``with`` block: the user's own, in a container, or from jars."""

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from ml_core.errors import KafkaUnavailableError, SetupError
from streams.local_kafka import container, jars, node, probe
from streams.local_kafka.supervisor import LOCK, log_tail

START_S = 90.0  # 4 s on an idle machine, 25 s on a crowded one
STOP_S = 60.0  # what a long run has written takes a while to delete
_FOLDER = "tickwise-kafka-"
_ATTEMPTS = 3  # somebody may take a free port between its choice and the broker's start


@contextmanager
def broker(address: str | None = None, *, port: int | None = None, timeout_s: float = START_S) -> Iterator[str]:
    """Give the bootstrap address of a Kafka that answers; one that was started for it is gone afterwards, data and all.

    Tried in this order: ``address``, or ``TICKWISE_KAFKA`` where set; a container, where a Docker engine answers;
    Apache Kafka from its jars. Nothing stays behind, also when this process is killed.

    Args:
        address: Bootstrap servers of a running Kafka, which is left as it is.
        port: Port of a broker that is started; any free one by default.
        timeout_s: Bound for the first answer.

    Raises:
        KafkaUnavailableError: The Kafka named does not answer, or the one started did not come up. A retry is safe.
        SetupError: There is no way to a Kafka, or ``port`` is in use.
    """
    given = address or _of_settings()
    if given is not None:
        if not probe.wait(given, timeout_s):
            raise KafkaUnavailableError(f"no Kafka answered at {given} within {timeout_s:g} s")
        yield given
        return
    if port is not None:
        node.check_free(port)
    opened = container.broker(port, timeout_s) if container.engine_answers() else _from_jars(port, timeout_s)
    with opened as started:
        yield started


def _of_settings() -> str | None:
    from data_io.settings import CommonSettings

    settings = CommonSettings.read()
    return settings.kafka if "kafka" in settings.model_fields_set else None


@contextmanager
def _from_jars(port: int | None, timeout_s: float) -> Iterator[str]:
    kit = jars.find()
    place = Path(tempfile.gettempdir()).resolve()
    _sweep(place)
    attempts = 1 if port else _ATTEMPTS
    for attempt in range(1, attempts + 1):
        folder = place / f"{_FOLDER}{secrets.token_hex(6)}"
        at, controller = (port, *node.free_ports(1)) if port else node.free_ports(2)
        process = _supervised(kit, folder, at, controller)
        address = f"{node.HOST}:{at}"
        try:
            if probe.wait(address, timeout_s, alive=partial(_alive, process)):
                yield address
                return
            why = _why(process, folder, timeout_s)
        finally:
            _stop(process)
        if "Address already in use" not in why or attempt == attempts:
            raise KafkaUnavailableError(why)


def _sweep(place: Path) -> None:
    """Remove the folders in ``place`` whose supervisor and broker are dead: supervisors that were killed left them."""
    for folder in place.glob(f"{_FOLDER}*"):
        with suppress(OSError), (folder / LOCK).open("rb") as lock:  # no lock, somebody else's, or held
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not folder.is_symlink() and folder.stat().st_uid == os.getuid():
                shutil.rmtree(folder, ignore_errors=True)


def _supervised(kit: jars.Kit, folder: Path, port: int, controller: int) -> subprocess.Popen[bytes]:
    plan = {
        "folder": str(folder),
        "files": {node.PROPERTIES: node.text(node.properties(port, {1: controller}))},
        "commands": [node.format_command(kit, folder, node.cluster_id()), node.run_command(kit, folder)],
    }
    program = Path(__file__).with_name("supervisor.py")
    return subprocess.Popen(
        [sys.executable, "-I", str(program), str(os.getpid()), json.dumps(plan)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True,
    )  # fmt: skip


def _alive(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


def _why(process: subprocess.Popen[bytes], folder: Path, timeout_s: float) -> str:
    if process.poll() is None:
        return f"Kafka did not answer within {timeout_s:g} s; its last log lines:\n{log_tail(folder)}"
    said = _pipes(process)[1].read().decode(errors="replace")
    return f"Kafka ended before it answered; its last log lines:\n{said}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    stdin, stdout = _pipes(process)
    with suppress(OSError):  # it may have ended by itself
        stdin.write(b"stop")
    stdin.close()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()  # the broker dies with it
        process.wait()
        raise SetupError("the supervisor of the local Kafka did not stop; its folder may be left") from None
    finally:
        stdout.close()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise ValueError("the supervisor was started without pipes")
    return process.stdin, process.stdout
