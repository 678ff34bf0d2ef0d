"""Finding the jars, watching over a process, asking for an answer: all that needs no broker."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_core.errors import KafkaUnavailableError, SetupError
from streams import local_kafka
from streams.local_kafka import background, container, jars, node, probe, supervisor, temporary

SUPERVISOR = Path(local_kafka.__file__).with_name("supervisor.py")


def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is all of PATH on a machine without Java, Maven, Docker or anything cached."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.delenv("TICKWISE_KAFKA", raising=False)
    return tmp_path / "bin"


JAVA_17 = """echo 'openjdk version "17.0.15" 2025-04-15' >&2"""
# fetches two jars, slowly enough that two runs overlap
MAVEN = """for word in "$@"; do case $word in -DoutputDirectory=*) to=${word#*=};; esac; done
/bin/mkdir -p "$to"; : > "$to/a.jar"; /bin/sleep 0.3; : > "$to/b.jar" """


def test_without_java_and_docker_the_error_names_all_ways_out(machine: Path) -> None:
    with pytest.raises(SetupError, match=r"JDK 17.*Maven.*Docker.*TICKWISE_KAFKA"), local_kafka.broker():
        pass


def test_without_maven_and_with_an_empty_cache_the_error_says_so(machine: Path) -> None:
    program(machine, "java", JAVA_17)

    with pytest.raises(SetupError, match=r"neither Maven nor a Docker engine.*TICKWISE_KAFKA"):
        jars.find()


def test_with_the_jars_cached_maven_is_not_needed(machine: Path) -> None:
    program(machine, "java", JAVA_17)
    jars.cache_folder().mkdir(parents=True)

    assert jars.find() == (machine / "java", jars.cache_folder())


@pytest.mark.parametrize("version", ['version "11.0.2"', 'version "1.8.0_392"', "what?"])
def test_a_java_too_old_for_kafka_is_named(machine: Path, version: str) -> None:
    program(machine, "java", f"echo 'openjdk {version}' >&2")

    with pytest.raises(SetupError, match=r"bin/java is no Java 17"):
        jars.find()


def test_java_home_comes_before_the_path(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(machine, "java", "exit 1")
    (tmp_path / "jdk").mkdir()
    program(tmp_path / "jdk" / "bin", "java", JAVA_17)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    jars.cache_folder().mkdir(parents=True)

    assert jars.find().java == tmp_path / "jdk" / "bin" / "java"


def test_a_maven_that_fails_is_quoted_and_leaves_nothing(machine: Path) -> None:
    program(machine, "java", JAVA_17)
    program(machine, "mvn", MAVEN + "; echo '[ERROR] no route to the repository'; exit 1")

    with pytest.raises(SetupError, match="no route to the repository"):
        jars.find()

    assert list(jars.cache_folder().parent.iterdir()) == []


def test_several_first_uses_at_once_all_find_complete_jars(machine: Path) -> None:
    program(machine, "java", JAVA_17)
    program(machine, "mvn", MAVEN)
    seen: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: seen.append(sorted(path.name for path in jars.find().jars.iterdir())))
        for _ in range(4)
    ]
    first, *others = threads
    first.start()
    until(lambda: any(jars.cache_folder().parent.rglob("a.jar")))  # half of it is there
    for thread in others:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == [["a.jar", "b.jar"]] * 4
    assert [path.name for path in jars.cache_folder().parent.iterdir()] == [jars.cache_folder().name]


def test_a_cluster_of_three_keeps_three_copies_and_each_node_knows_the_others() -> None:
    voters = {1: 9101, 2: 9102, 3: 9103}

    second = node.properties(9092, voters, node=2)

    assert second["node.id"] == "2"
    assert second["controller.quorum.voters"] == "1@127.0.0.1:9101,2@127.0.0.1:9102,3@127.0.0.1:9103"
    assert second["listeners"] == "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9102"
    assert second["offsets.topic.replication.factor"] == "3"
    assert second["min.insync.replicas"] == "2"


def test_cluster_ids_never_look_like_an_option() -> None:
    assert all(len(each) == 22 and not each.startswith("-") for each in (node.cluster_id() for _ in range(200)))


def test_the_container_is_told_the_same_as_the_jars_but_for_where_it_listens() -> None:
    told = container.environment(19092)

    assert told["KAFKA_LOG_MESSAGE_TIMESTAMP_TYPE"] == "LogAppendTime"
    assert told["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert told["KAFKA_LISTENERS"] == "PLAINTEXT://:9092,CONTROLLER://:9093"
    assert told["KAFKA_CONTROLLER_QUORUM_VOTERS"] == "1@127.0.0.1:9093"


def test_a_socket_that_nobody_serves_is_no_docker_engine(machine: Path, tmp_path: Path) -> None:
    assert not container.engine_answers()

    (tmp_path / "docker.sock").write_text("")
    assert not container.engine_answers()


def serve_once(answer: bytes) -> tuple[int, threading.Thread]:
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with server, server.accept()[0] as connection:
            connection.recv(1000)
            connection.sendall(answer)

    thread = threading.Thread(target=run)
    thread.start()
    return server.getsockname()[1], thread


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (b"\0\0\0\x08\0\0\0\x01\0\0\0\x03", 3),
        (b"\0\0\0\x08\0\0\0\x01\0\0\0\0", 0),  # a cluster that has no broker yet
        (b"\0\0\0\x08\0\0\0\x02\0\0\0\x01", 0),  # the answer to another question
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 0),
        (b"\0\0", 0),
        (b"", 0),
    ],
)
def test_only_a_metadata_answer_counts_as_an_answer(answer: bytes, count: int) -> None:
    port, thread = serve_once(answer)

    assert probe.brokers(f"127.0.0.1:{port}") == count
    thread.join()


def test_the_first_bootstrap_server_that_answers_counts() -> None:
    port, thread = serve_once(b"\0\0\0\x08\0\0\0\x01\0\0\0\x01")
    (dead,) = node.free_ports(1)

    assert probe.brokers(f"127.0.0.1:{dead}, 127.0.0.1:{port}") == 1
    thread.join()


@pytest.mark.parametrize("address", ["", "nonsense", "host:port", "127.0.0.1:", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_no_answer(address: str) -> None:
    assert probe.brokers(address, 0.5) == 0


def test_a_silent_server_is_no_answer_within_the_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()

        assert not probe.wait(f"127.0.0.1:{silent.getsockname()[1]}", 0.3)

    assert time.monotonic() - began < 2


def test_an_address_of_the_settings_that_does_not_answer_is_named(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dead,) = node.free_ports(1)
    monkeypatch.setenv("TICKWISE_KAFKA", f"127.0.0.1:{dead}")

    with pytest.raises(KafkaUnavailableError, match=str(dead)), local_kafka.broker(timeout_s=0.2):
        pass


def test_a_busy_port_is_named(machine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(SetupError, match=f"port {port} of 127.0.0.1 is not free"), local_kafka.broker(port=port):
            pass


class Watched:
    """A supervisor with a shell in the broker's place, started by a parent of its own that a test may kill."""

    def __init__(self, folder: Path, script: str, keeper: str = "") -> None:
        self.folder = folder
        plan = {"folder": str(folder), "files": {"note": "hello"}, "commands": [["/bin/sh", "-c", script]]}
        parent = (
            "import json, os, subprocess, sys\n"
            f"child = subprocess.Popen([sys.executable, '-I', {str(SUPERVISOR)!r}, str(os.getpid()), sys.argv[1]],"
            " stdin=subprocess.PIPE, start_new_session=True)\n"
            f"{keeper}\nprint(child.pid, flush=True)\nsys.stdin.read()\nchild.stdin.close()\nchild.wait()\n"
        )
        self.parent = subprocess.Popen(
            [sys.executable, "-c", parent, json.dumps(plan)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.parent.stdout is not None
        self.pid = int(self.parent.stdout.readline())
        until(lambda: (folder / "pid").exists() and (folder / "pid").read_text().endswith("\n"))
        self.broker = int((folder / "pid").read_text())

    def gone(self) -> bool:
        return not self.folder.exists() and not running(self.broker)

    def close(self) -> None:
        for stream in (self.parent.stdin, self.parent.stdout):
            assert stream is not None
            stream.close()
        self.parent.kill()
        self.parent.wait()


def running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self").exists():
        try:
            return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


FOREVER = "echo $$ > pid; exec sleep 1000"


def test_when_the_parent_is_killed_the_broker_and_its_folder_go_too(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "broker", FOREVER)
    assert (watched.folder / "note").read_text() == "hello"

    watched.parent.kill()

    until(watched.gone)
    watched.close()


def test_a_forked_child_that_holds_the_pipe_open_does_not_keep_the_broker(tmp_path: Path) -> None:
    fork = "held = os.fork()\nif held == 0:\n    import time; time.sleep(5); os._exit(0)"
    watched = Watched(tmp_path / "broker", FOREVER, keeper=fork)

    watched.parent.kill()

    until(watched.gone, timeout_s=4)
    watched.close()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
def test_the_broker_goes_with_its_supervisor(tmp_path: Path, sign: signal.Signals) -> None:
    watched, other = (Watched(tmp_path / f"tickwise-kafka-{name}", FOREVER) for name in ("watched", "other"))

    os.kill(watched.pid, sign)

    until(lambda: not running(watched.broker))
    if sign == signal.SIGKILL:
        assert watched.folder.exists()
        temporary._sweep(tmp_path)  # as the next start does
    until(watched.gone)
    assert running(other.broker)
    assert (other.folder / "note").exists()
    for each in (watched, other):
        each.close()


def test_a_folder_of_a_broker_that_lives_or_of_nobody_known_is_not_swept(tmp_path: Path) -> None:
    unknown, orphan = tmp_path / "tickwise-kafka-unknown", tmp_path / "tickwise-kafka-orphan"
    for folder in (unknown, orphan):
        folder.mkdir()
    lock = supervisor.hold(orphan)
    broker = subprocess.Popen(["sleep", "1000"], pass_fds=(lock,))  # goes on without its supervisor
    os.close(lock)

    temporary._sweep(tmp_path)
    assert unknown.exists()
    assert orphan.exists()

    broker.kill()
    broker.wait()
    temporary._sweep(tmp_path)
    assert unknown.exists()
    assert not orphan.exists()


def test_a_parent_that_says_so_ends_it(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "broker", FOREVER)

    watched.close()

    until(watched.gone)


def test_what_a_dead_broker_said_reaches_the_parent_and_its_folder_goes(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    plan = {"folder": str(folder), "files": {}, "commands": [["true"], ["/bin/sh", "-c", "echo out of disk; exit 7"]]}

    with subprocess.Popen(
        [sys.executable, "-I", str(SUPERVISOR), str(os.getpid()), json.dumps(plan)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as supervisor:
        assert supervisor.wait(20) == 1
        assert supervisor.stdout is not None
        assert supervisor.stdout.read() == "exit code 7\nout of disk"
    assert not folder.exists()


@pytest.mark.parametrize("written", ["", "12", "[]", '{"pid": "x"}', '{"pid": 1, "address": "127.0.0.1:1"}'])
def test_a_pid_file_that_is_not_ours_means_no_broker(tmp_path: Path, written: str) -> None:
    (tmp_path / "kafka.pid").write_text(written)

    assert background.status(tmp_path) == (tmp_path.resolve(), "", 0, False)
    assert not background.stop(tmp_path)


def test_nothing_is_made_where_no_broker_ever_was(tmp_path: Path) -> None:
    assert not background.stop(tmp_path / "kafka")
    assert background.status(tmp_path / "kafka").pid == 0
    assert not (tmp_path / "kafka").exists()
