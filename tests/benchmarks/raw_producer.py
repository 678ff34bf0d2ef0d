"""Sends finished record batches to a single broker, without a client library between schedule and socket.

Source: Produce request and response, version 7, https://kafka.apache.org/protocol#The_Messages_Produce.
"""

import select
import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Self

_HEAD = struct.Struct(">hhi")
_PRODUCE, _VERSION, _ACKS_ALL, _TIMEOUT_MS = 0, 7, -1, 30_000
_CLIENT = b"tickwise-bench"
_ANSWER_S = 30.0


class RawProducer:
    """One connection; requests are answered in order."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        """Connect to the only broker of a cluster, which leads every partition of ``topic``."""
        host, _, port = bootstrap.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=_ANSWER_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = topic.encode()
        self._about = struct.pack(">hhiih", -1, _ACKS_ALL, _TIMEOUT_MS, 1, len(name)) + name
        self._received = bytearray()
        self.in_flight = 0
        self._sent = 0

    def send(self, parts: Sequence[tuple[int, memoryview]], *, window: int) -> None:
        """Send (partition, record batch) pairs; waits while ``window`` requests are unanswered.

        Raises:
            RuntimeError: The broker refused an earlier batch.
        """
        self._answers(wait=False)
        while self.in_flight >= window:
            self._answers(wait=True)
        body = [_HEAD.pack(_PRODUCE, _VERSION, self._sent), struct.pack(">h", len(_CLIENT)), _CLIENT, self._about]
        body.append(struct.pack(">i", len(parts)))
        for partition, batch in parts:
            body += (struct.pack(">ii", partition, len(batch)), batch)
        request = b"".join(body)
        self._socket.sendall(struct.pack(">i", len(request)) + request)
        self._sent += 1
        self.in_flight += 1

    def settle(self) -> None:
        """Wait until everything is acknowledged; raises as ``send``."""
        while self.in_flight:
            self._answers(wait=True)

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self.close()

    def _answers(self, *, wait: bool) -> None:
        while self.in_flight:
            if not wait and not select.select([self._socket], [], [], 0)[0]:
                return
            part = self._socket.recv(1 << 16)
            if not part:
                raise RuntimeError("the broker has closed the connection")
            self._received += part
            while len(self._received) >= 4:
                (size,) = struct.unpack_from(">i", self._received)
                if len(self._received) < 4 + size:
                    break
                _check(bytes(self._received[4 : 4 + size]))
                del self._received[: 4 + size]
                self.in_flight -= 1
                wait = False


def _check(answer: bytes) -> None:
    at = 4  # correlation id
    (topics,) = struct.unpack_from(">i", answer, at)
    at += 4
    for _ in range(topics):
        (length,) = struct.unpack_from(">h", answer, at)
        (partitions,) = struct.unpack_from(">i", answer, at + 2 + length)
        at += 6 + length
        for _ in range(partitions):
            partition, error = struct.unpack_from(">ih", answer, at)
            at += 30  # and base offset, time, start offset
            if error:
                raise RuntimeError(f"the broker refused a batch for partition {partition}: error {error}")
