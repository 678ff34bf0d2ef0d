"""Reads exact offset ranges of a topic, once and whole, outside any group."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from data_io.kafka_clients import end_consumer
from data_io.topics.records import Records
from ml_core.errors import InputError, KafkaUnavailableError
from ml_core.types import OffsetRange

STALL_S = 20.0  # without one record read or one answer
_POLL_MS = 500
_RECORDS_A_READ = 20_000  # of ticks: decoded in one go, in a thread, in about 0.1 s
_FETCH_BYTES = 4 << 20

Offsets = Mapping[TopicPartition, int]


@asynccontextmanager
async def consumer(
    bootstrap: str, *, committed: bool = True, fetch_bytes: int = _FETCH_BYTES
) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer outside any group; Kafka's errors inside the block become ours.

    Of a partition at most ``fetch_bytes`` or, where that is larger, one batch are held at once.

    Raises:
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
    """
    made = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed" if committed else "read_uncommitted",
        max_partition_fetch_bytes=fetch_bytes,
    )
    try:
        async with asyncio.timeout(STALL_S):
            await made.start()
        yield made
    except (TimeoutError, OSError, KafkaError) as error:
        raise KafkaUnavailableError(f"Kafka at {bootstrap} did not answer within {STALL_S:g} s: {error!r}") from error
    finally:
        await end_consumer(made)


async def bounds(consumer: AIOKafkaConsumer, tps: Sequence[TopicPartition]) -> tuple[Offsets, Offsets]:
    """Return the first offset of each partition, and the one after its last record that may be read."""
    async with asyncio.timeout(STALL_S):
        return await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)


async def held(consumer: AIOKafkaConsumer, tps: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetRange]:
    """Return the range that each partition holds now; those that hold nothing are left out."""
    begins, ends = await bounds(consumer, tps)
    return {
        tp: OffsetRange(partition=tp.partition, start=begins[tp], end=ends[tp]) for tp in tps if ends[tp] > begins[tp]
    }


async def arrived(
    consumer: AIOKafkaConsumer,
    held: Mapping[TopicPartition, OffsetRange],
    since_ms: int | None,
    until_ms: int | None,
) -> dict[TopicPartition, OffsetRange]:
    """Return the part of each range whose records Kafka took in ``[since_ms, until_ms)``; empty ones are left out.

    Times are those of the records, in milliseconds since the epoch: of arrival where the topic is stamped by the
    broker. None: no bound.
    """

    async def first_from(time_ms: int) -> dict[TopicPartition, int]:
        async with asyncio.timeout(STALL_S):
            found = await consumer.offsets_for_times(dict.fromkeys(held, time_ms))
        return {tp: each.end if found[tp] is None else found[tp].offset for tp, each in held.items()}

    starts = {} if since_ms is None else await first_from(since_ms)
    ends = {} if until_ms is None else await first_from(until_ms)
    bounds = {
        tp: (max(each.start, starts.get(tp, each.start)), min(each.end, ends.get(tp, each.end)))
        for tp, each in held.items()
    }
    return {
        tp: OffsetRange(partition=tp.partition, start=start, end=end)
        for tp, (start, end) in bounds.items()
        if end > start
    }


async def read(
    consumer: AIOKafkaConsumer, wanted: Mapping[TopicPartition, OffsetRange], *, at_once: int = _RECORDS_A_READ
) -> AsyncGenerator[tuple[TopicPartition, list[ConsumerRecord]], None]:
    """Yield the records of all ranges, those of one partition in order and at most ``at_once`` together.

    Raises:
        InputError: Retention has deleted some while they were read. A retry will not help.
        TimeoutError: Nothing came for STALL_S; ``consumer`` makes it a KafkaUnavailableError.
    """
    consumer.assign(list(wanted))
    for tp, each in wanted.items():
        consumer.seek(tp, each.start)
    left, loop = set(wanted), asyncio.get_running_loop()
    positions = {tp: each.start for tp, each in wanted.items()}
    moved_s = loop.time()
    while left:
        try:
            found = await consumer.getmany(*left, timeout_ms=_POLL_MS, max_records=at_once)
        except OffsetOutOfRangeError as error:
            lost = ", ".join(f"partition {tp.partition} from {positions[tp]} on" for tp in error.args[0])
            raise InputError(f"offsets were deleted by retention while they were read: {lost}") from error
        for tp, records in found.items():
            chosen = [record for record in records if record.offset < wanted[tp].end]
            if chosen:
                yield tp, chosen
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


def columns(records: Sequence[ConsumerRecord]) -> Records:
    """Return ``records`` as decoders take them."""
    return Records(
        [record.offset for record in records],
        [record.key for record in records],
        [record.value for record in records],
        [tuple(record.headers) for record in records],
    )
