"""For what a fetcher asks, what it makes of the answers, and what it does when a broker refuses; a broker by hand."""

import asyncio
import itertools
import struct
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    KafkaConnectionError,
    KafkaProtocolError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streams.transport import connection, tick_fetcher
from streams.transport.tick_fetcher import REFUSED_S, TickFetcher, end_of

A, B = TopicPartition("ticks", 0), TopicPartition("ticks", 1)
NOT_LEADER, OUT_OF_RANGE, NOT_AUTHORIZED = 6, 1, 29


def record_batch(base_offset: int, *values: bytes) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for delta, value in enumerate(values):
        builder.append(delta, 0, b"ACME", value, [])
    raw = bytearray(builder.build())
    raw[0:8] = base_offset.to_bytes(8, "big")
    return bytes(raw)


class Broker:
    def __init__(self) -> None:
        self.requests: list[tuple[dict[TopicPartition, tuple[int, int]], asyncio.Future]] = []
        self.is_up = True

    def connected(self) -> bool:
        return self.is_up

    def ask(self, _key, _version, parts, _timeout_s):
        answer = asyncio.get_running_loop().create_future()
        self.requests.append((read(b"".join(parts)), answer))
        return answer

    @property
    def wanted(self) -> dict[TopicPartition, int]:
        """Partition and offset of the only request under way."""
        [(asked, _)] = self.requests
        return {tp: offset for tp, (offset, _) in asked.items()}

    async def answer(self, *parts: tuple[TopicPartition, int, bytes], aborted=()) -> None:
        """Answer with (partition, error, record batches)."""
        body = struct.pack(">ihii", 0, 0, 0, len(parts))
        for tp, error, raw in parts:
            body += struct.pack(">h", len(tp.topic)) + tp.topic.encode() + struct.pack(">i", 1)
            body += struct.pack(">ihqqqi", tp.partition, error, 500, 490, 0, len(aborted) or -1)
            body += b"".join(struct.pack(">qq", *each) for each in aborted)
            body += struct.pack(">i", len(raw)) + raw
        self.requests.pop(0)[1].set_result(memoryview(body))
        await asyncio.sleep(0)


def read(request: bytes) -> dict[TopicPartition, tuple[int, int]]:
    replica, _, least, _, isolation, _, _, topics = struct.unpack_from(">iiiibiii", request)
    assert (replica, least, isolation) == (-1, 1, 1)
    at, found = 29, {}
    for _ in range(topics):
        (length,) = struct.unpack_from(">h", request, at)
        topic = request[at + 2 : at + 2 + length].decode()
        (partitions,) = struct.unpack_from(">i", request, at + 2 + length)
        at += 6 + length
        for _ in range(partitions):
            partition, _, offset, _, most = struct.unpack_from(">iiqqi", request, at)
            found[TopicPartition(topic, partition)] = offset, most
            at += 28
    assert request[at:] == bytes(4)
    return found


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def fetcher(broker, monkeypatch):
    monkeypatch.setattr(connection, "pauses", lambda: itertools.repeat(0.0))
    monkeypatch.setattr(tick_fetcher, "LEADERLESS_S", 0.0)
    updates = []

    async def update():
        updates.append(1)
        return True

    async def ready(_node):
        return broker.is_up

    client = SimpleNamespace(
        cluster=SimpleNamespace(leader_for_partition=lambda _: 1),
        _conns={(1, 0): broker},
        force_metadata_update=update,
        ready=ready,
        updates=updates,
    )
    made = TickFetcher(client)
    made.seek(A, 100)
    made.seek(B, 7)
    yield made
    await made.stop()


async def test_bytes_come_out_whole_and_the_next_request_begins_behind_them(fetcher, broker) -> None:
    raw = record_batch(98, b"a", b"b", b"c") + record_batch(101, b"d")
    fetcher.ask([A, B])
    assert broker.wanted == {A: 100, B: 7}
    await broker.answer((A, 0, raw), (B, 0, b""), aborted=[(7, 98)])

    [(tp, fetch)] = await fetcher.arrived(0)
    assert (tp, bytes(fetch.raw), fetch.first_offset, fetch.aborted) == (A, raw, 100, [(7, 98)])
    assert fetcher.highwater == {A: 500, B: 500}
    assert fetcher.readable == {A: 490, B: 490}
    fetcher.ask([A, B])
    assert broker.wanted == {A: 102, B: 7}


async def test_it_knows_since_when_it_waits_for_an_answer(fetcher, broker) -> None:
    fetcher.ask([A])
    since_s = fetcher.waits[A]
    fetcher.ask([A, B])
    assert fetcher.waits == {A: since_s}, "the broker owes the other answer first"
    await broker.answer((A, NOT_LEADER, b""))
    await fetcher._finding[-1]
    fetcher._rest(A, 30.0)
    fetcher.ask([A])
    assert fetcher.waits == {A: since_s}, "one that was refused still waits for ticks"
    fetcher._resting.clear()
    fetcher.ask([A])
    await broker.answer((A, 0, b""))
    assert fetcher.waits == {}
    fetcher.ask([A])
    fetcher.ask([])
    assert fetcher.waits == {}, "it is not wanted any more"


async def test_answers_for_one_partition_do_not_hide_that_none_come_for_another(fetcher, broker, monkeypatch) -> None:
    monkeypatch.setattr(fetcher._client.cluster, "leader_for_partition", lambda tp: 1 if tp == A else None)
    fetcher.ask([A, B])
    since_s = fetcher.waits[B]
    for _ in range(3):
        await broker.answer((A, 0, b""))
        assert fetcher.waits == {B: since_s}
        fetcher.ask([A, B])
    fetcher.seek(B, 9)
    assert B not in fetcher.waits


async def test_a_broker_that_owes_an_answer_is_not_asked_again(fetcher, broker) -> None:
    fetcher.ask([A])
    fetcher.ask([A, B])
    assert broker.wanted == {A: 100}


async def test_waiting_ends_when_something_arrives_or_somebody_wakes_it_or_time_is_up(fetcher, broker) -> None:
    assert await fetcher.arrived(0.01) == []
    fetcher.ask([A])
    waiting = asyncio.create_task(fetcher.arrived(30))
    await asyncio.sleep(0)
    await broker.answer((A, 0, record_batch(100, b"a")))
    assert len(await asyncio.wait_for(waiting, 5)) == 1

    wake = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(fetcher.arrived(30, wake))
    await asyncio.sleep(0)
    wake.set_result(None)
    assert await asyncio.wait_for(waiting, 5) == []


async def test_an_empty_answer_ends_the_wait_so_that_it_is_asked_again_at_once(fetcher, broker) -> None:
    fetcher.ask([A])
    waiting = asyncio.create_task(fetcher.arrived(30))
    await asyncio.sleep(0)
    await broker.answer((A, 0, b""))
    assert await asyncio.wait_for(waiting, 5) == []


async def test_what_was_asked_for_before_a_seek_is_dropped(fetcher, broker) -> None:
    fetcher.ask([A, B])
    fetcher.seek(A, 50)
    fetcher.forget(B)
    await broker.answer((A, 0, record_batch(100, b"a")), (B, 0, record_batch(7, b"b")))
    assert await fetcher.arrived(0) == []

    fetcher.ask([A])
    await broker.answer((A, 0, record_batch(50, b"a")))
    fetcher.seek(A, 60)
    assert await fetcher.arrived(0) == []
    assert fetcher.position(A) == 60


async def test_a_partition_that_was_taken_away_meanwhile_is_not_asked_for(fetcher, broker) -> None:
    fetcher.forget(A)
    fetcher.ask([A, B])
    assert broker.wanted == {B: 7}


async def test_an_answer_that_cannot_be_read_is_an_error_and_what_it_was_for_is_asked_for_again(
    fetcher, broker, monkeypatch
) -> None:
    now_s = tick_fetcher.time.monotonic()
    fetcher.ask([A])
    broker.requests.pop()[1].set_result(memoryview(bytes(9)))
    await asyncio.sleep(0)
    with pytest.raises(KafkaProtocolError, match="cannot be read"):
        await fetcher.arrived(0)
    fetcher.ask([A])
    assert not broker.requests
    monkeypatch.setattr(tick_fetcher.time, "monotonic", lambda: 2 * REFUSED_S + now_s)
    fetcher.ask([A])
    assert broker.wanted == {A: 100}


async def test_a_partition_without_a_leader_does_not_make_it_ask_all_the_time(fetcher, broker, monkeypatch) -> None:
    """Kafka does not wait for the ticks of some partitions where it refuses another one of the same request."""
    monkeypatch.setattr(tick_fetcher, "LEADERLESS_S", 30.0)
    fetcher.ask([A, B])
    await broker.answer((A, NOT_LEADER, b""), (B, 0, b""))
    fetcher.ask([A, B])
    assert broker.wanted == {B: 7}


async def test_an_error_of_a_partition_that_was_taken_away_is_nobodys(fetcher, broker) -> None:
    fetcher.ask([A])
    await broker.answer((A, OUT_OF_RANGE, b""))
    fetcher.forget(A)
    assert await fetcher.arrived(0) == []


@pytest.mark.parametrize("length", [-1, 0, 48, 2_100_000_000])
async def test_a_record_batch_of_an_impossible_size_is_an_error(fetcher, broker, length) -> None:
    fetcher.ask([A])
    await broker.answer((A, 0, struct.pack(">qi", 100, length) + bytes(100)))
    with pytest.raises(CorruptRecordException):
        await fetcher.arrived(0)


async def test_a_few_bytes_of_a_long_answer_do_not_keep_all_of_it(fetcher, broker) -> None:
    fetcher.ask([A, B])
    short, long = record_batch(100, b"a"), record_batch(7, b"x" * 9_000)
    await broker.answer((A, 0, short), (B, 0, long))
    found = dict(await fetcher.arrived(0))
    assert bytes(found[A].raw) == short
    assert len(found[A].raw.obj) == len(short)
    assert len(found[B].raw.obj) > len(long)


async def asks_for(fetcher, broker) -> int:
    """Return how many bytes of A it asks for."""
    fetcher.ask([A])
    return broker.requests[0][0][A][1]


async def test_a_batch_that_does_not_fit_is_asked_for_with_room_for_it_and_then_as_usual(fetcher, broker) -> None:
    fetcher.partition_bytes = 2_000
    large = record_batch(100, b"x" * 5_000)
    assert await asks_for(fetcher, broker) == 2_000
    await broker.answer((A, 0, large[:2_000]))
    assert await fetcher.arrived(0) == []

    assert await asks_for(fetcher, broker) >= len(large)
    await broker.answer((A, 0, large))
    assert len(await fetcher.arrived(0)) == 1
    assert await asks_for(fetcher, broker) == 2_000


async def test_of_large_batches_a_whole_number_is_asked_for(fetcher, broker) -> None:
    fetcher.partition_bytes = 10_000
    large = [record_batch(100 + k, b"x" * 3_500) for k in range(3)]
    assert await asks_for(fetcher, broker) == 10_000
    await broker.answer((A, 0, b"".join(large)[:10_000]))

    [(_, fetch)] = await fetcher.arrived(0)
    assert bytes(fetch.raw) == b"".join(large[:2])
    size = len(large[0])
    assert 3 * size <= await asks_for(fetcher, broker) < 3 * size + size // 8


async def test_each_partition_is_the_first_of_a_request_in_its_turn(fetcher, broker) -> None:
    firsts = set()
    for _ in range(2):
        fetcher.ask([A, B])
        firsts.add(next(iter(broker.wanted)))
        await broker.answer((A, 0, b""), (B, 0, b""))
    assert firsts == {A, B}


async def test_ticks_that_are_gone_are_an_error_and_those_of_others_come_first(fetcher, broker) -> None:
    fetcher.ask([A, B])
    await broker.answer((A, OUT_OF_RANGE, b""), (B, 0, record_batch(7, b"b")))
    assert [tp for tp, _ in await fetcher.arrived(0)] == [B]
    with pytest.raises(OffsetOutOfRangeError):
        await fetcher.arrived(0)
    assert await fetcher.arrived(0) == []


async def test_a_broker_that_leads_no_longer_makes_it_look_for_the_leader_and_a_refusal_is_an_error(
    fetcher, broker
) -> None:
    fetcher.ask([A])
    await broker.answer((A, NOT_LEADER, b""))
    await fetcher._finding[-1]
    assert fetcher._client.updates
    assert await fetcher.arrived(0) == []

    fetcher.ask([A])
    await broker.answer((A, NOT_AUTHORIZED, b""))
    with pytest.raises(TopicAuthorizationFailedError):
        await fetcher.arrived(0)


async def test_after_a_broken_connection_it_asks_again_from_the_same_offset(fetcher, broker) -> None:
    fetcher.ask([A])
    broker.is_up = False
    broker.requests.pop()[1].set_exception(KafkaConnectionError("gone"))
    await asyncio.sleep(0)
    fetcher.ask([A])
    assert not broker.requests

    broker.is_up = True
    await fetcher._finding[1]
    fetcher.ask([A])
    assert broker.wanted == {A: 100}


def test_a_partial_batch_at_the_end_does_not_move_the_end_offset() -> None:
    whole, cut = record_batch(10, b"a", b"b"), record_batch(12, b"c")[:-3]

    assert end_of(memoryview(whole + cut), otherwise=10) == (12, len(whole))
    assert end_of(memoryview(cut), otherwise=10) == (10, 0)
