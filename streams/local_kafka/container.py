"""Kafka in a container, where a Docker engine answers. Testcontainers removes it, also after a crash."""

import importlib.util
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

from ml_core.errors import KafkaUnavailableError
from streams.local_kafka import node, probe
from streams.local_kafka.jars import VERSION

IMAGE = f"apache/kafka:{VERSION}"
PING_S = 2
_INSIDE, _CONTROLLER = 9092, 9093


def engine_answers() -> bool:
    """Return whether testcontainers is installed and a Docker engine answers within two seconds."""
    if importlib.util.find_spec("testcontainers") is None or not _somebody_listens():
        return False
    import docker  # type: ignore[import-untyped]  # comes with testcontainers, ships no types

    try:
        with closing(docker.from_env(timeout=PING_S)) as client:
            return bool(client.ping())
    except docker.errors.DockerException:
        return False


def _somebody_listens() -> bool:
    """Ask before docker's client does: that takes long to load, and leaves its socket open where nobody answers."""
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    scheme, _, path = host.partition("://")
    if scheme != "unix":
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PING_S)
        return probe.connect_ex(path) == 0


@contextmanager
def broker(port: int | None, timeout_s: float) -> Iterator[str]:
    """Give the address of a new broker in a container, removed at the end.

    Raises:
        KafkaUnavailableError: The image cannot be had, or the broker does not answer in time. A retry is safe.
    """
    import docker
    from testcontainers.core.container import DockerContainer

    at = port or node.free_ports(1)[0]
    try:
        container = DockerContainer(IMAGE).with_envs(**environment(at))
        container.ports[str(_INSIDE)] = (node.HOST, at)  # with_bind_ports would listen on every interface
        container.start()
    except docker.errors.DockerException as error:
        raise KafkaUnavailableError(f"Docker could not start {IMAGE}: {error}") from error
    try:
        address = f"{node.HOST}:{at}"
        if not probe.wait(address, timeout_s):
            tail = b"".join(container.get_logs())[-2000:].decode(errors="replace")
            raise KafkaUnavailableError(f"{IMAGE} did not answer within {timeout_s:g} s; its last log lines:\n{tail}")
        yield address
    finally:
        container.stop()


def environment(port: int) -> Mapping[str, str]:
    """Return the node's properties as the image takes them, for a broker reached at ``port`` of this machine.

    >>> environment(19092)["KAFKA_ADVERTISED_LISTENERS"]
    'PLAINTEXT://127.0.0.1:19092'
    """
    inside = {
        "listeners": f"PLAINTEXT://:{_INSIDE},CONTROLLER://:{_CONTROLLER}",
        "log.dirs": "/var/lib/kafka/data",
    }
    settings = node.properties(port, {1: _CONTROLLER}) | inside
    named = {"KAFKA_" + name.upper().replace(".", "_"): value for name, value in settings.items()}
    return named | {"KAFKA_HEAP_OPTS": "-Xmx512m"}
