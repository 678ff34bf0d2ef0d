"""One Kafka node: its properties, and the commands that format and run it in its folder."""

import os
import secrets
import shlex
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from ml_core.errors import SetupError
from streams.local_kafka.jars import Kit

HOST = "127.0.0.1"
PROPERTIES = "server.properties"
DATA = "data"


def properties(port: int, voters: Mapping[int, int], *, node: int = 1) -> dict[str, str]:
    """Return the settings of node ``node`` of a cluster of brokers that are also controllers.

    Args:
        port: Where clients reach this node.
        voters: Controller port of every node of the cluster, by node number.
        node: The number of this node, a key of ``voters``.

    >>> properties(9092, {1: 9093})["advertised.listeners"]
    'PLAINTEXT://127.0.0.1:9092'
    >>> properties(9092, {1: 9093, 2: 9094, 3: 9095}, node=2)["transaction.state.log.min.isr"]
    '2'
    """
    copies = min(3, len(voters))
    return {
        "process.roles": "broker,controller",
        "node.id": str(node),
        "controller.quorum.voters": ",".join(f"{number}@{HOST}:{at}" for number, at in voters.items()),
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{voters[node]}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": DATA,  # relative, for a comma in an absolute path would make it a list
        "auto.create.topics.enable": "false",
        # event time lives in the value; with create time, default retention deletes recorded ticks at once
        "log.message.timestamp.type": "LogAppendTime",
        "default.replication.factor": str(copies),
        "min.insync.replicas": str(copies // 2 + 1),
        "offsets.topic.replication.factor": str(copies),
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": str(copies // 2 + 1),
        "share.coordinator.state.topic.replication.factor": str(copies),
        "share.coordinator.state.topic.min.isr": str(copies // 2 + 1),
        # few and small, so that a node starts fast and fits beside everything else on a laptop
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",  # tests of takeover need not wait 6 s
        # Kafka's 100 kB make a fetch of a megabyte a chain of small writes
        "socket.send.buffer.bytes": str(1 << 20),
        "socket.receive.buffer.bytes": str(1 << 20),
        "num.network.threads": "2",
        "num.io.threads": "4",
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
    }


# A gigabyte, as in the script that Kafka ships. Nearly all that a broker allocates is gone with its request: in a large
# young generation it is collected, while everything stands still, every ten seconds instead of every second.
HEAP = "-Xmx1g -Xmn768m"


def text(settings: Mapping[str, str]) -> str:
    """Return ``settings`` in the form of a properties file."""
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def cluster_id() -> str:
    """Return a new cluster id: 22 characters of base64url, the first no dash (it would read as an option)."""
    return "k" + secrets.token_urlsafe(16)[1:]


def format_command(kit: Kit, folder: Path, cluster: str) -> list[str]:
    """Return the command that, run in ``folder``, prepares the node's data folder."""
    java = _java(kit, folder, "-XX:TieredStopAtLevel=1")
    return [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", PROPERTIES]


def run_command(kit: Kit, folder: Path) -> list[str]:
    """Return the command that, run in ``folder``, is the node."""
    heap = shlex.split(os.environ.get("KAFKA_HEAP_OPTS", HEAP))  # the variable that Kafka's own script reads
    return [*_java(kit, folder, *heap, "-XX:MetaspaceSize=96m"), "kafka.Kafka", PROPERTIES]


def _java(kit: Kit, folder: Path, *options: str) -> list[str]:
    log = Path(__file__).with_name("log4j2.xml")
    return [
        str(kit.java), *options,
        # all that a JVM would leave in the temporary folder of the machine goes to the node's own
        f"-Djava.io.tmpdir={folder}", "-XX:-UsePerfData", "-XX:ErrorFile=console.log", "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={log}", "-cp", f"{kit.jars}/*",
    ]  # fmt: skip


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that were free a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def check_free(port: int) -> None:
    """Refuse a port that somebody listens on.

    Raises:
        SetupError: The port is in use, or may not be used.
    """
    with socket.socket() as probe:
        # as the broker will: a connection in TIME_WAIT is no user
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            why = f"port {port} of {HOST} is not free ({error.strerror}); stop what listens there or choose another"
            raise SetupError(why) from error
