"""What a lane sends, in which order, and what it does when Kafka refuses a batch or goes away; a broker by hand."""

import asyncio
import itertools
import struct
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    UnsupportedVersionError,
)
from aiokafka.record.default_records import DefaultRecordBatch

from data_io.topics.record_batch import pack
from streams.transport import batch_sender, connection
from streams.transport.batch_sender import MAX_IN_FLIGHT, BatchSender, Lane

ROWS, SCORES = TopicPartition("rows", 0), TopicPartition("scores", 0)
OK, NOT_LEADER, TOO_LARGE, TOO_FEW_REPLICAS, OUT_OF_ORDER, DUPLICATE = 0, 6, 10, 20, 45, 46


class Broker:
    """Keeps what it is asked and answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[TopicPartition, int], asyncio.Future]] = []  # sequence of each batch
        self.is_up, self.is_too_old = True, False

    def connected(self) -> bool:
        return self.is_up

    def ask(self, _key, _version, parts):
        if self.is_too_old:
            raise UnsupportedVersionError
        answer = asyncio.get_running_loop().create_future()
        self.asked.append((sequences(b"".join(bytes(part) for part in parts)), answer))
        return answer

    def answer(self, **codes: int) -> dict[TopicPartition, int]:
        """Answer the oldest request, OK where nothing else is said, and return what it asked."""
        asked, answer = self.asked.pop(0)
        body = struct.pack(">i", len(asked))
        for tp in asked:
            body += struct.pack(">h", len(tp.topic)) + tp.topic.encode() + struct.pack(">i", 1)
            body += struct.pack(">ihqqq", tp.partition, codes.get(tp.topic, OK), 0, -1, 0)
        answer.set_result(memoryview(body))
        return asked

    def hang_up(self) -> None:
        for _, answer in self.asked:
            answer.set_exception(KafkaConnectionError("gone"))
        self.asked.clear()


def sequences(request: bytes) -> dict[TopicPartition, int]:
    _, acks, _, topics = struct.unpack_from(">hhii", request)
    assert acks == -1
    at, found = 12, {}
    for _ in range(topics):
        (length,) = struct.unpack_from(">h", request, at)
        topic = request[at + 2 : at + 2 + length].decode()
        (partitions,) = struct.unpack_from(">i", request, at + 2 + length)
        at += 6 + length
        for _ in range(partitions):
            partition, size = struct.unpack_from(">ii", request, at)
            batch = DefaultRecordBatch(request[at + 8 : at + 8 + size])
            assert batch.validate_crc()
            assert (batch.producer_id, batch.producer_epoch) == (7, 1)
            found[TopicPartition(topic, partition)] = batch.base_sequence
            at += 8 + size
    assert at == len(request)
    return found


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def sender(broker, monkeypatch):
    monkeypatch.setattr(connection, "pauses", lambda: itertools.repeat(0.0))
    made = BatchSender("127.0.0.1:1")

    async def nothing(*_):
        return True

    made._client = SimpleNamespace(
        cluster=SimpleNamespace(leader_for_partition=lambda _: 1),
        _conns={(1, 0): broker},
        force_metadata_update=nothing,
        ready=nothing,
        close=nothing,
    )
    yield made
    await made.stop()


@pytest.fixture
def rows() -> Lane:
    return Lane(ROWS, 7, 1)


@pytest.fixture
def scores() -> Lane:
    return Lane(SCORES, 7, 1)


def batch(records: int = 2):
    return pack([(b"k", b"v", [])] * records)[0]


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the sender tells nobody when it asks
            await asyncio.sleep(0)


async def asked(broker: Broker, count: int = 1) -> None:
    await until(lambda: len(broker.asked) >= count)
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(broker.asked) == count


async def known(sender: BatchSender, broker: Broker, *lanes: Lane) -> None:
    """Let Kafka take a first batch of two records of each lane."""
    written = [sender.send(lane, batch()) for lane in lanes]
    await asked(broker)
    broker.answer()
    await asyncio.gather(*written)


async def test_what_a_round_has_made_is_one_request_with_a_batch_of_each_lane(sender, broker, rows, scores) -> None:
    written = [sender.send(rows, batch()), sender.send(scores, batch())]
    await asked(broker)

    assert broker.answer() == {ROWS: 0, SCORES: 0}
    await asyncio.gather(*written)


@pytest.mark.parametrize("answered", [lambda future: future.set_result(memoryview(bytes(5))), asyncio.Future.cancel])
async def test_after_an_answer_that_cannot_be_read_or_is_given_up_the_batch_is_sent_again(
    sender, broker, rows, answered
) -> None:
    written = sender.send(rows, batch())
    await asked(broker)
    answered(broker.asked.pop(0)[1])

    await asked(broker)
    assert broker.answer() == {ROWS: 0}
    await written


async def test_until_kafka_has_taken_the_first_batch_of_a_lane_the_next_waits(sender, broker, rows) -> None:
    first, second = sender.send(rows, batch(2)), sender.send(rows, batch(3))
    await asked(broker)
    broker.answer()
    await first
    await asked(broker)

    assert broker.answer() == {ROWS: 2}
    await second


async def test_no_more_batches_of_a_lane_are_in_flight_than_kafka_remembers(sender, broker, rows) -> None:
    await known(sender, broker, rows)
    written = [sender.send(rows, batch(1)) for _ in range(MAX_IN_FLIGHT + 1)]
    await asked(broker, MAX_IN_FLIGHT)

    assert broker.answer() == {ROWS: 2}
    await asked(broker, MAX_IN_FLIGHT)
    assert [broker.answer() for _ in range(MAX_IN_FLIGHT)] == [{ROWS: 3 + k} for k in range(MAX_IN_FLIGHT)]
    await asyncio.gather(*written)


async def test_a_refused_batch_and_those_behind_it_are_sent_again_in_order_with_their_numbers(
    sender, broker, rows, scores
) -> None:
    await known(sender, broker, rows, scores)
    written = []
    for _ in range(3):
        written += [sender.send(rows, batch(1)), sender.send(scores, batch(1))]
        await asyncio.sleep(0)
    await asked(broker, 3)
    broker.answer(rows=NOT_LEADER)
    broker.answer(rows=OUT_OF_ORDER)
    broker.answer(rows=OUT_OF_ORDER)

    again = []
    for _ in range(3):
        await asked(broker)
        again.append(broker.answer())
        await asyncio.sleep(0)
        if again[-1] == {ROWS: 2}:  # alone until it is taken
            await asked(broker, 2)
            again += [broker.answer(), broker.answer()]
            break
    assert again == [{ROWS: 2}, {ROWS: 3}, {ROWS: 4}]
    await asyncio.gather(*written)


async def test_what_was_in_flight_on_a_broken_connection_is_sent_again_and_may_have_been_taken(
    sender, broker, rows
) -> None:
    await known(sender, broker, rows)
    written = [sender.send(rows, batch(1))]
    await asked(broker)
    written.append(sender.send(rows, batch(1)))
    await asked(broker, 2)
    broker.hang_up()

    await asked(broker)
    assert broker.answer(rows=DUPLICATE) == {ROWS: 2}
    await asked(broker)
    assert broker.answer() == {ROWS: 3}
    await asyncio.gather(*written)


async def test_a_batch_that_kafka_will_never_take_ends_its_lane_and_no_other(sender, broker, rows, scores) -> None:
    await known(sender, broker, rows, scores)
    bad, good = sender.send(rows, batch()), sender.send(scores, batch())
    await asked(broker)
    behind = sender.send(rows, batch())
    await asked(broker, 2)
    broker.answer(rows=TOO_LARGE)
    broker.answer(rows=OUT_OF_ORDER)

    with pytest.raises(MessageSizeTooLargeError):
        await bad
    with pytest.raises(MessageSizeTooLargeError):
        await behind
    await good
    with pytest.raises(MessageSizeTooLargeError):
        await sender.send(rows, batch())
    assert not broker.asked


async def test_a_batch_taken_before_the_one_in_front_of_it_was_answered_for_is_sent_again_behind_it(
    sender, broker, rows
) -> None:
    """After an append that was not copied in time: the broker has both, and knows their numbers."""
    await known(sender, broker, rows)
    first = sender.send(rows, batch(1))
    await asked(broker)
    second = sender.send(rows, batch(1))
    await asked(broker, 2)
    broker.answer(rows=TOO_FEW_REPLICAS)
    broker.answer()

    await asked(broker)
    assert broker.answer(rows=DUPLICATE) == {ROWS: 2}
    await asked(broker)
    assert not second.done()
    assert broker.answer(rows=DUPLICATE) == {ROWS: 3}
    await asyncio.gather(first, second)


async def test_a_batch_is_taken_though_the_one_behind_it_was_refused_by_another_broker(sender, broker, rows) -> None:
    await known(sender, broker, rows)
    first = sender.send(rows, batch(1))
    await asked(broker)
    second = sender.send(rows, batch(1))
    await asked(broker, 2)
    broker.asked.reverse()
    broker.answer(rows=NOT_LEADER)
    broker.answer()
    await first

    await asked(broker)
    assert broker.answer() == {ROWS: 3}
    await second


async def test_a_broker_that_does_not_speak_the_version_ends_the_lane_at_once(sender, broker, rows) -> None:
    broker.is_too_old = True
    with pytest.raises(UnsupportedVersionError):
        await sender.send(rows, batch())


async def test_after_the_stop_nothing_is_sent_again_and_nothing_is_taken(sender, broker, rows, scores) -> None:
    await known(sender, broker, rows)
    written = sender.send(rows, batch())
    await asked(broker)
    await sender.stop()
    broker.hang_up()
    for late in (written, sender.send(rows, batch()), sender.send(scores, batch())):
        with pytest.raises(KafkaConnectionError):
            await late
    assert sender._mending is None
    assert not broker.asked


async def test_what_goes_wrong_while_leaders_are_looked_for_is_tried_again(sender, broker, rows, monkeypatch) -> None:
    failures = iter([AssertionError("not what it looks like")])

    async def update():
        for error in failures:
            raise error
        broker.is_up = True

    sender._client.force_metadata_update = update
    broker.is_up = False
    written = sender.send(rows, batch())
    await asked(broker)
    broker.answer()
    await written


async def test_a_gap_in_the_numbers_that_nothing_explains_ends_the_lane(sender, broker, rows) -> None:
    await known(sender, broker, rows)
    written = sender.send(rows, batch())
    await asked(broker)
    broker.answer(rows=OUT_OF_ORDER)
    with pytest.raises(OutOfOrderSequenceNumber):
        await written


async def test_a_lane_that_was_given_up_sends_nothing_any_more(sender, broker, rows, scores) -> None:
    await known(sender, broker, rows, scores)
    broker.is_up = False
    given_up, kept = sender.send(rows, batch()), sender.send(scores, batch())
    await asyncio.sleep(0)
    sender.give_up(rows)
    broker.is_up = True

    await asked(broker)
    assert broker.answer() == {SCORES: 2}
    await kept
    with pytest.raises(KafkaConnectionError):
        await given_up


async def test_what_cannot_be_sent_in_time_has_failed(sender, broker, rows) -> None:
    sender.timeout_s = 0.05
    broker.is_up = False
    with pytest.raises(KafkaTimeoutError):
        await sender.send(rows, batch())
    assert not broker.asked
    await until(lambda: sender._mending is None)


async def test_a_full_request_goes_on_in_another_one(sender, broker, rows, scores, monkeypatch) -> None:
    monkeypatch.setattr(batch_sender, "REQUEST_BYTES", 100)
    written = [sender.send(rows, batch()), sender.send(scores, batch())]
    await asked(broker, 2)
    assert [broker.answer(), broker.answer()] == [{ROWS: 0}, {SCORES: 0}]
    await asyncio.gather(*written)
