"""Reads a topic as fetched bytes, from its beginning to where it ends now."""

import struct
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from data_io.topics.raw_records import FoundRecords, RawFetch, find
from streams.transport import connection
from streams.transport.tick_fetcher import TickFetcher

IDLE_S, POLL_S = 30.0, 0.05
_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH_END, _CONTROL = 12, 0x20


class Stamp(NamedTuple):
    """One record batch: when the broker took it, and how many records it holds."""

    time_ms: int
    records: int


async def fetches(bootstrap: str, topic: str, partition: int) -> AsyncIterator[tuple[FoundRecords, list[Stamp]]]:
    """Yield the committed records of one partition, with the stamps of their batches."""
    connection.install()
    tp = TopicPartition(topic, partition)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")
    await consumer.start()
    fetcher = TickFetcher(consumer._client, partition_bytes=8 << 20)
    try:
        begin, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
        fetcher.seek(tp, begin)
        heard_s = time.monotonic()
        while fetcher.position(tp) < end:
            fetcher.ask([tp])
            for _, fetch in await fetcher.arrived(POLL_S):
                heard_s = time.monotonic()
                yield find(fetch), stamps(fetch)
            if time.monotonic() > heard_s + IDLE_S:
                raise TimeoutError(f"nothing more came of {topic}-{partition} before its end at {end}")
    finally:
        await fetcher.stop()
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
