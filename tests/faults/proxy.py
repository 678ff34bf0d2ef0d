"""A TCP proxy in front of a broker that delays, cuts, resets and loses answers, as told."""

import asyncio
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
END_TXN = 26  # Kafka's number for the request that ends a transaction
_CHUNK = 1 << 16
_QUEUED = 256  # chunks that wait for their time


class Proxy:
    """Listens on a port of its own and passes everything on to another one."""

    def __init__(self, port: int, target: int) -> None:
        """Listen on ``port`` for a broker at ``target``, once entered."""
        self.port, self.target = port, target
        self.delay_s = 0.0  # each way
        self.is_cut = False  # nothing gets through, and nobody is told: connections are half open
        self.lose_answer_to: int | None = None  # the next request of this kind reaches the broker, its answer nobody
        self.lost = 0
        self._server: asyncio.Server | None = None
        self._pairs: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        self._abandoned: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no more and close what is open."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._pairs)
        self.reset()
        await asyncio.gather(*tasks, return_exceptions=True)

    def reset(self) -> None:
        """Abort every connection."""
        for task, writers in list(self._pairs.items()):
            for writer in writers:
                writer.transport.abort()
            task.cancel()

    def abandon(self) -> None:
        """Let new connections through again; those there are stay half open until somebody closes them."""
        self._abandoned |= {writer for writers in self._pairs.values() for writer in writers}
        self.is_cut = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            answers, to_broker = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.transport.abort()
            return
        self._pairs[task] = writer, to_broker
        losing = asyncio.Event()
        try:
            with suppress(asyncio.CancelledError):  # it was reset
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._requests(reader, to_broker, losing))
                    group.create_task(self._answers(answers, writer, losing))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            del self._pairs[task]
            self._abandoned -= {writer, to_broker}
            for each in (writer, to_broker):
                each.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        async def whole() -> bytes:
            head = await reader.readexactly(6)
            size, key = struct.unpack(">ih", head)
            if key == self.lose_answer_to:
                self.lose_answer_to = None
                losing.set()
            return head + await reader.readexactly(size - 2)

        await self._passed(whole, writer)

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        async def some() -> bytes:
            data = await reader.read(_CHUNK)
            if not data:
                raise ConnectionResetError
            if losing.is_set():
                self.lost += 1
                raise ConnectionResetError
            return data

        await self._passed(some, writer)

    async def _passed(self, read, writer: asyncio.StreamWriter) -> None:  # type: ignore[no-untyped-def]
        """Write what ``read`` gives after the delay; the delay holds up no later bytes, the queue is bounded."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED)
        loop = asyncio.get_running_loop()

        async def write() -> None:
            while True:
                due_s, data = await queue.get()
                if (wait_s := due_s - loop.time()) > 0:
                    await asyncio.sleep(wait_s)
                if self.is_cut or writer in self._abandoned:
                    continue
                writer.write(data)
                await writer.drain()

        writing = asyncio.create_task(write(), name="proxy-write")
        try:
            while True:
                data = await read()
                await queue.put((loop.time() + self.delay_s, data))
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await writing
