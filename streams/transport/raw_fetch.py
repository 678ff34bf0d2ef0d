"""Takes fetched record batches from an aiokafka consumer as bytes, without one object per record."""

import asyncio
import struct
from collections.abc import Iterator, Set
from typing import Any

import aiokafka.consumer.fetcher as aiokafka_fetcher
from aiokafka import AIOKafkaConsumer, TopicPartition

from data_io.topics.raw_records import RawFetch

# baseOffset, batchLength, partitionLeaderEpoch, magic, crc, attributes, lastOffsetDelta of the v2 record batch
_HEADER = struct.Struct(">qiibIhi")
_LENGTH_END = 12


class KeptRecords:
    """Stands in for aiokafka's ``MemoryRecords`` and keeps the bytes it was made of."""

    __slots__ = ("_records", "raw")
    _original = aiokafka_fetcher.MemoryRecords

    def __init__(self, raw: bytes) -> None:
        """Wrap ``raw``, the record batches of one partition in one fetch response."""
        self.raw = raw
        self._records = self._original(raw)

    def has_next(self) -> bool:
        """True while a whole batch is left."""
        return bool(self._records.has_next())

    def next_batch(self) -> Any:
        """Return the next batch, as the original does."""
        return self._records.next_batch()

    def size_in_bytes(self) -> int:
        """Return the size of the fetched bytes."""
        return int(self._records.size_in_bytes())


def install() -> None:
    """Let every consumer of this process keep its fetched bytes; consumers that read records as usual do not notice."""
    aiokafka_fetcher.MemoryRecords = KeptRecords


def end_offset(raw: bytes, otherwise: int) -> int:
    """Return the offset after the last whole record batch in ``raw``; ``otherwise`` where there is none."""
    return max((base + delta + 1 for base, delta in _batches(raw)), default=otherwise)


def _batches(raw: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    while at + _HEADER.size <= len(raw):
        base, length, _, _, _, _, delta = _HEADER.unpack_from(raw, at)
        if length <= 0 or at + _LENGTH_END + length > len(raw):
            return
        yield base, delta
        at += _LENGTH_END + length


async def take(
    consumer: AIOKafkaConsumer,
    ready: Set[TopicPartition],
    timeout_s: float,
    wake: asyncio.Future[None] | None = None,
) -> dict[TopicPartition, RawFetch]:
    """Return what has arrived for the partitions in ``ready``, waiting ``timeout_s`` for the first, or for ``wake``.

    Positions move past what is returned, so that the next fetch is already under way while this one is processed.

    Raises:
        aiokafka.errors.KafkaError: What the fetcher met, such as ``OffsetOutOfRangeError``, or the coordinator, which
            waits with its next step until it has been told.
    """
    fetcher = consumer._fetcher
    consumer._coordinator.check_errors()
    with fetcher._subscriptions.fetch_context():
        found = _pop(consumer, ready)
        if not found:
            waiter = fetcher._create_fetch_waiter()
            waiters = [waiter] if wake is None else [waiter, wake]
            done, _ = await asyncio.wait(waiters, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if waiter not in done:
                waiter.cancel()
                return {}
            found = _pop(consumer, ready)
    return found


def ended(consumer: AIOKafkaConsumer) -> str | None:
    """Return the name of the part of ``consumer`` that has died, None while all live; only a new consumer helps."""
    tasks = {"fetcher": consumer._fetcher._fetch_task, "coordinator": consumer._coordinator._coordination_task}
    return next((name for name, task in tasks.items() if task.done()), None)


def _pop(consumer: AIOKafkaConsumer, ready: Set[TopicPartition]) -> dict[TopicPartition, RawFetch]:
    fetcher = consumer._fetcher
    found: dict[TopicPartition, RawFetch] = {}
    for tp in [tp for tp in fetcher._records if tp in ready]:
        if found and not isinstance(fetcher._records[tp], aiokafka_fetcher.FetchResult):
            continue  # raised next time: positions have moved past what is found already
        result = fetcher._records.pop(tp)
        fetcher._notify(fetcher._wait_consume_future)
        if not isinstance(result, aiokafka_fetcher.FetchResult):
            result.check_raise()
        if not result.check_assignment(tp):
            continue
        records = result._partition_records
        first = records.next_fetch_offset
        raw = records._records.raw
        result._assignment.state_value(tp).consumed_to(end_offset(raw, first))
        found[tp] = RawFetch(raw=raw, first_offset=first, aborted=list(records._aborted_transactions))
    return found
