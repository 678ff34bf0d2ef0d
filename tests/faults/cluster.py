"""Brokers that can be paused, killed and started again with their data; one, or three that copy each other."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.local_kafka import jars, node, probe
from streams.local_kafka.supervisor import die_with_parent, log_tail

START_S = 90.0


class Broker:
    """One node in a folder of its own."""

    def __init__(self, kit: jars.Kit, folder: Path, port: int, advertised: int) -> None:
        """Prepare; clients are told to connect to ``advertised``."""
        self._kit, self._folder, self.port, self.advertised = kit, folder, port, advertised
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"{node.HOST}:{self.advertised}"

    def start(self) -> None:
        """Run it."""
        with (self._folder / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                node.run_command(self._kit, self._folder), cwd=self._folder, stdin=subprocess.DEVNULL,
                stdout=console, stderr=console, preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl
            )  # fmt: skip

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()

    def await_answer(self) -> None:
        """Wait until it answers by itself, not through a proxy."""
        alive = self._process is not None and self._process.poll() is None
        if not (alive and probe.wait(f"{node.HOST}:{self.port}", START_S)):
            raise RuntimeError(f"the broker did not come up:\n{log_tail(self._folder)}")


@contextmanager
def cluster(count: int = 1, *, proxied: bool = False) -> Iterator[list[Broker]]:
    """Give ``count`` brokers of one cluster; what they kept is deleted afterwards.

    With ``proxied`` each tells clients to connect to another port, where somebody else has to listen; brokers, who end
    transactions by writing to themselves, do not go that way.
    """
    kit = jars.find()
    root = Path(tempfile.mkdtemp(prefix="tickwise-faults-"))
    ports = node.free_ports(4 * count)
    voters = {k + 1: ports[k] for k in range(count)}
    identity = node.cluster_id()
    brokers: list[Broker] = []
    try:
        for number in voters:
            folder = root / str(number)
            folder.mkdir()
            port, other, inner = (ports[k * count + number - 1] for k in (1, 2, 3))
            advertised = other if proxied else port
            settings = node.properties(port, voters, node=number)
            settings["listeners"] += f",INNER://{node.HOST}:{inner}"
            settings["advertised.listeners"] = f"PLAINTEXT://{node.HOST}:{advertised},INNER://{node.HOST}:{inner}"
            settings["listener.security.protocol.map"] += ",INNER:PLAINTEXT"
            settings["inter.broker.listener.name"] = "INNER"
            (folder / node.PROPERTIES).write_text(node.text(settings), encoding="utf-8")
            subprocess.run(node.format_command(kit, folder, identity), cwd=folder, check=True, capture_output=True)
            brokers.append(Broker(kit, folder, port, advertised))
        for broker in brokers:
            broker.start()
        for broker in brokers:
            broker.await_answer()
        yield brokers
    finally:
        for broker in brokers:
            broker.kill()
        shutil.rmtree(root, ignore_errors=True)
