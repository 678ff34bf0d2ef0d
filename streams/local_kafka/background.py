"""A Kafka that goes on in the background and keeps its data in a folder: what ``tickwise kafka`` starts and stops."""

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ml_core.errors import ConflictError, KafkaUnavailableError
from streams.local_kafka import jars, node, probe
from streams.local_kafka.supervisor import log_tail

START_S = 90.0  # 4 s on an idle machine, 25 s on a crowded one
STOP_S = 30.0
_EVERY_S = 0.05
# The shell is gone at once, so the broker belongs to nobody who could end before it, and nobody has to reap it.
_DETACH = '"$@" </dev/null >console.log 2>&1 & echo $!'


class Status(NamedTuple):
    """The broker of a folder. ``answers`` says whether a client would get through."""

    folder: Path
    address: str  # empty when none runs
    pid: int  # 0 when none runs
    answers: bool


def start(folder: Path, port: int = 9092, timeout_s: float = START_S) -> Status:
    """Start the broker of ``folder`` and return once it answers; it outlives this process.

    One that runs already is left as it is. ``port`` 0 takes any free one.

    Raises:
        SetupError: The port is in use, or Java is missing, or Kafka cannot be fetched.
        ConflictError: It runs already, on another port; or another start or stop is under way.
        KafkaUnavailableError: It did not answer in time; the message has its last log lines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    with _alone(folder):
        there = status(folder)
        if there.pid:
            if port and there.address != f"{node.HOST}:{port}":
                raise ConflictError(f"the Kafka of {folder} runs already, at {there.address}; stop it first")
            _await_answer(there, timeout_s)
            return there._replace(answers=True)
        if port:
            node.check_free(port)
        kit = jars.find()
        at, controller = (port, *node.free_ports(1)) if port else node.free_ports(2)
        (folder / node.PROPERTIES).write_text(node.text(node.properties(at, {1: controller})))
        if not (folder / node.DATA / "meta.properties").exists():
            _format(kit, folder)
        return _run(kit, folder, f"{node.HOST}:{at}", timeout_s)


def stop(folder: Path) -> bool:
    """Stop the broker of ``folder``, keep its data, and return whether one ran.

    Raises:
        ConflictError: Another start or stop is under way.
    """
    if not folder.is_dir():
        return False
    folder = folder.resolve()
    with _alone(folder):
        pid = status(folder).pid
        if pid:
            _end(pid, folder)
        (folder / "kafka.pid").unlink(missing_ok=True)
        return pid > 0


def status(folder: Path) -> Status:
    """Return what is known about the broker of ``folder``."""
    folder = folder.resolve()
    try:
        written = json.loads((folder / "kafka.pid").read_text())
        pid, address = int(written["pid"]), str(written["address"])
    except (OSError, ValueError, KeyError, TypeError):  # never started, or not written by us
        return Status(folder, "", 0, False)
    if not _runs(pid, folder):
        return Status(folder, "", 0, False)
    return Status(folder, address, pid, probe.brokers(address) > 0)


def _format(kit: jars.Kit, folder: Path) -> None:
    command = node.format_command(kit, folder, node.cluster_id())
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=START_S, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise KafkaUnavailableError(f"the data folder of Kafka in {folder} could not be prepared:\n{said}")


def _run(kit: jars.Kit, folder: Path, address: str, timeout_s: float) -> Status:
    shell = ["/bin/sh", "-c", _DETACH, "sh", *node.run_command(kit, folder)]
    done = subprocess.run(shell, cwd=folder, start_new_session=True, stdout=subprocess.PIPE, check=True, timeout=10)
    pid = int(done.stdout)
    try:
        (folder / "kafka.pid").write_text(json.dumps({"pid": pid, "address": address}) + "\n")
        _await_answer(Status(folder, address, pid, False), timeout_s)
    except BaseException:
        _end(pid, folder)
        raise
    return Status(folder, address, pid, True)


def _await_answer(started: Status, timeout_s: float) -> None:
    folder, address, pid, _ = started
    alive = partial(_runs, pid, folder)
    if not probe.wait(address, timeout_s, alive=alive):
        state = f"did not answer within {timeout_s:g} s" if alive() else "ended before it answered"
        raise KafkaUnavailableError(f"the Kafka of {folder} {state}; its last log lines:\n{log_tail(folder)}")


def _end(pid: int, folder: Path) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(pid, sign)
        end = time.monotonic() + STOP_S
        while _runs(pid, folder) and time.monotonic() < end:
            time.sleep(_EVERY_S)
        if not _runs(pid, folder):
            return


def _runs(pid: int, folder: Path) -> bool:
    """Return whether ``pid`` is the broker of ``folder``: ids come round again, and we would kill a stranger."""
    return f"-Djava.io.tmpdir={folder}" in _command_line(pid)


def _command_line(pid: int) -> list[str]:
    """Return the words of the process; none when it is gone or waits to be reaped."""
    proc = Path("/proc")
    if (proc / "self").exists():
        try:
            return (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        except OSError:
            return []
    found = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.split()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError(f"another start or stop of the Kafka of {folder} is under way; try again") from error
        yield
