"""What Kafka says of the workers as a group, and how long a partition had no outputs meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from data_io import log_reader
from data_io.topics import predictions
from tests.faults.scene import Scene
from tests.faults.waiting import FellShortError, until

EVERY_S = 0.25
FEW = 10  # records: what ends a transaction is written to an output that stands still too


@dataclass
class Watched:
    """What was seen."""

    most_members: int = 0
    longest_pause_s: float = 0.0
    settled: int = 0  # looks at a group that was not about to share out anew


@asynccontextmanager
async def watched(scene: Scene) -> AsyncIterator[Watched]:
    """Watch until the end of the block.

    Raises:
        FellShortError: A partition was shared out to nobody, or twice.
    """
    seen, ended = Watched(), asyncio.Event()
    watching = asyncio.create_task(_watch(scene, seen, ended), name="watch-group")
    try:
        yield seen
    finally:
        ended.set()
        await watching


async def owned_once(scene: Scene, within_s: float) -> None:
    """Wait until the workers that run say themselves that each partition has one owner."""
    owners: list[str] = []

    async def is_owned_once() -> bool:
        nonlocal owners
        running = [name for name, process in scene.workers.items() if process.poll() is None]
        try:
            owners = [
                line.split('partition="')[1].split('"')[0]
                for name in running
                for line in await scene.samples("tickwise_consumer_lag_ticks", name)
            ]
        except OSError:  # one does not listen yet
            return False
        return sorted(owners) == [str(number) for number in range(scene.lab.partitions)]

    await until(is_owned_once, within_s, lambda: f"partitions by owner: {owners}")


async def _watch(scene: Scene, seen: Watched, ended: asyncio.Event) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=scene.lab.kafka)
    tps = [TopicPartition(predictions.name(scene.spec.name), number) for number in range(scene.lab.partitions)]
    moved_s, reached = dict.fromkeys(tps, time.monotonic()), dict.fromkeys(tps, 0)
    await client.start()
    try:
        async with log_reader.consumer(scene.lab.kafka, committed=False) as consumer:
            while not ended.is_set():
                await _look_at_members(client, scene, seen)
                ends, now_s = await consumer.end_offsets(tps), time.monotonic()
                for tp in tps:
                    seen.longest_pause_s = max(seen.longest_pause_s, now_s - moved_s[tp])
                    if ends[tp] > reached[tp] + FEW:
                        moved_s[tp], reached[tp] = now_s, ends[tp]
                await asyncio.sleep(EVERY_S)
    finally:
        await client.close()


async def _look_at_members(client: AIOKafkaAdminClient, scene: Scene, seen: Watched) -> None:
    [answer] = await client.describe_consumer_groups([scene.spec.name])
    [group] = answer.to_object()["groups"]
    seen.most_members = max(seen.most_members, len(group["members"]))
    if group["state"] != "Stable":
        return
    owned = [
        tp.partition
        for member in group["members"]
        if member["member_assignment"]
        for tp in ConsumerProtocolMemberAssignment.decode(member["member_assignment"]).partitions()
    ]
    if sorted(owned) != list(range(scene.lab.partitions)):
        raise FellShortError(f"partitions by owner: {owned}")
    seen.settled += 1
