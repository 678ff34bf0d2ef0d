"""Reads, replays and purges the dead letters of a topic.

How far each reason was replayed stands behind its letters, in a mark that is written in the transaction that sends the
records again: a replay that was cut off goes on where it ended, and one that is repeated sends nothing twice. A mark
also names the letters that were left because they could not be sent: every later replay tries them again.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
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
_LETTERS_A_TRANSACTION, _BYTES_A_TRANSACTION = 500, 8 << 20
_REMEMBERED = 1_000_000  # letters; a worker writes again what came since a checkpoint
_DONE = "tickwise.replayed"  # header of a mark: until which offset letters of a reason were replayed
# And the offsets of those among them that were left, and of those that were left before and sent now.
_LEFT, _SENT = "tickwise.left", "tickwise.sent"
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
    left: Counter[str] = field(default_factory=Counter)  # cannot be sent now, by why
    reasons: set[str] = field(default_factory=set)  # that letters were refused for

    def room(self, limit: int | None) -> int:
        """Return how many more may be sent."""
        return _LETTERS_A_TRANSACTION if limit is None else limit - self.sent.total()


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

    Of a record of many ticks only the row that was refused is sent. What was cut, stands for many rows, is larger than
    the topic takes or came from a partition that is gone cannot be: it is counted and left, and tried again next time.

    Args:
        bootstrap: Kafka.
        topic: Where the records came from, and go.
        reason: Only those; None: all.
        limit: At most so many are sent; None: no limit.

    Raises:
        NotFoundError: There are no dead letters, or the topic is gone.
        ConflictError: Another replay of the same topic has begun meanwhile; what this one sent, it has recorded.
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe, and goes on where this one ended.
    """
    report = Replayed()
    tps = await _partitions(bootstrap, topic)
    partitions = (await admin.describe(bootstrap, topic)).partitions
    transactions = _Transactions(bootstrap, topic)
    seen = _Seen()
    try:
        async with log_reader.consumer(bootstrap) as consumer:
            try:
                await transactions.start()
                for tp in tps:
                    if not report.room(limit):
                        break
                    marks = await _marks(consumer, tp)
                    lane = _Lane(transactions, tp, partitions, marks.left, report)
                    chunk: list[_Found] = []
                    size = 0
                    async for found in _open(consumer, tp, marks, seen, report):
                        if reason not in (None, found.letter.reason):
                            continue
                        chunk.append(found)
                        size += len(found.letter.key or b"") + len(found.letter.value or b"")
                        most = min(_LETTERS_A_TRANSACTION, report.room(limit))
                        if len(chunk) >= most or size >= _BYTES_A_TRANSACTION:
                            await lane.send(chunk)
                            chunk, size = [], 0
                            if not report.room(limit):
                                break
                    await lane.send(chunk)
            except ProducerFenced as error:
                raise ConflictError(f"another replay of {topic} has begun") from error
            except (TimeoutError, KafkaError) as error:
                raise KafkaUnavailableError(f"Kafka did not take the replay of {topic}: {error!r}") from error
    finally:
        await transactions.end()
    return report


async def purge(bootstrap: str, topic: str, before_ms: int | None = None) -> int:
    """Delete the dead letters of ``topic``, or those that Kafka took before ``before_ms``; return how many offsets.

    Marks of replays, and the ends of their transactions, have offsets too.

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


class _Marks(NamedTuple):
    """What earlier replays have noted behind the letters of a partition."""

    done: dict[str, int]  # reason -> offset below which its letters were looked at
    left: set[int]  # offsets of those that could not be sent


class _Found(NamedTuple):
    """A letter that no replay has dealt with."""

    place: Place
    letter: Letter
    is_repeated: bool  # the same letter stands before it


class _Seen:
    """Knows letters again: what a worker wrote twice, before and after a crash, is sent once."""

    def __init__(self) -> None:
        self._known: dict[bytes, None] = {}  # oldest first

    def add(self, letter: Letter) -> bool:
        """Remember ``letter``; return whether it was known."""
        same = _identity(letter)
        is_known = same in self._known
        self._known[same] = None
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        return is_known


async def _open(
    consumer: AIOKafkaConsumer, tp: TopicPartition, marks: _Marks, seen: _Seen, report: Replayed
) -> AsyncIterator[_Found]:
    """Yield the letters of ``tp`` that no replay has dealt with; ``seen`` and ``report`` learn of all of them."""
    async for place, letter in _read(consumer, [tp]):
        report.reasons.add(letter.reason)
        is_repeated = seen.add(letter)
        if place.offset >= marks.done.get(letter.reason, 0) or place.offset in marks.left:
            yield _Found(place, letter, is_repeated)


async def _marks(consumer: AIOKafkaConsumer, tp: TopicPartition) -> _Marks:
    done: dict[str, int] = {}
    left: set[int] = set()
    async for _, records in log_reader.read(consumer, await log_reader.held(consumer, [tp])):
        for record in records:
            if dead_letters.is_letter(record.headers):  # its own headers are whatever somebody has sent
                continue
            with suppress(ValueError):  # somebody else's record
                for name, text in record.headers:
                    if name == _DONE:
                        until, _, reason = (text or b"").decode().partition("/")
                        done[reason] = max(done.get(reason, 0), int(until))
                    elif name == _LEFT:
                        left.update(map(int, (text or b"").split(b",")))
                    elif name == _SENT:
                        left.difference_update(map(int, (text or b"").split(b",")))
    return _Marks(done, left)


class _Lane(NamedTuple):
    """Sends letters of one partition again."""

    transactions: "_Transactions"
    tp: TopicPartition  # of the letters
    partitions: int  # of the topic that they came from
    left: set[int]  # offsets that earlier replays have left
    report: Replayed

    async def send(self, letters: Sequence[_Found], *, is_too_large: bool = False) -> None:
        """Send ``letters`` and note what became of each, all or nothing; one that ``is_too_large`` is left."""
        if not letters:
            return
        sent, left, records = Counter[str](), Counter[str](), []
        sent_again, left_now = list[int](), list[int]()
        for place, letter, is_repeated in letters:
            if is_repeated:
                continue
            try:
                record = _record(letter, self.tp, place, self.partitions)
                why = "it is larger than the topic takes" if is_too_large else ""
            except _LeftError as error:
                why = str(error)
            if why:
                left[why] += 1
                left_now.append(place.offset)
                continue
            records.append(record)
            sent[letter.reason] += 1
            if place.offset in self.left:
                sent_again.append(place.offset)
        reached = {letter.reason: place.offset + 1 for place, letter, _ in letters}
        marks = [(_DONE, f"{offset}/{reason}".encode()) for reason, offset in reached.items()]
        for name, offsets in ((_LEFT, left_now), (_SENT, sent_again)):
            if offsets:
                marks.append((name, ",".join(map(str, offsets)).encode()))
        try:
            await self.transactions.write(records, self.tp, marks)
        except MessageSizeTooLargeError:
            half = len(letters) // 2
            if half:
                await self.send(letters[:half])
                await self.send(letters[half:])
            else:
                await self.send(letters, is_too_large=True)
            return
        self.report.sent += sent
        self.report.left += left


class _Transactions:
    """Writes records and the mark that they were sent, all or nothing."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        """Write for a replay of ``topic``, once started."""
        self._make = partial(
            AIOKafkaProducer,
            bootstrap_servers=bootstrap,
            transactional_id=f"tickwise.dlq.{topic}",
            max_request_size=_RECORD_BYTES,
        )
        self._producer = self._make()

    async def start(self) -> None:
        """End what an earlier replay has left open, and shut that one out."""
        async with asyncio.timeout(TIMEOUT_S):
            await self._producer.start()

    async def end(self) -> None:
        """Close the connections."""
        await end_producer(self._producer)

    async def write(
        self, records: Sequence[tuple[str, dict[str, Any]]], tp: TopicPartition, marks: Sequence[Header]
    ) -> None:
        """Write ``records``, and ``marks`` to ``tp``; raises MessageSizeTooLargeError where Kafka takes not all."""
        producer = self._producer
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await producer.begin_transaction()
                written = [await producer.send(topic, **record) for topic, record in records]
                written.append(await producer.send(tp.topic, b"", partition=tp.partition, headers=list(marks)))
                # A commit does not ask what has become of the records.
                await asyncio.gather(*written)
                await producer.commit_transaction()
        except BaseException as error:
            with suppress(Exception):
                async with asyncio.timeout(5.0):
                    await producer.abort_transaction()
            if isinstance(error, MessageSizeTooLargeError):
                # The refused records have used up sequence numbers: this producer's next ones would be out of order.
                await self.end()
                self._producer = self._make()
                await self.start()
            raise


def _record(letter: Letter, tp: TopicPartition, place: Place, partitions: int) -> tuple[str, dict[str, Any]]:
    value = _again(letter)
    topic, partition, *_ = letter.source
    if dead_letters.name(topic) != tp.topic:  # headers are whatever somebody has written
        raise _LeftError("it names another topic")
    if partition >= partitions:
        raise _LeftError(f"the topic has no partition {partition} any more")
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
