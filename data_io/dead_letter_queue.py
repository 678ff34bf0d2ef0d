"""Reads, replays and purges the dead letters of a topic.

How far each reason was replayed stands behind its letters, in a mark that is written in the transaction that sends the
records again: a replay that was cut off goes on where it ended, and one that is repeated sends nothing twice.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerFenced

from data_io import log_reader
from data_io.kafka_clients import end_producer
from data_io.topics import admin, dead_letters, letters, tick_arrow
from data_io.topics.dead_letters import Letter
from data_io.topics.records import Header
from data_io.topics.tick_rules import BadTickError
from data_io.topics.ticks import MORE_ROWS
from ml_core.errors import ConflictError, InputError, KafkaUnavailableError, NotFoundError

TIMEOUT_S = 30.0
_LETTERS_A_TRANSACTION = 500
_DONE = "tickwise.replayed"  # header of a mark: until which offset letters of a reason were replayed
_RECORD_BYTES = 4 << 20  # the largest dead letter there is


class Place(NamedTuple):
    """Where a dead letter stands in its own topic."""

    partition: int
    offset: int
    time_ms: int  # when Kafka took it


@dataclass
class Replayed:
    """What became of the dead letters that a replay has looked at."""

    sent: Counter[str] = field(default_factory=Counter)  # by reason
    left: Counter[str] = field(default_factory=Counter)  # cannot be sent, by why


async def read(bootstrap: str, topic: str) -> AsyncIterator[tuple[Place, Letter]]:
    """Yield the dead letters of ``topic`` that stand there now, partition after partition in order.

    Raises:
        NotFoundError: It has none, not even a topic for them.
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
    """
    tps = await _partitions(bootstrap, topic)
    async with log_reader.consumer(bootstrap) as consumer:
        async for place, letter in _read(consumer, tps):
            yield place, letter


async def find(bootstrap: str, topic: str, partition: int, offset: int) -> tuple[Place, Letter]:
    """Return one dead letter of ``topic``.

    Raises:
        NotFoundError: There is none at that place.
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
    """
    tp = TopicPartition(dead_letters.name(topic), partition)
    if tp in await _partitions(bootstrap, topic):
        async with log_reader.consumer(bootstrap) as consumer:
            async for place, letter in _read(consumer, [tp], offset):
                if place.offset == offset:
                    return place, letter
                break
    raise NotFoundError(f"there is no dead letter at partition {partition}, offset {offset} of {tp.topic}")


async def replay(bootstrap: str, topic: str, reason: str | None = None, limit: int | None = None) -> Replayed:
    """Send dead letters of ``topic`` to it again, in order, each to the partition that it came from, and once.

    Of a record of many ticks only the row that was refused is sent. What was cut, or stands for many rows, cannot be:
    it is counted and left.

    Args:
        bootstrap: Kafka.
        topic: Where the records came from, and go.
        reason: Only those; None: all.
        limit: At most so many; None: no limit.

    Raises:
        NotFoundError: There are no dead letters.
        ConflictError: Another replay of the same topic has begun meanwhile; what this one sent, it has recorded.
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe, and goes on where this one ended.
    """
    report = Replayed()
    tps = await _partitions(bootstrap, topic)
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, transactional_id=f"tickwise.dlq.{topic}", max_request_size=_RECORD_BYTES
    )
    seen: set[bytes] = set()  # what a worker wrote twice, before and after a crash, is sent once
    try:
        async with log_reader.consumer(bootstrap) as consumer:
            try:
                # First of all: it ends what an earlier replay has left open, and shuts that one out.
                async with asyncio.timeout(TIMEOUT_S):
                    await producer.start()
                for tp in tps:
                    done = await _done(consumer, tp)
                    chunk: list[tuple[Place, Letter]] = []
                    async for place, letter in _read(consumer, [tp]):
                        if limit is not None and report.sent.total() + len(chunk) >= limit:
                            break
                        same = _identity(letter)
                        is_repeated = same in seen
                        seen.add(same)
                        is_wanted = reason in (None, letter.reason) and place.offset >= done.get(letter.reason, 0)
                        if is_wanted and not is_repeated:
                            chunk.append((place, letter))
                        if len(chunk) == _LETTERS_A_TRANSACTION:
                            await _send(producer, tp, chunk, report)
                            chunk = []
                    await _send(producer, tp, chunk, report)
            except ProducerFenced as error:
                raise ConflictError(f"another replay of {topic} has begun") from error
            except (TimeoutError, KafkaError) as error:
                raise KafkaUnavailableError(f"Kafka did not take the replay of {topic}: {error!r}") from error
    finally:
        await end_producer(producer)
    return report


async def purge(bootstrap: str, topic: str, before_ms: int | None = None) -> int:
    """Delete the dead letters of ``topic``, or those that Kafka took before ``before_ms``; return how many offsets.

    Raises:
        NotFoundError: There are no dead letters.
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
    """
    tps = await _partitions(bootstrap, topic)
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=int(TIMEOUT_S * 1000))
    try:
        async with log_reader.consumer(bootstrap) as consumer, asyncio.timeout(TIMEOUT_S):
            begins, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            if before_ms is not None:
                young = await consumer.offsets_for_times(dict.fromkeys(tps, before_ms))
                ends |= {tp: found.offset for tp, found in young.items() if found is not None}
            doomed = {tp: RecordsToDelete(before_offset=ends[tp]) for tp in tps if ends[tp] > begins[tp]}
            if doomed:
                await client.start()
                await client.delete_records(doomed)
    except (TimeoutError, KafkaError) as error:
        raise KafkaUnavailableError(f"Kafka at {bootstrap} did not purge: {error!r}") from error
    finally:
        await client.close()
    return int(sum(ends[tp] - begins[tp] for tp in doomed))


async def _done(consumer: AIOKafkaConsumer, tp: TopicPartition) -> dict[str, int]:
    """Return the offset in ``tp`` below which each reason was replayed, by the marks that stand there."""
    found: dict[str, int] = {}
    async for _, records in log_reader.read(consumer, await log_reader.held(consumer, [tp])):
        for record in records:
            for name, text in record.headers:
                if name == _DONE:
                    until, _, reason = text.decode().partition("/")
                    found[reason] = max(found.get(reason, 0), int(until))
    return found


async def _send(
    producer: AIOKafkaProducer, tp: TopicPartition, letters: Sequence[tuple[Place, Letter]], report: Replayed
) -> None:
    """Send ``letters`` of ``tp`` and note that they were, all or nothing; one that is too large is left."""
    if not letters:
        return
    sent, left, records = Counter[str](), Counter[str](), []
    for place, letter in letters:
        try:
            records.append(_record(letter, tp, place))
            sent[letter.reason] += 1
        except _LeftError as error:
            left[str(error)] += 1
    marks = _marks(letters)
    try:
        await _write(producer, records, tp, marks)
    except MessageSizeTooLargeError:
        if len(letters) > 1:
            half = len(letters) // 2
            await _send(producer, tp, letters[:half], report)
            await _send(producer, tp, letters[half:], report)
            return
        await _write(producer, [], tp, marks)
        sent.clear()
        left["it is larger than the topic takes"] += 1
    report.sent += sent
    report.left += left


async def _write(
    producer: AIOKafkaProducer,
    records: Sequence[tuple[str, dict[str, Any]]],
    tp: TopicPartition,
    marks: Sequence[Header],
) -> None:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await producer.begin_transaction()
            written = [await producer.send(topic, **record) for topic, record in records]
            written.append(await producer.send(tp.topic, b"", partition=tp.partition, headers=list(marks)))
            # A commit does not ask what has become of the records.
            await asyncio.gather(*written)
            await producer.commit_transaction()
    except BaseException:
        with suppress(Exception):
            async with asyncio.timeout(5.0):
                await producer.abort_transaction()
        raise


def _marks(letters: Sequence[tuple[Place, Letter]]) -> list[Header]:
    reached = {letter.reason: place.offset + 1 for place, letter in letters}
    return [(_DONE, f"{offset}/{reason}".encode()) for reason, offset in reached.items()]


def _record(letter: Letter, tp: TopicPartition, place: Place) -> tuple[str, dict[str, Any]]:
    value = _again(letter)
    topic, partition, *_ = letter.source
    mark = (dead_letters.REPLAY_OF, f"{tp.topic}/{tp.partition}/{place.offset}".encode())
    headers = [*(each for each in letter.headers if each[0] != dead_letters.REPLAY_OF), mark]
    return topic, {"value": value, "key": letter.key, "partition": partition, "headers": headers}


def _identity(letter: Letter) -> bytes:
    about = repr((letter.source, letter.reason, letter.key, letter.value)).encode()
    return hashlib.blake2b(about, digest_size=16).digest()


class _LeftError(Exception):
    """A dead letter cannot be sent again."""


def _again(letter: Letter) -> bytes | None:
    """Return the value to send."""
    if letter.key is None and letter.value is None:
        raise _LeftError("it has neither key nor value")
    if any(name in letter.about for name in letters.CUT):
        raise _LeftError("it was cut")
    if letter.value is None or not tick_arrow.is_arrow(tuple(letter.headers)) or letter.reason in tick_arrow.WHOLE:
        return letter.value
    if letter.reason == MORE_ROWS:
        raise _LeftError("it stands for many rows of its record")
    try:
        return tick_arrow.row(letter.value, letter.source[3])
    except BadTickError as error:
        raise _LeftError(f"its row cannot be cut out: {error.reason}") from None


async def _partitions(bootstrap: str, topic: str) -> list[TopicPartition]:
    name = dead_letters.name(topic)
    try:
        found = await admin.describe(bootstrap, name)
    except NotFoundError:
        raise NotFoundError(f"topic {topic!r} has no dead letters: there is no {name!r}") from None
    return [TopicPartition(name, number) for number in range(found.partitions)]


async def _read(
    consumer: AIOKafkaConsumer, tps: Sequence[TopicPartition], start: int = 0
) -> AsyncIterator[tuple[Place, Letter]]:
    """Yield what stands in ``tps`` now, from offset ``start`` on, partition after partition in order."""
    for tp, held in (await log_reader.held(consumer, tps)).items():
        if start >= held.end:
            continue
        wanted = held.model_copy(update={"start": max(held.start, start)})
        async for _, records in log_reader.read(consumer, {tp: wanted}):
            for record in records:
                try:
                    letter = dead_letters.decode(record.key, record.value, record.headers)
                except InputError:
                    continue  # somebody else's record
                yield Place(record.partition, record.offset, record.timestamp), letter
