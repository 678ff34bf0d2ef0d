"""What the worker holds on to: memory early in a long run, at its end, and at most."""

import asyncio
import shutil
import tempfile
import time
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer

from data_io.topics import admin, predictions, rows
from tests.benchmarks import open_loop
from tests.benchmarks.arena import Arena
from tests.benchmarks.environments import MissingContenderError
from tests.benchmarks.slots import pack
from tests.benchmarks.workload import PARTITIONS

EARLY_SHARE = 0.05
SLOT_TICKS = 4_096
# Old segments go as new ones come; Kafka looks for them every five minutes, so much of a run may still lie there.
RETENTION = {"retention.bytes": str(512 << 20), "segment.bytes": str(128 << 20)}
DISK_BYTES_A_TICK = 500
STALL_S = 60.0
LOOK_S = 1.0


class Memory(NamedTuple):
    """Megabytes: resident: of the worker process alone, and with its children (MLflow's client, at the start)."""

    ticks: int
    symbols: int
    rss_mb_early: float
    rss_mb_end: float
    rss_mb_max: float
    all_mb_max: float


async def memory(arena: Arena, *, rate: float, symbols: int, ticks: int) -> Memory:
    """Send ``ticks`` ticks at ``rate`` past a worker, the same market again and again with later times.

    Raises:
        MissingContenderError: The disk is too small for it.
    """
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < ticks * DISK_BYTES_A_TICK * 1.1:
        raise MissingContenderError(f"{free / 1e9:.0f} GB are free, {ticks * DISK_BYTES_A_TICK / 1e9:.0f} are needed")
    work = arena.work(1_000_000, symbols)
    slots = pack(work, SLOT_TICKS)
    path = arena.folder / f"slots-memory-{symbols}.npz"
    slots.save(path)
    given = await arena.create(work, 1, **RETENTION)  # what would come of it is not looked at
    name = arena.spec.name
    spec = rows.topic_spec(name, PARTITIONS), predictions.topic_spec(name, PARTITIONS)
    await admin.ensure_topics(arena.bootstrap, [each._replace(config=each.config | RETENTION) for each in spec])
    async with arena.run("tickwise", "", given) as run:
        count = -(-ticks // SLOT_TICKS)
        plan = open_loop.Schedule(slots, path, 0, count, SLOT_TICKS / rate)
        ticks = plan.ticks(0, count)  # the last slot of a pass is shorter
        driving = asyncio.create_task(open_loop.driven(arena, given, plan, 0, count, plan.slot_s), name="drive")
        consumer = AIOKafkaConsumer(bootstrap_servers=arena.bootstrap)
        await consumer.start()
        early = largest = largest_of_all = 0.0
        done, grown = 0, time.monotonic()
        try:
            while done < ticks:
                run.process.check()
                before, done = done, await arena.ends(consumer, run.out_topic)
                held = run.process.held()
                rss_mb = held.own_bytes / 1e6
                largest, largest_of_all = max(largest, rss_mb), max(largest_of_all, held.all_bytes / 1e6)
                if done <= EARLY_SHARE * ticks:
                    early = rss_mb
                if done > before:
                    grown = time.monotonic()
                elif time.monotonic() - grown > STALL_S:
                    raise RuntimeError(f"no more than {done} of {ticks} predictions came:\n{run.process.tail()}")
                await asyncio.sleep(LOOK_S)
        finally:
            driving.cancel()
            await asyncio.gather(driving, return_exceptions=True)
            await consumer.stop()
    await arena.delete(given.topic)
    return Memory(done, symbols, early, rss_mb, largest, largest_of_all)
