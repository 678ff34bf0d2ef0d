"""The windowing path on JSON-per-tick records: the tickwise worker against a stock Faust agent, in one run.

usage: python -m tests.benchmarks.windowing [--ticks N] [--runs N]

Both read the same topic, decode the same ticks with the same exact rules, compute the same features with the same
kernel and write the same Arrow rows. Rates are taken from the broker's own stamps of the rows; the rows of both are
compared with rows computed offline before any rate counts. Broker on one core, contender on the other.
"""

import argparse
import asyncio
import json
import os
import platform
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from data_io.data_fetcher.sources import open_source
from data_io.publisher import publish
from data_io.topics import admin, rows, ticks
from data_io.topics.records import Records
from ml_core.data_processor import features
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.spec import PipelineSpec
from ml_core.types import RowBatch, SymbolTable
from streams.local_kafka import broker

PARTITIONS = 4
BROKER_CORE, CONTENDER_CORE = 0, 1
START_S = 120.0  # to import, compile and join the group
RUN_S = 15.0
IDLE_S = 2.0  # no new rows for so long: the topic is drained


class Result(NamedTuple):
    """One run of one contender."""

    ticks_per_s: float
    cpu_s_per_million: float
    rows: int


Names = dict[tuple[int, int], bytes]  # (partition, offset of the tick) -> bytes of its features


class Bench:
    """One Kafka, one topic of ticks, and the rows they must become."""

    def __init__(self, bootstrap: str, folder: Path, count: int) -> None:
        """Use ``count`` ticks of the seeded synthetic market."""
        self.bootstrap, self.folder = bootstrap, folder
        self.source = open_source(f"synthetic:symbols=100,ticks={count},rate=2000,seed=11")
        self.expected: Names = {}

    async def prepare(self) -> None:
        """Publish the ticks and compute their rows offline."""
        await admin.ensure_topics(self.bootstrap, [ticks.topic_spec(ticks.NAME, PARTITIONS)])
        await publish(self.source, bootstrap=self.bootstrap, topic=ticks.NAME)
        decoder, plan = ticks.TickDecoder(), FeaturePlan.from_spec(PipelineSpec(name="bench"))
        for partition in range(PARTITIONS):
            state = FeatureState(plan, SymbolTable())
            async for records in self._records(ticks.NAME, partition):
                batch, rejects = decoder.decode(as_records(records), state.symbols)
                assert not rejects
                self.expected |= names_of(partition, features.step(batch, state))

    async def run(self, kind: str) -> Result:
        """Run one contender on the whole topic for at most ``RUN_S`` and return what it did.

        Raises:
            AssertionError: Its rows are not the expected ones, so its time does not count.
        """
        name = f"bench-{kind.replace('_', '-')}-{secrets.token_hex(3)}"
        await admin.ensure_topics(self.bootstrap, [rows.topic_spec(name, PARTITIONS)])
        with (self.folder / f"{name}.log").open("wb") as log:
            command = ["taskset", "-c", str(CONTENDER_CORE), sys.executable, "-m", *self._command(kind, name)]
            environment = {**os.environ, **self._environment(name), "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # noqa: ASYNC220 - returns at once
        try:
            cpu_s = await self._watch(process, rows.name(name), self.folder / f"{name}.log")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        found: Names = {}
        stamps: list[tuple[int, int]] = []
        for partition in range(PARTITIONS):
            async for records in self._records(rows.name(name), partition):
                for record in records:
                    made = rows.decode(record.value).rows
                    stamps.append((record.timestamp, len(made)))
                    found |= names_of(partition, made)
        wrong = [place for place, x in found.items() if self.expected[place] != x]
        assert not wrong, f"{kind}: {len(wrong)} rows differ from the offline ones, first {min(wrong)}"
        stamps.sort()
        counted = sum(n for _, n in stamps)
        span_s = (stamps[-1][0] - stamps[0][0]) / 1000
        # The rows of the first record were made before its stamp started the clock.
        return Result((counted - stamps[0][1]) / span_s, cpu_s / counted * 1e6, counted)

    async def _watch(self, process: subprocess.Popen[bytes], topic: str, log: Path) -> float:
        """Wait until ``topic`` has stopped growing or the time is over; return CPU seconds since its first record."""
        tps = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap)
        await consumer.start()
        try:
            first = grown = time.monotonic() + START_S
            before, cpu_0 = 0, 0.0
            cpu_1 = 0.0
            while time.monotonic() < min(first + RUN_S, grown + IDLE_S):
                assert process.poll() is None, _ended(process, log)
                end = sum((await consumer.end_offsets(tps)).values())
                if end > before:
                    cpu_1 = cpu_seconds(process.pid)
                    if not before:
                        first, cpu_0 = time.monotonic(), cpu_1
                    before, grown = end, time.monotonic()
                await asyncio.sleep(0.05)
            return cpu_1 - cpu_0
        finally:
            await consumer.stop()

    async def _records(self, topic: str, partition: int) -> AsyncIterator[list[Any]]:
        tp = TopicPartition(topic, partition)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, auto_offset_reset="earliest", max_partition_fetch_bytes=8 << 20
        )
        await consumer.start()
        try:
            consumer.assign([tp])
            end = (await consumer.end_offsets([tp]))[tp]
            async with asyncio.timeout(START_S):
                while await consumer.position(tp) < end:
                    for records in (await consumer.getmany(tp, timeout_ms=500, max_records=20_000)).values():
                        yield records
        finally:
            await consumer.stop()

    def _command(self, kind: str, name: str) -> list[str]:
        if kind == "tickwise":
            return ["api.cli", "worker"]
        return [
            f"tests.benchmarks.contenders.{kind}", self.bootstrap, ticks.NAME, name, name, str(PARTITIONS),
        ]  # fmt: skip

    def _environment(self, name: str) -> dict[str, str]:
        pipeline = self.folder / f"{name}.toml"
        pipeline.write_text(f'name = "{name}"\n', encoding="utf-8")
        return {
            "TICKWISE_KAFKA": self.bootstrap,
            "TICKWISE_HOME": str(self.folder),
            "TICKWISE_PIPELINES": str(pipeline),
            "TICKWISE_GROUP": name,
        }


def as_records(found: Sequence[Any]) -> Records:
    """Return consumer records as the decoder takes them."""
    return Records([r.offset for r in found], [r.key for r in found], [r.value for r in found], [() for _ in found])


def names_of(partition: int, made: RowBatch) -> Names:
    """Return the rows by name, as bytes, so that NaN equals NaN."""
    return {(partition, offset): x.tobytes() for offset, x in zip(made.offset_N.tolist(), made.x_NF, strict=True)}


def _ended(process: subprocess.Popen[bytes], log: Path) -> str:
    return f"the contender ended with {process.returncode}:\n{log.read_text(encoding='utf-8')[-2000:]}"


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def bench(count: int, runs: int) -> dict[str, Any]:
    """Return the medians, ranges and ratios of ``runs`` runs each, in turn."""
    results: dict[str, list[Result]] = {"tickwise": [], "stock_faust": []}
    os.sched_setaffinity(0, {BROKER_CORE})
    with tempfile.TemporaryDirectory(prefix="tickwise-bench-") as folder, broker() as bootstrap:
        arena = Bench(bootstrap, Path(folder), count)
        await arena.prepare()
        for turn in range(runs):
            for kind, found in results.items():
                found.append(await arena.run(kind))
                say = f"{found[-1].ticks_per_s:>10,.0f} ticks/s  {found[-1].cpu_s_per_million:6.2f} CPU s/M"
                sys.stderr.write(f"run {turn + 1} of {runs}: {kind:<12} {say}\n")
    ours = statistics.median(r.ticks_per_s for r in results["tickwise"])
    return {
        "ticks_per_s": round(ours),
        "ratio_to": {
            kind: round(ours / statistics.median(r.ticks_per_s for r in found), 1)
            for kind, found in results.items()
            if kind != "tickwise"
        },
        "runs": {
            kind: {
                "ticks_per_s": [round(r.ticks_per_s) for r in found],
                "cpu_s_per_million": [round(r.cpu_s_per_million, 2) for r in found],
                "rows": found[0].rows,
            }
            for kind, found in results.items()
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def main() -> None:
    """Run and print one JSON line, the last on stdout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ticks", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    sys.stdout.write(json.dumps(asyncio.run(bench(given.ticks, given.runs))) + "\n")


if __name__ == "__main__":
    main()
