"""Ticks of exact offset ranges of a topic as a frame: what a training job reads."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from data_io.topics import admin
from data_io.topics.records import Records
from data_io.topics.ticks import TickDecoder
from ml_core import frames
from ml_core.errors import InputError, KafkaUnavailableError, NotEnoughDataError
from ml_core.types import OffsetRange, SymbolTable, TickBatch

TIMEOUT_S = 120.0
STALL_S = 20.0
_RECORDS_A_READ = 20_000


class Fetched(NamedTuple):
    """Ticks of a topic, partition after partition in arrival order, with ``partition``, ``offset`` and ``index``."""

    frame: pd.DataFrame
    ranges: tuple[OffsetRange, ...]  # exactly what was read
    rejected: int  # records that are no ticks


async def newest_ranges(bootstrap: str, topic: str, max_ticks: int) -> tuple[OffsetRange, ...]:
    """Return the newest ``max_ticks`` offsets of ``topic``, shared out over its partitions as far as they reach back.

    Raises:
        NotEnoughDataError: The topic is empty.
        NotFoundError: There is no such topic.
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
    """
    partitions = (await admin.describe(bootstrap, topic)).partitions
    tps = [TopicPartition(topic, p) for p in range(partitions)]
    async with _Reader(bootstrap) as reader:
        begins, ends = await reader.bounds(tps)
    held = {tp: ends[tp] - begins[tp] for tp in tps}
    if not any(held.values()):
        raise NotEnoughDataError(f"{topic} holds no ticks")
    share = min(1.0, max_ticks / sum(held.values()))
    return tuple(
        OffsetRange(partition=tp.partition, start=ends[tp] - int(held[tp] * share), end=ends[tp])
        for tp in tps
        if held[tp]
    )


async def fetch_ranges(bootstrap: str, topic: str, ranges: Sequence[OffsetRange], decoder: TickDecoder) -> Fetched:
    """Return the ticks of ``ranges``; each range is read whole or an error says what is missing.

    Raises:
        NotEnoughDataError: A range is empty, or there is none.
        InputError: A range names a partition or offsets that the topic does not have; lost ones are named.
        NotFoundError: There is no such topic.
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
    """
    for each in ranges:
        if each.start >= each.end:
            raise NotEnoughDataError(f"the range {each.start} to {each.end} of {topic}-{each.partition} is empty")
    if not ranges:
        raise NotEnoughDataError(f"no range of {topic} is given")
    partitions = (await admin.describe(bootstrap, topic)).partitions
    wrong = sorted({each.partition for each in ranges if each.partition >= partitions})
    if wrong:
        raise InputError(f"{topic} has {partitions} partitions, so there is no partition {wrong[0]}")
    symbols, rejected = SymbolTable(), 0
    parts: list[TickBatch] = []
    partition: list[int] = []
    async with _Reader(bootstrap) as reader:
        await reader.check(topic, ranges)
        for each in ranges:
            async for records in reader.read(TopicPartition(topic, each.partition), each):
                batch, rejects = await asyncio.to_thread(decoder.decode, records, symbols)
                rejected += len(rejects)
                parts.append(batch)
                partition += [each.partition] * len(batch)
    if not partition:
        raise NotEnoughDataError(f"the ranges of {topic} hold no ticks; {rejected} records were refused")
    columns = zip(*(part[:-1] for part in parts), strict=True)
    fields: list[Any] = [*(np.concatenate(column) for column in columns), symbols.names]
    joined = TickBatch(*fields)
    frame = frames.to_frame(joined)
    frame["partition"] = np.array(partition, dtype=np.int32)
    frame["offset"], frame["index"] = joined.offset_N, joined.index_N
    return Fetched(frame, tuple(ranges), rejected)


class _Reader:
    """A consumer outside any group that reads exact offsets."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=4 << 20,
        )

    async def __aenter__(self) -> "_Reader":
        try:
            async with asyncio.timeout(STALL_S):
                await self._consumer.start()
        except (TimeoutError, KafkaError) as error:
            await self._consumer.stop()
            raise KafkaUnavailableError(f"Kafka did not answer: {error!r}") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def bounds(
        self, tps: Sequence[TopicPartition]
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Return the first offset and the end of each partition."""
        try:
            async with asyncio.timeout(STALL_S):
                self._consumer.assign(tps)
                return await self._consumer.beginning_offsets(tps), await self._consumer.end_offsets(tps)
        except (TimeoutError, KafkaError) as error:
            raise KafkaUnavailableError(f"Kafka did not answer: {error!r}") from error

    async def check(self, topic: str, ranges: Sequence[OffsetRange]) -> None:
        """Refuse ranges that the topic does not hold."""
        begins, ends = await self.bounds([TopicPartition(topic, each.partition) for each in ranges])
        for each in ranges:
            tp = TopicPartition(topic, each.partition)
            if each.start < begins[tp]:
                lost = f"{each.start} to {min(begins[tp], each.end) - 1}"
                raise InputError(f"offsets {lost} of {topic}-{each.partition} are gone: retention has deleted them")
            if each.end > ends[tp]:
                raise InputError(f"{topic}-{each.partition} ends at offset {ends[tp]}, so {each.end} is out of range")

    async def read(self, tp: TopicPartition, each: OffsetRange) -> AsyncIterator[Records]:
        """Yield the records of a range."""
        self._consumer.assign([tp])
        self._consumer.seek(tp, each.start)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while await self._consumer.position(tp) < each.end:
                    found = await self._consumer.getmany(tp, timeout_ms=500, max_records=_RECORDS_A_READ)
                    chosen = [record for record in found.get(tp, ()) if record.offset < each.end]
                    if chosen:
                        yield Records(
                            [r.offset for r in chosen],
                            [r.key for r in chosen],
                            [r.value for r in chosen],
                            [tuple(r.headers) for r in chosen],
                        )
        except (TimeoutError, KafkaError) as error:
            raise KafkaUnavailableError(f"reading {tp.topic}-{tp.partition} stopped: {error!r}") from error
