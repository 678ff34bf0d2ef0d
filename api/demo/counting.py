"""Counts what is in the topics with a plain consumer, independently of the code that wrote it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from aiokafka import AIOKafkaConsumer, TopicPartition

from data_io.topics import predictions as prediction_records

TIMEOUT_S = 120.0


@dataclass
class Counts:
    """What stands in the topics of a pipeline."""

    ticks: int = 0
    rejected: int = 0
    rows: int = 0
    predictions: int = 0
    places: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # prediction id -> partition and offset of its tick
    versions: Counter[int] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    tick_times_ms: dict[tuple[int, int], int] = field(default_factory=dict)
    last: dict[str, dict[str, Any]] = field(default_factory=dict)


async def read_all(bootstrap: str, topic: str) -> AsyncIterator[Any]:
    """Yield every record that stands in ``topic`` now."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", max_partition_fetch_bytes=4 << 20
    )
    await consumer.start()
    try:
        tps = [
            TopicPartition(topic, p)
            for p in sorted(consumer.partitions_for_topic(topic) or await partitions(consumer, topic))
        ]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        async with asyncio.timeout(TIMEOUT_S):
            while any([await consumer.position(tp) < ends[tp] for tp in tps]):
                for records in (await consumer.getmany(*tps, timeout_ms=200)).values():
                    for record in records:
                        yield record
    finally:
        await consumer.stop()


async def partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    """Return the partitions of ``topic``, asking Kafka for them."""
    consumer.subscribe([topic])
    await consumer.getmany(timeout_ms=500)
    consumer.unsubscribe()
    return set(consumer.partitions_for_topic(topic) or ())


async def count(bootstrap: str, *, ticks: str, rejected: str, rows: str, predictions: str) -> Counts:
    """Return the counts over four topics."""
    counts = Counts()
    async for record in read_all(bootstrap, ticks):
        counts.ticks += 1
        counts.tick_times_ms[record.partition, record.offset] = record.timestamp
    async for _ in read_all(bootstrap, rejected):
        counts.rejected += 1
    async for record in read_all(bootstrap, rows):
        counts.rows += sum(batch.num_rows for batch in pa.ipc.open_stream(record.value))
    async for record in read_all(bootstrap, predictions):
        for value in prediction_records.decode(record.value, record.headers):
            counts.predictions += 1
            _, partition, offset, _ = value["id"].rsplit("-", 3)
            counts.places[value["id"]] = int(partition), int(offset)
            counts.versions[value["version"]] += 1
            counts.statuses[value["status"]] += 1
            counts.last[value["symbol"]] = value
    return counts
