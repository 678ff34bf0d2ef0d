"""One Kafka on one core, the ticks in it, the model in its store: where contenders run, one after the other."""

import asyncio
import hashlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from data_io.topics import admin, predictions, rows, ticks
from ml_core.data_processor.plan import FeaturePlan
from ml_core.spec import PipelineSpec, load
from streams.local_kafka import broker
from streams.transport import state_log
from tests.benchmarks import environments, kernel_check, workload
from tests.benchmarks.contenders import registry
from tests.benchmarks.fetching import Stamp, fetches
from tests.benchmarks.oracle import Expected, Judge, Network, expectations
from tests.benchmarks.processes import OTHERS_CORE, ROOT, Contender
from tests.benchmarks.raw_producer import RawProducer
from tests.benchmarks.slots import Slots, pack
from tests.benchmarks.workload import PARTITIONS, PIPELINE, Workload

FILL_SLOT_TICKS = 4096  # batches of about 128 kB
_MODEL_S = 300
# With one core, Kafka stands still for 30 to 80 ms while it collects garbage; this much is full in half a minute.
_HEAP = "-Xms4g -Xmx4g -Xmn3g -XX:+AlwaysPreTouch"


class Ticks(NamedTuple):
    """A topic of ticks, and what must come of it."""

    topic: str
    topic_id: str
    work: Workload
    expected: list[Expected]

    @property
    def count(self) -> int:
        """Ticks in the topic."""
        return sum(map(len, self.expected))


class Run(NamedTuple):
    """A contender at work."""

    process: Contender
    out_topic: str


class Arena:
    """What all runs share."""

    def __init__(self, bootstrap: str, folder: Path, home: Path) -> None:
        """Use the broker at ``bootstrap`` and the model store in ``home``; logs go to ``folder``."""
        self.bootstrap, self.folder, self.home = bootstrap, folder, home
        self.spec: PipelineSpec = load(PIPELINE)
        self.network = Network(home)
        self._work: dict[tuple[int, int], Workload] = {}

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Self]:
        """Start Kafka on the core that contenders do not use, where this process stays too."""
        home = model_home()
        os.sched_setaffinity(0, {OTHERS_CORE})
        os.environ.setdefault("KAFKA_HEAP_OPTS", _HEAP)
        with broker() as bootstrap:
            yield cls(bootstrap, folder, home)

    def work(self, count: int, symbols: int = 100) -> Workload:
        """Return a pass of the workload, made once; raises WrongOutputError where the kernel gets it wrong."""
        if (count, symbols) not in self._work:
            work = workload.make(count, symbols=symbols)
            kernel_check.check(work, self.spec)
            self._work[count, symbols] = work
        return self._work[count, symbols]

    async def create(self, work: Workload, passes: int, rows_a_record: int = 1, **config: str) -> Ticks:
        """Make an empty topic for ``passes`` passes, and compute what they must become."""
        topic = f"bench-ticks-{secrets.token_hex(3)}"
        spec = ticks.topic_spec(topic, PARTITIONS)
        await admin.ensure_topics(self.bootstrap, [spec._replace(config={**spec.config, **config})])
        info = await admin.describe(self.bootstrap, topic)
        return Ticks(
            topic, info.topic_id, work, list(expectations(work, passes, self.spec, self.network, rows_a_record))
        )

    async def filled(self, work: Workload, passes: int) -> Ticks:
        """Make a topic with ``passes`` passes in it."""
        made = await self.create(work, passes)
        await asyncio.to_thread(self._fill, made.topic, pack(work, FILL_SLOT_TICKS), passes)
        return made

    def _fill(self, topic: str, slots: Slots, passes: int) -> None:
        with RawProducer(self.bootstrap, topic) as producer:
            for k in range(passes):
                for number in range(len(slots)):
                    producer.send(slots.slot(number, k), window=4)
            producer.settle()

    @asynccontextmanager
    async def run(
        self,
        name: str,
        form: str,
        given: Ticks,
        *,
        exactly_once: bool = False,
        predictions_as: str = "json",
        aim: str = "throughput",
        profile: Path | None = None,
    ) -> AsyncIterator[Run]:
        """Start a contender on ``given``; at the end it is stopped and what it wrote is deleted.

        ``aim`` says what the best forms of others are set for, see `registry.Task`; tickwise is as it is for both.
        With ``profile``, one in Python leaves there, as it stops, what cProfile saw.

        Raises:
            MissingContenderError: It cannot be run here.
        """
        group = f"bench-{name.replace('_', '-')}-{secrets.token_hex(3)}"
        is_ours = name == "tickwise"
        spec = predictions.topic_spec(self.spec.name, PARTITIONS)
        out = spec.name if is_ours else group
        task = registry.Task(
            self.bootstrap, given.topic, given.topic_id, out, group, self.home / "model.onnx", PARTITIONS, aim
        )
        command = registry.command(name, form, task)
        if profile:
            command[1:1] = ["-m", "cProfile", "-o", str(profile)]
        await admin.ensure_topics(self.bootstrap, [spec._replace(name=out)])
        environment = self._worker(group, given.topic, predictions_as, exactly_once=exactly_once) if is_ours else {}
        process = Contender(command, environment, self.folder / f"{group}.log")
        try:
            yield Run(process, out)
        finally:
            await asyncio.to_thread(process.stop)
            await self.delete(out, rows.name(self.spec.name), state_log.name(group))

    def _worker(self, group: str, topic: str, predictions_as: str, *, exactly_once: bool) -> Mapping[str, str]:
        pipeline = self.folder / f"{group}.toml"
        text = PIPELINE.read_text(encoding="utf-8")
        pipeline.write_text(
            f'{text}\n[source]\ntopic = "{topic}"\n[predictions]\nformat = "{predictions_as}"\n', encoding="utf-8"
        )
        delivery = {"TICKWISE_DELIVERY": "exactly_once"} if exactly_once else {}
        return {
            "TICKWISE_KAFKA": self.bootstrap,
            "TICKWISE_HOME": str(self.home),
            "TICKWISE_PIPELINES": str(pipeline),
            "TICKWISE_GROUP": group,
            **delivery,
        }

    async def judged(self, run: Run, given: Ticks) -> list[Stamp]:
        """Stop a contender, check all of its output and return the stamps of its batches, ascending.

        Raises:
            WrongOutputError: A prediction is not the one it must be.
            RuntimeError: It did not stop as asked.
        """
        code = await asyncio.to_thread(run.process.stop)
        if code != 0:
            raise RuntimeError(f"asked to stop, the contender ended with {code}:\n{run.process.tail()}")
        found: list[Stamp] = []
        for partition, expected in enumerate(given.expected):
            judge = Judge(expected, topic_id=given.topic_id, partition=partition, spec=self.spec)
            async for records, stamps in fetches(self.bootstrap, run.out_topic, partition):
                await asyncio.to_thread(judge.take, records)
                found += stamps
        return sorted(found)

    async def ends(self, consumer: AIOKafkaConsumer, topic: str) -> int:
        """Return how many offsets of ``topic`` are taken, over all partitions."""
        return sum((await consumer.end_offsets([TopicPartition(topic, p) for p in range(PARTITIONS)])).values())

    async def delete(self, *names: str) -> None:
        """Delete those of the topics that exist, and wait until they are gone."""
        client = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await client.start()
        try:
            if doomed := set(names) & set(await client.list_topics()):
                await client.delete_topics(list(doomed))
            async with asyncio.timeout(30):
                while set(names) & set(await client.list_topics()):  # noqa: ASYNC110 - Kafka sends no event
                    await asyncio.sleep(0.05)
        finally:
            await client.close()


def model_home() -> Path:
    """Return the folder with the benchmark's model and model store, made on first use."""
    here = Path(__file__).parent
    parts = [here / name for name in ("pipeline.toml", "model.py", "workload.py")]
    parts += [
        ROOT / "requirements.lock",
        ROOT / "ml_core" / "contract.py",
        *sorted((ROOT / "ml_core/model").glob("*.py")),
    ]
    plan = FeaturePlan.from_spec(load(PIPELINE)).hash
    known = [str(environments.CACHE), plan]  # MLflow notes where its files lie
    whole = b"".join([*map(str.encode, known), *(path.read_bytes() for path in parts)])
    digest = hashlib.sha256(whole).hexdigest()[:12]
    home = environments.CACHE / f"model-{digest}"
    if not (home / ".ready").is_file():
        home.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        command = [sys.executable, "-m", "tests.benchmarks.model", str(home)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=_MODEL_S, stdout=subprocess.DEVNULL)
        (home / ".ready").touch()
        sys.stderr.write(f"made the model in {time.monotonic() - began:.0f} s\n")
    return home
