"""A connection to Kafka that copies less: an answer is read into one buffer of its size, a request is written in parts.

Source: https://kafka.apache.org/protocol#protocol_common, a message is its size in four bytes and its bytes.
"""

import asyncio
import functools
import random
import struct
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import aiokafka.conn as aiokafka_conn
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import CorrelationIdError, KafkaConnectionError, KafkaError, UnsupportedVersionError

from streams.transport.packed_batch import PartedProduceRequest

_SIZE = struct.Struct(">i")
_HEADER = struct.Struct(">hhih")  # what is asked, its version, correlation id, length of the client's name
# Answers that fit are cut from one buffer that several share; a longer one is read into a buffer of its own.
_SCRATCH_BYTES = 1 << 16
CONNECT_S = 5.0
_PAUSE_S, _MAX_PAUSE_S = 0.1, 1.0


class Answers(asyncio.BufferedProtocol):
    """Cuts what arrives into answers; stands in for aiokafka's protocol, which gathers it in a stream reader."""

    def __init__(self, closed: asyncio.Future[None], reader: asyncio.StreamReader, *, loop: Any) -> None:
        """Tell ``closed`` and ``reader`` of the end; the reader gets no bytes."""
        self._closed, self._reader = closed, reader
        self._connection: weakref.ref[Connection] | None = None
        self._ended: asyncio.Future[None] = loop.create_future()
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._held = 0  # bytes in `_scratch`, not yet cut
        self._answer: memoryview | None = None  # the one that is under way
        self._filled = 0
        self._writable = asyncio.Event()
        self._writable.set()

    def serve(self, connection: "Connection") -> asyncio.Future[None]:
        """Hand the answers to ``connection`` from now on.

        Returns:
            What ends with the connection; an error says that it is broken.
        """
        self._connection = weakref.ref(connection)
        return self._ended

    def get_buffer(self, _size: int) -> memoryview:
        """Return where the next bytes go."""
        return self._scratch[self._held :] if self._answer is None else self._answer[self._filled :]

    def buffer_updated(self, count: int) -> None:
        """Take ``count`` bytes more."""
        try:
            if self._answer is None:
                self._held += count
                self._cut()
                return
            self._filled += count
            if self._filled == len(self._answer):
                answer, self._answer = self._answer, None
                self._hand_over(answer)
        except Exception as error:  # noqa: BLE001 - an answer that cannot be read leaves nothing to read the next by
            self._end(error)

    def eof_received(self) -> None:
        """Let the transport close: Kafka does not go on after its end."""

    def connection_lost(self, error: Exception | None) -> None:
        """Tell who waits."""
        self._end(error or ConnectionResetError("Kafka closed the connection"))
        self._reader.feed_eof()
        self._writable.set()
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        """Let who drains the writer wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let who drains the writer go on."""
        self._writable.set()

    async def _drain_helper(self) -> None:  # pinned: StreamWriter.drain calls it
        await self._writable.wait()

    def _cut(self) -> None:
        at = 0
        while self._held - at >= _SIZE.size:
            (size,) = _SIZE.unpack_from(self._scratch, at)
            begin = at + _SIZE.size
            if size <= self._held - begin:
                at = begin + size
                self._hand_over(self._scratch[begin:at])
                continue
            self._filled = self._held - begin
            self._answer = memoryview(bytearray(size))
            self._answer[: self._filled] = self._scratch[begin : self._held]
            at = self._held
        self._held -= at
        self._scratch[: self._held] = bytes(self._scratch[at : at + self._held])

    def _hand_over(self, answer: memoryview) -> None:
        connection = self._connection() if self._connection else None
        if connection is not None and not self._ended.done():
            connection.take(answer)

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)


class Connection(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka ships no types for it
    """aiokafka's connection with both ends of the socket replaced."""

    def _create_reader_task(self) -> asyncio.Future[None]:
        ended: asyncio.Future[None] = self._protocol.serve(self)
        ended.add_done_callback(functools.partial(self._on_read_task_error, weakref.ref(self)))
        return ended

    def take(self, answer: memoryview) -> None:
        """Give an answer to who waits for it."""
        correlation_id, request, future = self._requests[0]
        if request is None and correlation_id is not None:
            self._take_asked(answer, correlation_id, future)
            return
        if correlation_id is None or len(answer) <= _SCRATCH_BYTES:
            self._handle_frame(bytes(answer))
            return
        data = _Reader(answer)
        found = request.parse_response_header(data).correlation_id
        if found != correlation_id:
            self._out_of_step(found, correlation_id, future)
            return
        if not future.done():
            future.set_result(request.RESPONSE_TYPE.decode(data))
        self._last_action = time.monotonic()
        self._requests.popleft()

    def ask(
        self, key: int, version: int, parts: Sequence[Any], timeout_s: float | None = None
    ) -> "asyncio.Future[memoryview]":
        """Send a request, written without being joined.

        Args:
            key: What is asked, as Kafka numbers it.
            version: Of the request; its header and that of its answer are the old, plain ones.
            parts: The bytes behind the header.
            timeout_s: How long Kafka may be silent; as long as the client allows where it is None.

        Returns:
            What follows the header of the answer; a KafkaConnectionError where the connection ends before it, which
            is also what becomes of it where Kafka is silent for too long.

        Raises:
            KafkaConnectionError: The connection is broken.
        """
        least, most = self._versions.get(key, (0, 0))
        if not least <= version <= most:
            raise UnsupportedVersionError(f"Kafka at {self._host}:{self._port} does not speak {key} version {version}")
        correlation_id, client = self._next_correlation_id(), self._client_id.encode()
        header = _HEADER.pack(key, version, correlation_id, len(client)) + client
        self._write([_SIZE.pack(len(header) + sum(map(len, parts))) + header, *parts])
        future: asyncio.Future[memoryview] = self._loop.create_future()
        self._requests.append((correlation_id, None, future))
        # It also keeps the connection, which aiokafka may let go of before what is asked has an answer.
        timer = self._loop.call_later(timeout_s or self._request_timeout, self._is_silent, future)
        future.add_done_callback(lambda _: timer.cancel())
        return future

    def send(self, request: Any, expect_response: bool = True) -> Any:
        """Send a request; one that holds record batches is written without being joined.

        Raises:
            KafkaConnectionError: The connection is broken.
        """
        if not (isinstance(request, PartedProduceRequest) and expect_response and self._writer is not None):
            return super().send(request, expect_response)
        built = request.prepare(self._versions)
        if built.parts is None:
            return super().send(request, expect_response)
        correlation_id = self._next_correlation_id()
        header = built.build_request_header(correlation_id=correlation_id, client_id=self._client_id).encode()
        size = len(header) + sum(map(len, built.parts))
        self._write([_SIZE.pack(size) + header, *built.parts])
        future = self._loop.create_future()
        self._requests.append((correlation_id, built, future))
        return aiokafka_conn.wait_for(future, self._request_timeout)

    def _write(self, parts: Sequence[Any]) -> None:
        if self._writer is None:
            raise KafkaConnectionError(f"no connection to Kafka at {self._host}:{self._port}")
        try:
            self._writer.writelines(parts)
        except OSError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {self._host}:{self._port} broken: {error}") from error

    def _take_asked(self, answer: memoryview, correlation_id: int, future: "asyncio.Future[memoryview]") -> None:
        (found,) = _SIZE.unpack_from(answer)
        if found != correlation_id:
            self._out_of_step(found, correlation_id, future)
            return
        self._last_action = time.monotonic()
        self._requests.popleft()
        if not future.done():
            body = answer[_SIZE.size :]
            future.set_result(memoryview(bytes(body)) if len(answer) <= _SCRATCH_BYTES else body)

    def _out_of_step(self, found: int, expected: int, future: "asyncio.Future[Any]") -> None:
        if not future.done():
            error = CorrelationIdError(f"Kafka answered request {found} where it should answer {expected}")
            future.set_exception(error)
        self.close(reason=CloseReason.OUT_OF_SYNC)

    def _is_silent(self, future: "asyncio.Future[memoryview]") -> None:
        self.close(reason=CloseReason.CONNECTION_TIMEOUT, exc=TimeoutError("Kafka does not answer"))
        if not future.done():
            future.set_exception(KafkaConnectionError("Kafka does not answer"))


def of(client: AIOKafkaClient, node: int) -> Connection | None:
    """Return the connection of ``client`` to a broker, None where there is none at the moment."""
    found: Connection | None = client._conns.get((node, ConnectionGroup.DEFAULT))
    return found if found is not None and found.connected() else None


def pauses() -> Iterator[float]:
    """Yield how many seconds to wait before each next attempt at something that Kafka does not answer."""
    pause_s = _PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)


async def reach(client: AIOKafkaClient, node: int) -> bool:
    """Connect ``client`` to a broker; False where it does not answer in a few seconds.

    A client connects to one broker after the other. How long one is waited for differs, so that the one that is away
    does not hold up the same others each time.
    """
    try:
        async with asyncio.timeout(CONNECT_S * random.uniform(0.5, 1.0)):  # noqa: S311 - no secret
            return bool(await client.ready(node))
    except (OSError, KafkaError):  # the time that is up is among the first
        return False


async def refresh(client: AIOKafkaClient) -> bool:
    """Let ``client`` learn anew who leads what; False where Kafka does not answer in a few seconds."""
    try:
        async with asyncio.timeout(CONNECT_S):
            return bool(await client.force_metadata_update())
    except (OSError, KafkaError):
        return False


class _Reader:
    """What aiokafka's decoders need of a ``BytesIO``, without the copy that one would begin with."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def read(self, count: int) -> bytes:
        begin, self._at = self._at, self._at + count
        return bytes(self._data[begin : self._at])


def install() -> None:
    """Let every client of this process connect so."""
    aiokafka_conn.AIOKafkaProtocol = Answers
    aiokafka_conn.AIOKafkaConnection = Connection
