"""One topic under load, its workers, and the oracle: all rows, predictions and bars recomputed in one thread."""

import asyncio
import bisect
import itertools
import json
import os
import re
import secrets
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiokafka import TopicPartition

from data_io import log_reader
from data_io.data_fetcher.sources import open_source
from data_io.topics import admin, bars, predictions, rows
from ml_core import fit as learning
from ml_core.errors import KafkaUnavailableError, NotFoundError
from ml_core.model.export import restated
from ml_core.spec import PipelineSpec
from model_ops_manager import parity
from model_ops_manager.mlflow_agent import MlflowAgent
from model_ops_manager.registration import register
from model_ops_manager.shed import Shed
from streams.local_kafka import node
from streams.transport import state_log
from streams.transport.published import of_predictions, published
from tests.faults.bar_oracle import Made, highest
from tests.faults.load import Load
from tests.faults.waiting import FellShortError, until
from tests.integration.worker_lab import PARTITIONS, WorkerLab

RATE = 2_000  # ticks a second
CHECKPOINT_S = 1.0
CAUGHT_UP_S = 120.0
START_S = 120.0  # of a worker, on a machine that does much else besides
BACK_S = 30.0
TOLD_S = 10.0
SILENT = "Kafka has not answered"  # of /readyz
DRAIN_S = 10.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
Rowless = Mapping[int, Sequence[int]]  # offsets of records that make no row, ascending, by partition
PARTS: dict[str, Any] = {
    "label": {"horizons": ["1s"]},
    "train": {"epochs": 2, "min_rows": 500},
    "features": {"window": 4},
    "bars": {"by": ["time:5s", "ticks:50"]},
}


def fitted(ticks: int = 8_000, **params: Any) -> learning.FittedModel:
    """Return a model of the pipeline of every scene, an MLP of ``params``."""
    source = open_source(f"synthetic:symbols=6,ticks={ticks},rate=50,seed=1")
    parts = {**PARTS, "model": {"kind": "mlp", "params": params}}
    return learning.fit(source.fetch(), PipelineSpec.model_validate({"name": "fitted", **parts})).model


class Scene:
    """A pipeline with a champion, and workers by the name of their instance."""

    def __init__(self, lab: WorkerLab, spec: PipelineSpec, store: MlflowAgent, settings: dict[str, str]) -> None:
        """Run workers of ``spec`` with ``settings``."""
        self.lab, self.spec, self.store, self._settings = lab, spec, store, settings
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}
        self.counted: dict[str, int] = {}  # what is known so far, also where the scene falls short
        self._numbers: dict[str, int] = {}
        self._load: Load | None = None

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        kafka: str,
        folder: Path,
        model: learning.FittedModel,
        *,
        partitions: int = PARTITIONS,
        parts: Mapping[str, Any] | None = None,
        **settings: str,
    ) -> AsyncIterator["Scene"]:
        """Make topic and champion; at the end every worker is gone.

        A FellShortError that passes through carries what was counted.
        """
        home = folder / secrets.token_hex(4)
        home.mkdir()
        lab = WorkerLab(kafka, secrets.token_hex(4), home, partitions)
        await lab.create_topic()
        store = MlflowAgent(f"sqlite:///{lab.home / 'mlflow.db'}", lab.home)
        spec = lab.pipeline("faults", **{**PARTS, **(parts or {})})
        version = register(store, restated(model, pipeline=spec.name), params={}, tags={})
        store.set_champion(spec.name, version.version, reason="the only one")
        scene = cls(lab, spec, store, settings)
        try:
            yield scene
        except FellShortError as error:
            error.counted = scene.counted | error.counted
            raise
        finally:
            lab.stop_all()

    def start(self, name: str, **more: str) -> None:
        """Start the worker ``name``, or start it again, with ``more`` settings."""
        [port] = node.free_ports(1)
        settings = {"checkpoint_s": str(CHECKPOINT_S), "worker_port": str(port), **self._settings, **more}
        self._numbers[name] = self.lab.count
        self.workers[name] = self.lab.start(self.spec, instance=name, **settings)
        self.ports[name] = port

    def log_of(self, name: str) -> str:
        """Return what the worker ``name`` has said since it was started the last time."""
        return self.lab.log(self._numbers[name])

    async def kill(self, name: str) -> None:
        """SIGKILL the worker ``name``."""
        self.workers[name].kill()
        self.counted["kills"] = self.counted.get("kills", 0) + 1
        await asyncio.to_thread(self.workers[name].wait, 10)

    async def terminate(self, name: str) -> float:
        """SIGTERM the worker ``name`` and return how long it took.

        Raises:
            FellShortError: It took too long, or did not end with 0.
        """
        process = self.workers[name]
        await self.lab.until(lambda: "worker starts" in self.log_of(name))  # before, nothing is there
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(process.wait, 3 * DRAIN_S)
        except subprocess.TimeoutExpired:
            raise FellShortError(f"a worker did not stop in {3 * DRAIN_S:.0f} s") from None
        took_s = time.monotonic() - began
        if code != 0 or took_s > DRAIN_S:
            said = self.log_of(name)[-2000:]
            raise FellShortError(f"a worker stopped with {code} after {took_s:.1f} s: {said}")
        return took_s

    def must_run(self) -> None:
        """Raise where a worker has ended by itself."""
        for name, process in self.workers.items():
            if (code := process.poll()) is not None:
                raise FellShortError(f"worker {name} ended by itself with {code}: {self.log_of(name)[-500:]}")

    @asynccontextmanager
    async def load(self, rate: float = RATE) -> AsyncIterator[Load]:
        """Publish ticks at ``rate`` while the block lasts; what Kafka has acknowledged by then must never be lost."""
        assert self._load is None, "a scene has one market"
        self._load = load = Load(self.lab.kafka, self.lab.topic, rate)
        publishing = asyncio.create_task(load.run(), name="load")
        try:
            yield load
        finally:
            load.end()
            await publishing

    async def undisturbed(self) -> dict[str, int]:
        """Return what ``judged`` does, of a worker that was never restarted."""
        self.must_run()
        await self.caught_up()
        await self.terminate("a")
        return await self.judged()

    async def ends(self, topic: str = "") -> dict[int, int]:
        """Return where each partition of ``topic``, else of the ticks, ends."""
        tps = [TopicPartition(topic or self.lab.topic, number) for number in range(self.lab.partitions)]
        async with log_reader.consumer(self.lab.kafka) as consumer:
            return {tp.partition: end for tp, end in (await log_reader.bounds(consumer, tps))[1].items()}

    async def grows(self, before: dict[int, int]) -> None:
        """Wait until every partition has a hundred ticks more than ``before``."""

        async def has_grown() -> bool:
            return all(end > before[number] + 100 for number, end in (await self.ends()).items())

        await until(has_grown, CAUGHT_UP_S, "no ticks are published")

    async def reached(self) -> dict[int, int]:
        """Return up to which tick, exclusive, each partition has predictions."""
        topic = predictions.name(self.spec.name)
        try:
            await admin.describe(self.lab.kafka, topic)
        except NotFoundError:  # no worker has come so far
            return dict.fromkeys(range(self.lab.partitions), 0)
        topic_id = (await admin.describe(self.lab.kafka, self.lab.topic)).topic_id
        found = [
            await published(self.lab.kafka, {topic: of_predictions}, number, topic_id)
            for number in range(self.lab.partitions)
        ]
        return {number: out[topic].place[0] + 1 if out[topic].place else 0 for number, out in enumerate(found)}

    async def consumes(self, timeout_s: float) -> float:
        """Wait until each partition has a prediction of a tick that was not there before; return how long it took."""
        ends: dict[int, int] = {}

        async def has_come() -> bool:
            nonlocal ends
            try:
                ends = ends if ends and all(ends.values()) else await self.ends()
                reached = await self.reached()
            except KafkaUnavailableError:
                return False
            return all(0 < end <= reached[number] for number, end in ends.items())

        return await until(
            has_come, timeout_s, lambda: f"not consuming again in {timeout_s:.0f} s: {self.lab.log()[-500:]}"
        )

    async def at_work(self, name: str) -> None:
        """Wait until all is consumed, and until every partition has a checkpoint since, the worker ``name`` one too."""
        await self.consumes(START_S)
        before, reached = await self._checkpoints(name), await self.reached()

        async def has_committed() -> bool:
            found = state_log.manifests(self.lab.kafka, self.spec.name)
            positions = {number: manifest.position async for number, manifest, _ in found}
            is_behind = [number for number, end in reached.items() if positions.get(number, -1) < end]
            return not is_behind and await self._checkpoints(name) > before

        await until(has_committed, START_S, lambda: f"{name} commits nothing: {self.log_of(name)[-500:]}", pause_s=0.1)

    async def _checkpoints(self, name: str) -> float:
        try:
            return await self.metric("tickwise_checkpoints_total", worker=name)
        except OSError:  # it does not listen yet
            return 0.0

    async def caught_up(self) -> None:
        """Wait until every tick has its prediction."""
        await self.consumes(CAUGHT_UP_S)

    async def problems(self, name: str) -> str | None:
        """Return what /readyz of a worker complains about, "" where it is ready, None where it does not answer."""

        def ask() -> str | None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}/readyz", timeout=2):
                    return ""
            except urllib.error.HTTPError as error:
                return error.read().decode()
            except OSError:
                return None

        return await asyncio.to_thread(ask)

    async def told_of(self, word: str, within_s: float) -> float:
        """Wait until every worker's /readyz says ``word`` and return how long that took."""

        async def is_told() -> bool:
            said = [await self.problems(name) or "" for name in self.workers]
            return all(word in each for each in said)

        return await until(is_told, within_s, f"/readyz said nothing of {word!r} in {within_s:.0f} s", pause_s=0.1)

    async def back(self, name: str = "a") -> dict[str, float]:
        """Return how long it took to consume again and then to say so, and the peak of memory meanwhile."""
        back_s = await self.consumes(BACK_S)

        async def is_ready() -> bool:
            return await self.problems(name) == ""

        ready_s = await until(is_ready, TOLD_S, f"it consumes and was not ready in {TOLD_S:.0f} s", pause_s=0.1)
        return {"back_s": back_s, "ready_s": ready_s, "peak_mb": self.peak_mb(name)}

    async def late_ticks(self, name: str) -> dict[str, int]:
        """Return how many late ticks a worker has counted, by whether they were beyond lateness."""
        lines = re.findall(r'tickwise_late_ticks_total\{beyond="(\w+)".*\} (\S+)', await self._metrics(name))
        return {beyond: int(float(count)) for beyond, count in lines}

    async def judged(self, *, repeats: bool = True, rowless: Rowless = MappingProxyType({})) -> dict[str, int]:
        """Compare everything with the oracle and return the counts.

        Args:
            repeats: Rows may be there twice.
            rowless: What makes no row.

        Raises:
            FellShortError: Something was lost, doubled with another value, out of order or, unless it may be, repeated.
        """
        shed = await self.shed()
        found = await parity.verify(self.lab.kafka, self.spec, self.store, await self._all(), shed)
        parts = found.outputs.values()
        counts = {
            "lost": sum(part.missing for part in parts),
            "conflicting": sum(
                part.conflicting + part.unexpected + part.misplaced + part.mismatches.total() for part in parts
            ),
            "repeats": sum(part.repeated for part in parts),
            "compared": sum(part.compared for part in parts),
            "unchecked": sum(part.unchecked.total() for part in parts),
            "shed": found.rows.shed,
            **({"bars": found.bars.compared} if found.bars else {}),
        }
        self.counted |= counts
        if not counts.get("bars", 1):
            raise FellShortError("no bar was made")
        if self._load is not None:
            counts |= await self._load.acknowledged(self.lab.partitions)
        self.counted |= counts
        skipped = await self._skipped(rowless, shed)
        is_whole = found.is_equal and not counts.get("acknowledged_lost") and not skipped
        if not is_whole or counts["unchecked"] or (counts["repeats"] and not repeats):
            firsts = [part.first for part in parts if part.first]
            raise FellShortError(f"{counts}, skipped {skipped}, first differences {firsts}")
        return counts

    async def bars_that_differ(self, expected: Made) -> list[tuple[object, ...]]:
        """Return name, what is published and what is expected of each bar whose highest revision is another one."""
        found: Made = {}
        for number in range(self.lab.partitions):
            records = self.lab.records(bars.name(self.spec.feature_set), number, committed=True)
            found |= highest([bars.decode(record.value) async for record in records])
        names = sorted(found.keys() | expected.keys())
        return [(name, there, wanted) for name in names if (there := found.get(name)) != (wanted := expected.get(name))]

    async def by_symbol(self) -> dict[str, list[tuple[bytes, object]]]:
        """Return the features and the score of each row of a symbol, in order, whatever partition it stands in."""
        scores = {each["id"]: each["score"] for each in await self.lab.predictions(self.spec)}
        topic_id = (await admin.describe(self.lab.kafka, self.lab.topic)).topic_id
        found: dict[str, list[tuple[bytes, object]]] = {}
        for number in range(self.lab.partitions):
            async for record in self.lab.records(rows.name(self.spec.feature_set), number, committed=True):
                made = rows.decode(record.value).rows
                for symbol, offset, x_F in zip(made.symbol_N.tolist(), made.offset_N.tolist(), made.x_NF, strict=True):
                    score = scores[predictions.row_id(topic_id, number, offset, 0)]
                    found.setdefault(made.symbols[symbol], []).append((x_F.tobytes(), score))
        return found

    def restores_s(self) -> list[float]:
        """Return how long takeovers took, of all workers so far."""
        files = sorted(self.lab.folder.glob("worker-*.log"))
        lines = [line for file in files for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
        return [json.loads(line)["seconds"] for line in lines if '"takeover"' in line and '"seconds"' in line]

    async def _all(self) -> dict[int, tuple[int, int]]:
        return {number: (0, end) for number, end in (await self.ends()).items() if end}

    async def shed(self) -> dict[int, Shed]:
        """Return what the checkpoints say was skipped."""
        found = state_log.manifests(self.lab.kafka, self.spec.name)
        return {number: manifest.shed async for number, manifest, _ in found}

    async def metric(self, name: str, label: str = "", worker: str = "a") -> float:
        """Return the sum of a metric of a worker over its labels, or where one of them is ``label``."""
        found = await self.samples(name, worker)
        return sum(float(line.rsplit(" ", 1)[1]) for line in found if not label or f'"{label}"' in line)

    async def samples(self, name: str, worker: str = "a") -> list[str]:
        """Return the lines of a metric of a worker."""
        lines = (await self._metrics(worker)).splitlines()
        return [line for line in lines if line.startswith((f"{name}{{", f"{name} "))]

    async def _metrics(self, worker: str) -> str:
        def ask() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[worker]}/metrics", timeout=5) as answer:
                return str(answer.read().decode())

        return await asyncio.to_thread(ask)

    def rss_mb(self, worker: str = "a") -> float:
        """Return the resident memory of a worker."""
        pages = Path(f"/proc/{self.workers[worker].pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * PAGE_BYTES / 1e6

    def forget_peak(self, worker: str = "a") -> float:
        """Return the resident memory of a worker, and count its peak from now on."""
        Path(f"/proc/{self.workers[worker].pid}/clear_refs").write_text("5", encoding="ascii")
        return self.rss_mb(worker)

    def peak_mb(self, worker: str = "a") -> float:
        """Return the most memory that a worker had since its peak was forgotten."""
        status = Path(f"/proc/{self.workers[worker].pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 / 1e6

    def must_be_bounded(self, before_mb: float, after_mb: float, *, most: float = 1.5) -> None:
        """Raise where a worker has grown by more than ``most`` times."""
        if after_mb > most * before_mb:
            raise FellShortError(f"the worker grew from {before_mb:.0f} to {after_mb:.0f} MB")

    async def _skipped(self, rowless: Rowless, shed: Mapping[int, Shed]) -> int:
        """Return how often a row stands behind one that is not the one before it: only a whole tail may repeat.

        Or what lies between them gives no row, or is exactly what the worker has skipped.
        """
        skipped = 0
        for number in range(self.lab.partitions):
            reached, known = -1, rowless.get(number, ())
            async for record in self.lab.records(rows.name(self.spec.feature_set), number, committed=True):
                offsets: Sequence[int] = rows.decode(record.value).rows.offset_N.tolist()
                for before, after in itertools.pairwise([reached, *offsets]):
                    between = bisect.bisect_left(known, after) - bisect.bisect_right(known, before)
                    is_shed = (before + 1, after) in shed.get(number, Shed()).ranges
                    skipped += after - before - 1 > between and not is_shed
                reached = offsets[-1]
        return skipped
