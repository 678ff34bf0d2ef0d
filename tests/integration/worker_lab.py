"""Real worker processes on a real Kafka, and what they left in their topics."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from data_io.data_fetcher.sources import open_source
from data_io.publisher import publish
from data_io.topics import admin, dead_letters, predictions, rows, ticks
from data_io.topics.records import Records
from ml_core.data_processor import features
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.errors import NotFoundError
from ml_core.spec import PipelineSpec, parse
from ml_core.types import SymbolTable
from streams import kernels

PARTITIONS = 2
WAIT_S = 120.0  # on a machine that does much else besides

Names = dict[tuple[int, int, int], bytes]  # (partition, offset, index) -> bytes of the features


class WorkerLab:
    """One topic of ticks, its workers and their outputs."""

    def __init__(self, kafka: str, unique: str, folder: Path, partitions: int = PARTITIONS) -> None:
        self.kafka, self.unique, self.folder, self.partitions = kafka, unique, folder, partitions
        self.topic = f"ticks-{unique}"
        self.home = folder / "home"
        self.home.mkdir()
        self._processes: list[subprocess.Popen[bytes]] = []

    async def create_topic(self) -> None:
        await admin.ensure_topics(self.kafka, [ticks.topic_spec(self.topic, self.partitions)])

    def pipeline(self, name: str, **parts: Any) -> PipelineSpec:
        return parse({"name": f"{name}-{self.unique}", "source": {"topic": self.topic}, **parts})

    def start(self, spec: PipelineSpec, *, instance: str | None = None, **settings: str) -> subprocess.Popen[bytes]:
        file = self.folder / f"{spec.name}.json.toml"
        file.write_text(_toml(spec), encoding="utf-8")
        number = len(self._processes)
        environment = {
            **os.environ,
            "TICKWISE_KAFKA": self.kafka,
            "TICKWISE_HOME": str(self.home),
            "TICKWISE_PIPELINES": str(file),
            "TICKWISE_GROUP": spec.name,
            "TICKWISE_CHECKPOINT_S": "0.5",
            "TICKWISE_SESSION_TIMEOUT_S": "6",
            "TICKWISE_CHAMPION_POLL_S": "0.3",
            **({"TICKWISE_INSTANCE": instance} if instance else {}),
            **{f"TICKWISE_{key.upper()}": value for key, value in settings.items()},
        }
        with (self.folder / f"worker-{number}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "api.cli", "worker"], env=environment, stdout=log, stderr=log
            )
        self._processes.append(process)
        return process

    @property
    def count(self) -> int:
        """How many workers were started."""
        return len(self._processes)

    def log(self, number: int = -1) -> str:
        number = number % len(self._processes)
        return (self.folder / f"worker-{number}.log").read_text(encoding="utf-8", errors="replace")

    def stop_all(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)
        late = [line for number in range(self.count) for line in self.log(number).splitlines() if kernels.LATE in line]
        assert late == []

    async def publish(self, source: str, *, rate: float | None = None) -> int:
        return (await publish(open_source(source), bootstrap=self.kafka, topic=self.topic, rate=rate)).ticks

    async def send(self, *records: tuple[bytes | None, bytes | None], partition: int = 0, headers=()) -> list[int]:
        """Publish records one after the other and return their offsets."""
        offsets = []
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka, max_request_size=2 << 20)
        await producer.start()
        try:
            for key, value in records:
                sent = await producer.send_and_wait(
                    self.topic, value, key=key, partition=partition, headers=list(headers)
                )
                offsets.append(sent.offset)
        finally:
            await producer.stop()
        return offsets

    async def expected_rows(self, spec: PipelineSpec) -> Names:
        """Rows computed offline, from the first tick of each partition on, by decoder and kernel alone."""
        plan, decoder = FeaturePlan.from_spec(spec), ticks.TickDecoder(spec.source.map)
        found: Names = {}
        for partition in range(self.partitions):
            state = FeatureState(plan, SymbolTable())
            records = [r async for r in self.records(self.topic, partition)]
            columns = ([r.offset for r in records], [r.key for r in records], [r.value for r in records])
            batch, _ = decoder.decode(Records(*columns, [tuple(r.headers) for r in records]), state.symbols)
            _add(found, partition, features.step(batch, state))
        return found

    async def live_rows(self, spec: PipelineSpec) -> Names:
        found: Names = {}
        for partition in range(self.partitions):
            async for record in self.records(rows.name(spec.feature_set), partition):
                _add(found, partition, rows.decode(record.value).rows)
        return found

    async def predictions(self, spec: PipelineSpec) -> list[dict[str, Any]]:
        topic = predictions.name(spec.name)
        records = [r for p in range(self.partitions) async for r in self.records(topic, p)]
        return [each for r in records for each in predictions.decode(r.value, r.headers)]

    async def dead_letters(self) -> list[Any]:
        return [r for p in range(self.partitions) async for r in self.records(dead_letters.name(self.topic), p)]

    async def committed_rows(self, spec: PipelineSpec) -> list[tuple[int, int, int]]:
        """Names of the rows a reader of committed data sees, each as often as it stands there."""
        topic, names = rows.name(spec.feature_set), []
        for partition in range(self.partitions):
            async for record in self.records(topic, partition, committed=True):
                made = rows.decode(record.value).rows
                names += [
                    (partition, *name) for name in zip(made.offset_N.tolist(), made.index_N.tolist(), strict=True)
                ]
        return names

    async def records(self, topic: str, partition: int, *, committed: bool = False) -> AsyncIterator[Any]:
        """Every record that stands in the partition now."""
        try:
            await admin.describe(self.kafka, topic)
        except NotFoundError:
            return
        tp = TopicPartition(topic, partition)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka,
            auto_offset_reset="earliest",
            isolation_level="read_committed" if committed else "read_uncommitted",
        )
        await consumer.start()
        try:
            consumer.assign([tp])
            end = (await consumer.end_offsets([tp]))[tp]
            async with asyncio.timeout(WAIT_S):
                while await consumer.position(tp) < end:
                    for record in (await consumer.getmany(tp, timeout_ms=200)).get(tp, ()):
                        yield record
        finally:
            await consumer.stop()

    async def until(self, condition: Callable[[], Any], *, timeout_s: float = WAIT_S) -> Any:
        """Wait for the first true answer of ``condition`` (awaited where it is a coroutine)."""
        deadline = time.monotonic() + timeout_s
        while True:
            answer = condition()
            answer = await answer if asyncio.iscoroutine(answer) else answer
            if answer:
                return answer
            assert time.monotonic() < deadline, f"not in {timeout_s:.0f} s; what the workers say:\n{self._last_words()}"
            await asyncio.sleep(0.1)

    def _last_words(self) -> str:
        running = [process for process in self._processes if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGUSR1)  # their stacks go to the log
        time.sleep(0.5)
        return "\n".join(
            f"worker {number}, {'running' if process in running else process.returncode}:\n{self.log(number)[-3000:]}"
            for number, process in enumerate(self._processes)
        )

    async def until_rows(self, spec: PipelineSpec, count: int) -> Names:
        async def enough() -> Names | None:
            found = await self.live_rows(spec)
            return found if len(found) >= count else None

        return await self.until(enough)


def stop(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM, and the exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(30)


def _add(found: Names, partition: int, made: Any) -> None:
    for offset, index, x, mid in zip(made.offset_N.tolist(), made.index_N.tolist(), made.x_NF, made.mid_N, strict=True):
        name, value = (partition, offset, index), x.tobytes() + mid.tobytes()
        assert found.setdefault(name, value) == value, f"two values for one row: {name}"


def _toml(spec: PipelineSpec) -> str:
    """The pipeline as TOML: tables of JSON values are TOML too, as long as nothing is null."""
    lines = [f'name = "{spec.name}"']
    for table, values in spec.model_dump(mode="json", exclude={"name"}, exclude_none=True).items():
        lines.append(f"[{table}]")
        lines += [f"{key} = {_value(value)}" for key, value in values.items()]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value)
