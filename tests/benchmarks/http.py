"""Predictions over HTTP: `tickwise serve` against `mlflow models serve` on the same model, in one run.

usage: python -m tests.benchmarks.http [--runs N]

Both serve one MLP 16-64-32-1 out of the same model store, one process each, on one core; the load comes from the
other core over HTTP/1.1 with kept connections. Answers are compared with the scorer's before any time counts. Rates
are those of callers that send again as soon as they were answered; latencies at a fixed rate count from the moment a
request was meant to leave, so that a stalled server cannot hide behind callers that wait for it.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ml_core.model.runtime import Scorer
from tests.benchmarks import workload
from tests.benchmarks.processes import OTHERS_CORE, Contender

NO_KAFKA = "127.0.0.1:1"  # given values need none
CONNECTIONS = 32
BODY_ROWS = 64
BODIES = 64  # different ones, sent in turn
FIXED_RATE = 3000
START_S = 120.0
WARM_UP_S, MEASURE_S = 1.0, 4.0
ANSWER_S = 30.0
DRAIN_S = 5.0

Send = Callable[[bytes, Callable[[float], None]], None]


class Question(NamedTuple):
    """One request and what its answer must say."""

    body: bytes
    expected: list[float]


class Measured(NamedTuple):
    """Answers of one load: how many a second, how long they took, and what they cost the server."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # a request


class Server(NamedTuple):
    """A server that answers."""

    port: int
    path: str
    scores: Callable[[bytes], list[float]]  # of an answer
    process: Contender


class Connection(asyncio.Protocol):
    """One kept connection with one request under way at a time."""

    def __init__(self) -> None:
        self.answered: Callable[[int, bytes], None] = lambda _status, _body: None
        self._buffer, self._end, self._head = b"", -1, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.answered(0, str(exc).encode())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._end < 0:
            self._head = self._buffer.find(b"\r\n\r\n") + 4
            if self._head < 4:
                return
            self._end = self._head + length_of(self._buffer[: self._head])
        if len(self._buffer) >= self._end:
            status, body = int(self._buffer[9:12]), self._buffer[self._head : self._end]
            self._buffer, self._end = b"", -1
            self.answered(status, body)


def length_of(head: bytes) -> int:
    """Return the announced length of a body; the servers compared here always announce it."""
    return int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])


class Load:
    """Some kept connections to one server."""

    def __init__(self, server: Server, connections: Sequence[Connection]) -> None:
        self.server, self.connections = server, connections
        self.failure: str | None = None

    def request(self, question: Question) -> bytes:
        head = f"POST {self.server.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.server.port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(question.body)}\r\n\r\n"
        return head.encode() + question.body

    async def verify(self, questions: Sequence[Question]) -> None:
        """Ask every question once.

        Raises:
            AssertionError: An answer is not the scorer's, so no time of this server counts.
        """
        for question in questions:
            told: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            self._listen(self.connections[0], told.set_result)
            self.connections[0].transport.write(self.request(question))
            async with asyncio.timeout(ANSWER_S):
                while not told.done() and self.failure is None:
                    await asyncio.wait([told], timeout=0.1)
            assert self.failure is None, self.failure
            found = self.server.scores(told.result())
            assert np.array_equal(np.float32(found), np.float32(question.expected)), (found, question.expected)

    async def closed(self, questions: Sequence[Question]) -> Measured:
        """Let every connection ask again as soon as it was answered."""
        requests = [self.request(question) for question in questions]
        taken: list[float] = []
        running = len(self.connections)
        asked, going = 0, True

        def start(connection: Connection) -> None:
            def ask() -> None:
                nonlocal asked, begun
                begun = time.perf_counter()
                asked += 1
                connection.transport.write(requests[asked % len(requests)])

            def answered(_body: bytes) -> None:
                nonlocal running
                taken.append(time.perf_counter() - begun)
                if going:
                    ask()
                else:
                    running -= 1

            begun = 0.0
            self._listen(connection, answered)
            ask()

        for connection in self.connections:
            start(connection)
        await asyncio.sleep(WARM_UP_S)
        taken.clear()
        begun, cpu_s = time.perf_counter(), self.server.process.usage().cpu_s
        await asyncio.sleep(MEASURE_S)
        span_s, found = time.perf_counter() - begun, taken.copy()
        cpu_s = self.server.process.usage().cpu_s - cpu_s
        going = False
        await self._until(lambda: not running)
        return measured(found, span_s, cpu_s)

    async def fixed(self, questions: Sequence[Question], rate: int) -> Measured:
        """Ask at ``rate`` a second whatever the answers do; a request that finds no free connection waits for one.

        Those that are not answered ``DRAIN_S`` after the last one was due count with the time they have waited.
        """
        requests = [self.request(question) for question in questions]
        total = int(rate * (WARM_UP_S + MEASURE_S))
        idle, waiting, taken = deque(self.connections), deque[int](), dict[int, float]()
        begun, cpu_s = time.perf_counter() + 0.1, self.server.process.usage().cpu_s

        def ask() -> None:
            while idle and waiting:
                connection, number = idle.popleft(), waiting.popleft()

                def answered(_body: bytes, connection: Connection = connection, number: int = number) -> None:
                    taken[number] = time.perf_counter() - (begun + number / rate)
                    idle.append(connection)
                    ask()

                self._listen(connection, answered)
                connection.transport.write(requests[number % len(requests)])

        sent = 0
        while sent < total:
            due = min(total, int((time.perf_counter() - begun) * rate) + 1)
            if due > sent:
                waiting.extend(range(sent, due))
                sent = due
                ask()
            # at least this pause between two groups: it counts in the latencies, as it is the load's own
            await asyncio.sleep(0.0005)
        with contextlib.suppress(TimeoutError):
            await self._until(lambda: len(taken) == total, DRAIN_S)
        waiting.clear()
        now = time.perf_counter()
        counted = [taken.get(number, now - begun - number / rate) for number in range(int(rate * WARM_UP_S), total)]
        await self._until(lambda: len(idle) == len(self.connections))
        spent_s = self.server.process.usage().cpu_s - cpu_s
        return measured(counted, MEASURE_S, spent_s * len(counted) / total)

    def _listen(self, connection: Connection, answered: Callable[[bytes], None]) -> None:
        def checked(status: int, body: bytes) -> None:
            if status == 200:
                answered(body)
            else:
                self.failure = f"answer {status}: {body[:500]!r}"

        connection.answered = checked

    async def _until(self, ended: Callable[[], bool], within_s: float = ANSWER_S) -> None:
        async with asyncio.timeout(within_s):
            while not ended():
                assert self.failure is None, self.failure
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def load_on(server: Server) -> AsyncIterator[Load]:
    """Connect to ``server``."""
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(Connection, "127.0.0.1", server.port) for _ in range(CONNECTIONS)]
    load = Load(server, [connection for _, connection in made])
    try:
        yield load
    finally:
        for connection in load.connections:
            connection.answered = lambda _status, _body: None
            connection.transport.abort()


def measured(taken_s: Sequence[float], span_s: float, cpu_s: float) -> Measured:
    p50, p99 = np.percentile(np.array(taken_s) * 1000, [50, 99])
    return Measured(len(taken_s) / span_s, float(p50), float(p99), cpu_s / len(taken_s) * 1e6)


class Bench:
    """One model store with a champion, and questions whose answers are known."""

    def __init__(self, folder: Path) -> None:
        """Make the store, in a process of its own: torch and MLflow are heavy."""
        self.folder = folder
        command = [sys.executable, "-m", "tests.benchmarks.model", str(folder)]
        subprocess.run(command, check=True, timeout=START_S, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (files,) = folder.glob("**/MLmodel")
        self.model = files.parent
        scorer = Scorer((folder / "model.onnx").read_bytes())
        contract, rng = scorer.contract, np.random.default_rng(0)
        z_NF = rng.standard_normal((BODIES * BODY_ROWS, len(contract.features)))
        # six digits, as a caller's own float32 features have
        x_NF = np.array(
            [[float(f"{x:.6g}") for x in x_F] for x_F in z_NF * contract.scaler.iqr + contract.scaler.median]
        )
        score_N = scorer.scores(x_NF[:, None].astype(np.float32))[:, 0].tolist()
        self.named, self.tensors, self.bodies = [], [], []
        for x_F, score in zip(x_NF[:BODIES].tolist(), score_N[:BODIES], strict=True):
            features = dict(zip(contract.features, x_F, strict=True))
            self.named.append(question({"pipeline": contract.pipeline, "features": features}, [score]))
            self.tensors.append(question({"inputs": [[x_F]]}, [score]))
        for start in range(0, len(x_NF), BODY_ROWS):
            span = slice(start, start + BODY_ROWS)
            self.bodies.append(question({"pipeline": contract.pipeline, "rows": x_NF[span].tolist()}, score_N[span]))

    @contextlib.asynccontextmanager
    async def tickwise(self) -> AsyncIterator[Server]:
        """Run `tickwise serve`."""
        port = free_port()
        environment = {
            "TICKWISE_HOME": str(self.folder),
            "TICKWISE_PIPELINES": str(workload.PIPELINE),
            "TICKWISE_KAFKA": NO_KAFKA,
        }
        async with self._process(
            ["api.cli", "serve", "--port", str(port)], environment, port, "[+]model bench ok"
        ) as process:
            yield Server(port, "/v1/predictions", tickwise_scores, process)

    @contextlib.asynccontextmanager
    async def mlflow(self) -> AsyncIterator[Server]:
        """Run `mlflow models serve` with one worker."""
        port = free_port()
        words = [
            "mlflow",
            "models",
            "serve",
            "-m",
            str(self.model),
            "-p",
            str(port),
            "-w",
            "1",
            "--env-manager",
            "local",
        ]
        # it starts `uvicorn` by name
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        async with self._process(words, environment, port, "") as process:
            yield Server(port, "/invocations", mlflow_scores, process)

    @contextlib.asynccontextmanager
    async def _process(
        self, words: Sequence[str], environment: dict[str, str], port: int, ready: str
    ) -> AsyncIterator[Contender]:
        process = Contender([sys.executable, "-m", *words], environment, self.folder / f"{words[0]}.log")
        try:
            async with asyncio.timeout(START_S):
                while not await answers(port, ready):
                    process.check()
                    await asyncio.sleep(0.1)
            yield process
        finally:
            process.stop()


def question(body: dict[str, Any], expected: list[float]) -> Question:
    return Question(json.dumps(body).encode(), expected)


def tickwise_scores(body: bytes) -> list[float]:
    answer = json.loads(body)
    return [each["score"] for each in answer.get("predictions", [answer])]


def mlflow_scores(body: bytes) -> list[float]:
    (values,) = json.loads(body)["predictions"].values()
    return [float(row[0]) for row in values]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


async def answers(port: int, ready: str) -> bool:
    """Tell whether the server on ``port`` answers, and says ``ready`` of its parts where that is asked for."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            path = "/readyz?verbose" if ready else "/health"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            text = (await reader.read()).decode()
            writer.close()
    except (OSError, TimeoutError):
        return False
    return ready in text if ready else " 200 " in text.split("\r\n", 1)[0]


async def bench(runs: int) -> dict[str, Any]:
    """Return medians and ranges of ``runs`` runs of each server, in turn."""
    found: dict[str, list[Measured]] = {}

    def note(name: str, result: Measured) -> None:
        found.setdefault(name, []).append(result)
        say = f"{result.per_s:>9,.0f} requests/s  p50 {result.p50_ms:6.2f} ms  p99 {result.p99_ms:6.2f} ms"
        say += f" {result.cpu_us:6.0f} CPU us"
        sys.stderr.write(f"run {len(found[name])} of {runs}: {name:<22} {say}\n")

    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {OTHERS_CORE})
    try:
        with tempfile.TemporaryDirectory(prefix="tickwise-bench-") as folder:
            arena = Bench(Path(folder))
            for _ in range(runs):
                async with arena.tickwise() as server, load_on(server) as load:
                    await load.verify([*arena.named, *arena.bodies])
                    note("single", await load.closed(arena.named))
                    note("single_at_fixed_rate", await load.fixed(arena.named, FIXED_RATE))
                    note("bodies", await load.closed(arena.bodies))
                async with arena.mlflow() as server, load_on(server) as load:
                    await load.verify(arena.tensors)
                    note("mlflow", await load.closed(arena.tensors))
    finally:
        os.sched_setaffinity(0, cores)

    def median(name: str, field: str) -> float:
        return statistics.median(getattr(each, field) for each in found[name])

    return {
        "single_requests_per_s": round(median("single", "per_s")),
        "single_cpu_us_per_request": round(median("single", "cpu_us")),
        "single_latency_ms_p50": round(median("single", "p50_ms"), 2),
        "single_latency_ms_p99": round(median("single", "p99_ms"), 2),
        f"single_latency_ms_p99_at_{FIXED_RATE}_per_s": round(median("single_at_fixed_rate", "p99_ms"), 2),
        f"rows_per_s_in_bodies_of_{BODY_ROWS}": round(median("bodies", "per_s") * BODY_ROWS),
        "bodies_latency_ms_p99": round(median("bodies", "p99_ms"), 2),
        "bodies_cpu_us_per_row": round(median("bodies", "cpu_us") / BODY_ROWS, 1),
        "mlflow_single_cpu_us_per_request": round(median("mlflow", "cpu_us")),
        "mlflow_single_requests_per_s": round(median("mlflow", "per_s")),
        "ratio_to_mlflow": round(median("single", "per_s") / median("mlflow", "per_s"), 1),
        "connections": CONNECTIONS,
        "runs": {
            name: {field: [round(getattr(each, field), 2) for each in each_of] for field in Measured._fields}
            for name, each_of in found.items()
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def main() -> None:
    """Run and print one JSON line, the last on stdout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    sys.stdout.write(json.dumps(asyncio.run(bench(parser.parse_args().runs))) + "\n")


if __name__ == "__main__":
    main()
