"""The producer of one partition's outputs: in order, bounded, and stopping at its first failure."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from data_io.kafka_clients import end_producer
from ml_core.errors import KafkaUnavailableError

T = TypeVar("T")
Headers = list[tuple[str, bytes | None]]
Record = tuple[bytes | None, bytes | None, Headers]

# Below the broker's default message.max.bytes of 1,048,588, so that a full batch is never refused.
BATCH_BYTES = 1_000_000
# A dead letter holds a whole record, which may be as large as the broker lets it be, and the headers that say why.
RECORD_BYTES = 4_000_000
# Batches under way before `send` waits for the oldest: bounds memory at about 32 MB a partition.
MAX_IN_FLIGHT = 32


class Outputs:
    """One idempotent producer; a record that fails makes every later one fail too, so what is out is a prefix."""

    def __init__(self, bootstrap: str, partition: int, *, timeout_s: float = 30.0) -> None:
        """Write to ``partition`` of whatever topic; a batch not acknowledged in ``timeout_s`` has failed."""
        self.partition = partition
        self.timeout_s = timeout_s
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            max_batch_size=RECORD_BYTES,
            max_request_size=2 * RECORD_BYTES,
            request_timeout_ms=int(timeout_s * 1000),
        )
        self._in_flight: deque[asyncio.Future[object]] = deque()

    async def start(self) -> None:
        """Connect.

        Raises:
            KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._producer.start()
        except (TimeoutError, KafkaError) as error:
            raise KafkaUnavailableError(f"Kafka did not answer: {error!r}") from error

    async def stop(self) -> None:
        """Disconnect; what is not acknowledged by then is unknown."""
        await end_producer(self._producer)
        for future in self._in_flight:
            future.cancel()
        self._in_flight.clear()

    async def send(self, topic: str, records: Sequence[Record]) -> None:
        """Queue ``records`` for ``topic`` in order; waits only when too much is under way.

        Raises:
            KafkaUnavailableError: An earlier or this output failed; the partition has to be taken over again.
        """
        batch = self._producer.create_batch()
        for key, value, headers in records:
            if batch.record_count() and batch.size() + len(value or b"") + len(key or b"") > BATCH_BYTES:
                await self._send_batch(batch, topic)
                batch = self._producer.create_batch()
            if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                raise KafkaUnavailableError(
                    f"a record for {topic} is larger than {RECORD_BYTES} bytes and cannot be written"
                )
        if batch.record_count():
            await self._send_batch(batch, topic)

    async def settle(self) -> None:
        """Wait until everything sent so far is acknowledged.

        Raises:
            KafkaUnavailableError: As ``send``.
        """
        under_way = list(self._in_flight)
        if under_way:
            await self._finish(asyncio.wait(under_way, timeout=self.timeout_s))
        self._reap()
        if any(not future.done() for future in under_way):
            raise KafkaUnavailableError(
                f"outputs of partition {self.partition} were not acknowledged in {self.timeout_s:.0f} s"
            )

    async def _send_batch(self, batch: object, topic: str) -> None:
        self._reap()
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            await self._finish(asyncio.wait([self._in_flight[0]], timeout=self.timeout_s))
            self._reap()
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            raise KafkaUnavailableError(
                f"outputs of partition {self.partition} were not acknowledged in {self.timeout_s:.0f} s"
            )
        self._in_flight.append(await self._finish(self._producer.send_batch(batch, topic, partition=self.partition)))

    async def _finish(self, awaitable: Awaitable[T]) -> T:
        try:
            return await awaitable
        except KafkaError as error:
            raise KafkaUnavailableError(f"an output of partition {self.partition} failed: {error!r}") from error

    def _reap(self) -> None:
        while self._in_flight and self._in_flight[0].done():
            error = self._in_flight.popleft().exception()
            if error is not None:
                raise KafkaUnavailableError(f"an output of partition {self.partition} failed: {error!r}") from error
