"""Ticks of exact offset ranges of a topic as a frame: what a training job reads.

Shapes: N ticks.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from data_io.kafka_clients import end_consumer
from data_io.topics import admin
from data_io.topics.records import Records, Reject
from data_io.topics.ticks import TickDecoder
from ml_core import frames
from ml_core.errors import InputError, KafkaUnavailableError, NotEnoughDataError
from ml_core.types import Bool, Int64, OffsetRange, SymbolTable, TickBatch

STALL_S = 20.0  # without one record read or one answer
_POLL_MS = 500
_RECORDS_A_READ = 20_000  # decoded in one go, in a thread: about 0.1 s
# Newest event time, past which one tick in a thousand may lie: a stray one from the future would hide all others.
_NEWEST_SHARE = 0.999


class Fetched(NamedTuple):
    """Ticks of a topic, partition after partition in arrival order, with ``partition``, ``offset`` and ``index``."""

    frame: pd.DataFrame
    ranges: tuple[OffsetRange, ...]  # exactly what was read
    rejected: dict[str, int]  # how many records are no ticks, by reason


async def newest_ranges(bootstrap: str, topic: str, max_ticks: int) -> tuple[OffsetRange, ...]:
    """Return the newest ``max_ticks`` offsets of ``topic``, shared out over its partitions as far as they reach back.

    Raises:
        NotEnoughDataError: The topic is empty. A retry helps once there are ticks.
        NotFoundError: There is no such topic.
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
    """
    partitions = (await admin.describe(bootstrap, topic)).partitions
    tps = [TopicPartition(topic, number) for number in range(partitions)]
    async with _consumer(bootstrap) as consumer:
        begins, ends = await _bounds(consumer, tps)
    held = {tp: ends[tp] - begins[tp] for tp in tps}
    total = sum(held.values())
    if not total:
        raise NotEnoughDataError(f"topic {topic!r} holds no ticks")
    share = min(1.0, max_ticks / total)
    starts = {tp: ends[tp] - max(1, int(held[tp] * share)) for tp in tps if held[tp]}
    return tuple(OffsetRange(partition=tp.partition, start=start, end=ends[tp]) for tp, start in starts.items())


async def fetch_ranges(
    bootstrap: str,
    topic: str,
    ranges: Sequence[OffsetRange],
    decoder: TickDecoder,
    *,
    limit: int | None = None,
) -> Fetched:
    """Return the ticks of ``ranges``; each range is read whole, or an error says what is missing.

    Args:
        bootstrap: Kafka.
        topic: Topic of ticks.
        ranges: Half-open ranges, one a partition at most.
        decoder: Of the topic's format. What it refuses is counted and left out, as the worker does.
        limit: Most offsets to read; None: no limit.

    Raises:
        NotEnoughDataError: There is no range, one is empty, or they hold no tick. A retry will not help.
        InputError: A range names a partition or offsets that the topic does not have, lost ones are named; or there
            are more than ``limit``. A retry will not help.
        NotFoundError: There is no such topic. A retry will not help.
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
    """
    _check_asked(topic, ranges, limit)
    partitions = (await admin.describe(bootstrap, topic)).partitions
    wanted = {TopicPartition(topic, each.partition): each for each in ranges}
    unknown = [tp.partition for tp in wanted if tp.partition >= partitions]
    if unknown:
        raise InputError(
            f"topic {topic!r} has partitions 0 to {partitions - 1}, so there is none of number {unknown[0]}"
        )
    symbols, rejected = SymbolTable(), Counter[str]()
    parts: dict[TopicPartition, list[TickBatch]] = {tp: [] for tp in wanted}
    async with _consumer(bootstrap) as consumer:
        await _check_held(consumer, wanted)
        async for tp, records in _read(consumer, wanted):
            batch, rejects = await asyncio.to_thread(decoder.decode, records, symbols)
            rejected.update(_reasons(rejects))
            parts[tp].append(batch)
    batches = [batch for found in parts.values() for batch in found]
    counts = [sum(map(len, found)) for found in parts.values()]
    if not sum(counts):
        refused = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common()) or "nothing"
        raise NotEnoughDataError(f"the ranges of {topic!r} hold no ticks; refused: {refused}")
    frame = frames.to_frame(_joined(batches, symbols))
    frame["partition"] = np.repeat(np.array([tp.partition for tp in parts], dtype=np.int32), counts)
    return Fetched(frame, tuple(ranges), dict(rejected))


def within_span(fetched: Fetched, span_ns: int) -> Fetched:
    """Return the ticks of at most the last ``span_ns`` of event time, with the exact ranges they stand in.

    In each partition everything from its first tick that is young enough on is kept, so that ranges have no holes.

    Raises:
        NotEnoughDataError: There is no tick.
    """
    frame = fetched.frame
    if frame.empty:
        raise NotEnoughDataError("there are no ticks to take the last span of")
    ts_ns_N: Int64 = frame["ts_ns"].to_numpy()
    newest_ns = int(np.quantile(ts_ns_N, _NEWEST_SHARE, method="higher"))
    partition_N, offset_N = frame["partition"].to_numpy(), frame["offset"].to_numpy()
    kept_N: Bool = np.zeros(len(frame), dtype=np.bool_)
    ranges = []
    for each in fetched.ranges:
        here_N = partition_N == each.partition
        young = np.flatnonzero(here_N & (ts_ns_N >= newest_ns - span_ns))
        if len(young):
            start = int(offset_N[young[0]])
            kept_N |= here_N & (offset_N >= start)
            ranges.append(OffsetRange(partition=each.partition, start=start, end=each.end))
    return Fetched(frame[kept_N].reset_index(drop=True), tuple(ranges), fetched.rejected)


def _check_asked(topic: str, ranges: Sequence[OffsetRange], limit: int | None) -> None:
    if not ranges:
        raise NotEnoughDataError(f"no range of topic {topic!r} is given")
    for each in ranges:
        if each.start >= each.end:
            raise NotEnoughDataError(
                f"the range [{each.start}, {each.end}) of partition {each.partition} of {topic!r} is empty"
            )
    twice = [number for number, count in Counter(each.partition for each in ranges).items() if count > 1]
    if twice:
        raise InputError(f"partition {twice[0]} of {topic!r} is named twice; give one range for each")
    asked = sum(each.end - each.start for each in ranges)
    if limit is not None and asked > limit:
        raise InputError(f"the ranges of {topic!r} hold {asked} offsets, at most {limit} are read for one job")


@asynccontextmanager
async def _consumer(bootstrap: str) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer outside any group; Kafka's errors inside the block become ours."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 << 20,
    )
    try:
        async with asyncio.timeout(STALL_S):
            await consumer.start()
        yield consumer
    except (TimeoutError, OSError, KafkaError) as error:
        raise KafkaUnavailableError(f"Kafka at {bootstrap} did not answer within {STALL_S:g} s: {error!r}") from error
    finally:
        await end_consumer(consumer)


async def _bounds(
    consumer: AIOKafkaConsumer, tps: Sequence[TopicPartition]
) -> tuple[Mapping[TopicPartition, int], Mapping[TopicPartition, int]]:
    """Return the first offset of each partition, and the one after its last committed record."""
    async with asyncio.timeout(STALL_S):
        return await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)


async def _check_held(consumer: AIOKafkaConsumer, wanted: Mapping[TopicPartition, OffsetRange]) -> None:
    begins, ends = await _bounds(consumer, list(wanted))
    for tp, each in wanted.items():
        if each.start < begins[tp]:
            raise InputError(
                f"offsets {each.start} to {min(begins[tp], each.end) - 1} of partition {tp.partition} of {tp.topic!r} "
                f"are lost: retention has deleted them, it now begins at {begins[tp]}"
            )
        if each.end > ends[tp]:
            raise InputError(
                f"partition {tp.partition} of {tp.topic!r} ends at offset {ends[tp]}, before the asked {each.end}"
            )


async def _read(
    consumer: AIOKafkaConsumer, wanted: Mapping[TopicPartition, OffsetRange]
) -> AsyncIterator[tuple[TopicPartition, Records]]:
    """Yield the records of all ranges, those of one partition in order."""
    consumer.assign(list(wanted))
    for tp, each in wanted.items():
        consumer.seek(tp, each.start)
    left, loop = set(wanted), asyncio.get_running_loop()
    positions = {tp: each.start for tp, each in wanted.items()}
    moved_s = loop.time()
    while left:
        try:
            found = await consumer.getmany(*left, timeout_ms=_POLL_MS, max_records=_RECORDS_A_READ)
        except OffsetOutOfRangeError as error:
            lost = ", ".join(f"partition {tp.partition} from {positions[tp]} on" for tp in error.args[0])
            raise InputError(f"offsets were deleted by retention while they were read: {lost}") from error
        for tp, records in found.items():
            chosen = [record for record in records if record.offset < wanted[tp].end]
            if chosen:
                yield tp, _columns(chosen)
        for tp in list(left):
            # moves past transaction markers too, which are never records
            position = await consumer.position(tp)
            if position != positions[tp]:
                positions[tp], moved_s = position, loop.time()
            if position >= wanted[tp].end:
                left.discard(tp)
                consumer.pause(tp)
        if loop.time() - moved_s > STALL_S:
            raise TimeoutError(f"nothing more came after offsets {sorted(positions.values())}")


def _columns(records: Sequence[Any]) -> Records:
    return Records(
        [record.offset for record in records],
        [record.key for record in records],
        [record.value for record in records],
        [tuple(record.headers) for record in records],
    )


def _reasons(rejects: Sequence[Reject]) -> Counter[str]:
    return Counter(reject.reason for reject in rejects)


def _joined(batches: Sequence[TickBatch], symbols: SymbolTable) -> TickBatch:
    columns: Any = zip(*(batch[:-1] for batch in batches), strict=True)
    fields: list[Any] = [*map(np.concatenate, columns), symbols.names]
    return TickBatch(*fields)
