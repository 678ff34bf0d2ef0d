"""Reads a topic as fetched bytes, from its beginning to where it ends now."""

import struct
from collections.abc import AsyncIterator
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from data_io.topics.raw_records import FoundRecords, RawFetch, find
from streams.transport import raw_fetch

IDLE_S = 30.0
_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH_END, _CONTROL = 12, 0x20


class Stamp(NamedTuple):
    """One record batch: when the broker took it, and how many records it holds."""

    time_ms: int
    records: int


async def fetches(bootstrap: str, topic: str, partition: int) -> AsyncIterator[tuple[FoundRecords, list[Stamp]]]:
    """Yield the committed records of one partition, with the stamps of their batches."""
    raw_fetch.install()
    tp = TopicPartition(topic, partition)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=8 << 20,
    )
    await consumer.start()
    try:
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        while await consumer.position(tp) < end:
            found = await raw_fetch.take(consumer, {tp}, IDLE_S)
            if not found:
                raise TimeoutError(f"nothing more came of {topic}-{partition} before its end at {end}")
            for fetch in found.values():
                yield find(fetch), stamps(fetch)
    finally:
        await consumer.stop()


def stamps(fetch: RawFetch) -> list[Stamp]:
    """Return the stamps of the whole data batches of ``fetch``."""
    found, at, raw = [], 0, fetch.raw
    while at + _HEADER.size <= len(raw):
        _, length, _, _, _, attributes, _, _, last_ms, _, _, _, count = _HEADER.unpack_from(raw, at)
        at += _LENGTH_END + length
        if at <= len(raw) and not attributes & _CONTROL:
            found.append(Stamp(last_ms, count))
    return found
