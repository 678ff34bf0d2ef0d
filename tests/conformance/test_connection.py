"""The connection in place of aiokafka's reads what a socket brings, however it is cut, and writes the same bytes."""

import asyncio
import gc
import random
import struct

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CorrelationIdError, KafkaConnectionError, UnsupportedVersionError
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v10
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v7

from streams.transport import wire
from streams.transport.connection import Answers, Connection
from streams.transport.packed_batch import PartedProduceRequest


def framed(answer: bytes) -> bytes:
    return struct.pack(">i", len(answer)) + answer


async def protocol(take):
    loop = asyncio.get_running_loop()
    answers = Answers(loop.create_future(), asyncio.StreamReader(), loop=loop)
    connection = type("Takes", (), {"take": staticmethod(lambda answer: take(bytes(answer)))})()
    return answers, connection, answers.serve(connection)


def feed(answers: Answers, data: bytes, sizes) -> None:
    at = 0
    while at < len(data):
        room = answers.get_buffer(-1)
        count = min(len(room), len(data) - at, next(sizes))
        room[:count] = data[at : at + count]
        answers.buffer_updated(count)
        at += count


@pytest.mark.parametrize("seed", range(20))
async def test_answers_come_out_whole_and_in_order_however_their_bytes_arrive(seed) -> None:
    rng = random.Random(seed)
    longest = rng.choice([3, 70, 9_000, 300_000])
    sent = [rng.randbytes(rng.randint(0, longest)) for _ in range(40)]
    found: list[bytes] = []
    answers, connection, ended = await protocol(found.append)

    largest = rng.choice([1, 5, 1_000, 1 << 20]) if longest < 9_000 else rng.choice([1_000, 70_000, 1 << 20])
    feed(answers, b"".join(map(framed, sent)), iter(lambda: rng.randint(1, largest), 0))

    assert found == sent
    assert not ended.done()
    del connection


async def test_an_answer_that_cannot_be_read_ends_the_connection() -> None:
    def refuse(_: bytes) -> None:
        raise ValueError("no answer of Kafka's")

    answers, connection, ended = await protocol(refuse)
    feed(answers, framed(b"x"), iter(lambda: 99, 0))
    with pytest.raises(ValueError, match="no answer of Kafka's"):
        await ended
    del connection


async def test_a_lost_connection_ends_and_says_so_to_all_who_wait() -> None:
    answers, connection, ended = await protocol(lambda _: None)
    answers.pause_writing()
    answers.connection_lost(None)
    with pytest.raises(ConnectionResetError, match="closed the connection"):
        await ended
    await answers._drain_helper()
    assert answers._closed.done()
    assert answers._reader.at_eof()
    del connection


class Broker:
    """Answers ApiVersions, keeps what else it is sent, and answers that with what a test gives; None is silence."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer, self.requests = answer, []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
            except asyncio.IncompleteReadError:
                writer.close()
                return
            request = await reader.readexactly(size)
            key, _, correlation_id = struct.unpack_from(">hhi", request)
            if key == 18:
                body = struct.pack(">hi", 0, 2) + struct.pack(">hhhhhh", 0, 0, 7, 1, 4, 10)
            else:
                self.requests.append(request)
                body = self.answer
            if body is not None:
                writer.write(framed(struct.pack(">i", correlation_id) + body))


@pytest.fixture
async def connected():
    """Give a connection to a broker that says ``answer``; all are closed at the end."""
    opened = []

    async def connect(answer: bytes | None, *, keep: bool = True):
        broker = Broker(answer)
        server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connection = Connection("127.0.0.1", port, client_id="c", request_timeout_ms=10_000)
        await connection.connect()
        opened.append((connection if keep else None, server))
        return connection, broker

    yield connect
    for connection, server in opened:
        if connection is not None:
            await connection.close()
        server.close()


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    monkeypatch.setattr("aiokafka.conn.AIOKafkaProtocol", Answers)


async def test_a_long_fetch_is_read_as_aiokafka_reads_it(connected) -> None:
    records = random.Random(1).randbytes(900_000)
    partition = struct.pack(">ihqqqii", 3, 0, 77, 76, 0, 0, len(records)) + records
    answer = struct.pack(">ihiih", 0, 0, 0, 1, 5) + b"ticks" + struct.pack(">i", 1) + partition
    connection, _ = await connected(answer)

    response = await connection.send(FetchRequest(10, 1, 1 << 20, 0, [("ticks", [(3, 0, 1 << 20)])]))

    [(topic, [(number, error, highwater, stable, _, aborted, found)])] = response.topics
    assert (topic, number, error, highwater, stable) == ("ticks", 3, 0, 77, 76)
    assert not aborted
    assert found == records
    [(tp, ours)] = wire.fetched(memoryview(answer))[1].items()
    assert (tp, ours.error, ours.highwater, ours.aborted) == (TopicPartition("ticks", 3), 0, 77, [])
    assert bytes(ours.raw) == records


async def test_record_batches_are_written_as_aiokafka_writes_them(connected) -> None:
    batches = [random.Random(k).randbytes(size) for k, size in enumerate((10, 700_000))]
    given = {
        "transactional_id": None,
        "required_acks": -1,
        "timeout": 100,
        "topics": [("rows", [(0, memoryview(batches[0])), (1, memoryview(batches[1]))])],
    }
    connection, broker = await connected(struct.pack(">ii", 0, 0))

    await connection.send(PartedProduceRequest(**given))
    given["topics"] = [("rows", list(enumerate(batches)))]
    await connection.send(ProduceRequest(**given))

    ours, own = broker.requests
    assert ours[8:] == own[8:]  # behind the correlation id


async def test_a_question_is_asked_as_aiokafka_asks_it_and_its_answer_comes_as_bytes(connected) -> None:
    answer = random.Random(2).randbytes(200_000)
    connection, broker = await connected(answer)
    asked = [("ticks", 3, 70, 1 << 20), ("ticks", 0, 9, 5), ("other", 1, 2, 1 << 20)]
    request = wire.fetch(
        [(TopicPartition(name, number), offset, most) for name, number, offset, most in asked],
        wait_ms=10,
        most_bytes=1 << 22,
        committed=True,
    )
    assert bytes(await connection.ask(wire.FETCH, wire.FETCH_VERSION, [request[:10], request[10:]])) == answer

    topics = [("ticks", [(3, 70, 1 << 20), (0, 9, 5)]), ("other", [(1, 2, 1 << 20)])]
    own = FetchRequest(10, 1, 1 << 22, 1, topics).build(FetchRequest_v10)
    header = own.build_request_header(correlation_id=int.from_bytes(broker.requests[0][4:8], "big"), client_id="c")
    assert broker.requests == [header.encode() + own.encode()]


async def test_what_is_written_has_the_bytes_of_aiokafkas_own_request() -> None:
    topics = {"rows": [(0, b"one"), (3, b"three")], "scores": [(3, b"")]}
    own = ProduceRequest(transactional_id=None, required_acks=-1, timeout=30_000, topics=list(topics.items()))
    assert b"".join(wire.produce(topics, 30_000)) == own.build(ProduceRequest_v7).encode()


async def test_kafka_that_is_silent_for_too_long_is_hung_up_on(connected) -> None:
    connection, broker = await connected(None)
    connection._request_timeout = 0.05
    waiting = [connection.ask(wire.FETCH, wire.FETCH_VERSION, [b""]) for _ in range(2)]
    for each in waiting:
        with pytest.raises(KafkaConnectionError):
            await each
    assert len(broker.requests) == 2
    assert not connection.connected()


async def test_a_connection_nobody_keeps_still_answers_for_what_it_was_asked(connected) -> None:
    """aiokafka lets go of a connection that is closing before it has said so to all who wait."""
    connection, _ = await connected(None, keep=False)
    waiting = connection.ask(wire.FETCH, wire.FETCH_VERSION, [b""], 20.0)
    connection._writer.transport.abort()
    del connection
    gc.collect()
    with pytest.raises(KafkaConnectionError):
        await waiting


async def test_an_answer_to_another_question_ends_the_connection(connected) -> None:
    connection, _ = await connected(b"")
    waiting = connection.ask(wire.FETCH, wire.FETCH_VERSION, [b""])
    asked, *rest = connection._requests.popleft()
    connection._requests.append((asked + 1, *rest))
    with pytest.raises(CorrelationIdError):
        await waiting
    assert not connection.connected()


async def test_a_kafka_that_is_too_old_is_named(connected) -> None:
    connection, _ = await connected(b"")
    with pytest.raises(UnsupportedVersionError, match="does not speak"):
        connection.ask(wire.PRODUCE, 99, [b""])


async def test_what_waits_for_an_answer_learns_that_the_connection_broke(connected) -> None:
    connection, _ = await connected(b"")
    waiting = connection.send(PartedProduceRequest(transactional_id=None, required_acks=-1, timeout=1, topics=[]))
    connection._writer.transport.abort()
    with pytest.raises(KafkaConnectionError):
        await waiting
    assert not connection.connected()
