"""Ticks at a steady rate from a publisher that remembers what Kafka has acknowledged."""

import asyncio
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError
from aiokafka.partitioner import DefaultPartitioner

from data_io import log_reader
from data_io.data_fetcher.sources import open_source
from data_io.topics import admin, ticks

# A slow market, sent fast; it does not end.
MARKET = "synthetic:symbols=6,ticks=1000000000,rate=50,seed=2"
BATCH_BYTES = 256 << 10
ANSWER_S = 10.0  # of one request; the producer itself asks again, and Kafka knows what it has
SETTLE_S = 60.0
_READ = 250
_PAUSE_S = 0.01
_MOST_S = 1.0  # of ticks that a Kafka that was away owes: the rest is never sent
_choose = DefaultPartitioner()

Encoded = tuple[bytes, bytes]


class Load:
    """Publishes one market by one producer; what Kafka did not take in the end may stand in the log or not."""

    def __init__(self, kafka: str, topic: str, rate: float) -> None:
        """Publish ``rate`` ticks a second to ``topic`` once run; the rate may be changed meanwhile."""
        self.rate = rate
        self._kafka, self._topic = kafka, topic
        self._market = open_source(MARKET).stream(_READ)
        self._waiting: list[Encoded] = []
        self._ended = asyncio.Event()
        self._partition_of: dict[bytes, int] = {}
        self._is_refused = False
        self._seconds = 0.0
        self._acknowledged: list[int] = []  # checksums of values

    def end(self) -> None:
        """Let ``run`` return once what is under way is answered for."""
        self._ended.set()

    async def run(self) -> None:
        """Publish until ``end``."""
        began = time.monotonic()
        partitions = (await admin.describe(self._kafka, self._topic)).partitions
        while not self._ended.is_set():
            producer = AIOKafkaProducer(
                bootstrap_servers=self._kafka,
                enable_idempotence=True,
                max_batch_size=BATCH_BYTES,
                request_timeout_ms=int(ANSWER_S * 1000),
            )
            try:
                await producer.start()
                await self._publish(producer, list(range(partitions)))
            except KafkaError:  # a new one tries
                await asyncio.sleep(1.0)
            finally:
                with suppress(TimeoutError, KafkaError):
                    async with asyncio.timeout(SETTLE_S):
                        await producer.stop()  # all of it is answered for then
        self._seconds = time.monotonic() - began

    async def _publish(self, producer: AIOKafkaProducer, numbers: Sequence[int]) -> None:
        owed, then_s, self._is_refused = 0.0, time.monotonic(), False
        while not self._ended.is_set() and not self._is_refused:
            await asyncio.sleep(_PAUSE_S)
            now_s = time.monotonic()
            owed = min(owed + (now_s - then_s) * self.rate, _MOST_S * self.rate)
            then_s = now_s
            due = self._next(int(owed))
            owed -= len(due)
            for number in numbers:
                await self._send(
                    producer, number, [each for each in due if self._partition(each[0], numbers) == number]
                )

    def _next(self, count: int) -> list[Encoded]:
        while len(self._waiting) < count:
            self._waiting += ticks.encode(next(self._market))
        due, self._waiting = self._waiting[:count], self._waiting[count:]
        return due

    def _partition(self, key: bytes, numbers: Sequence[int]) -> int:
        if key not in self._partition_of:
            self._partition_of[key] = _choose(key, numbers, numbers)
        return self._partition_of[key]

    async def _send(self, producer: AIOKafkaProducer, number: int, records: Sequence[Encoded]) -> None:
        left = list(records)
        while left:
            batch = producer.create_batch()
            taken = 0
            while taken < len(left) and batch.append(key=left[taken][0], value=left[taken][1], timestamp=None):
                taken += 1
            sums = [zlib.crc32(value) for _, value in left[:taken]]
            try:
                sent = await producer.send_batch(batch, self._topic, partition=number)
            except KafkaTimeoutError:  # the one before it waits for Kafka
                if self._ended.is_set():
                    return
                continue
            sent.add_done_callback(lambda answer, sums=sums: self._answered(answer, sums))
            left = left[taken:]

    def _answered(self, answer: "asyncio.Future[object]", sums: list[int]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            self._is_refused = True  # whatever this producer sends now has no place behind it
        else:
            self._acknowledged += sums

    async def acknowledged(self, partitions: int) -> dict[str, int]:
        """Return how many ticks Kafka has acknowledged, also a second, and how many of them are not in its log."""
        tps = [TopicPartition(self._topic, number) for number in range(partitions)]
        found: list[int] = []
        async with log_reader.consumer(self._kafka) as consumer:
            async for _, records in log_reader.read(consumer, await log_reader.held(consumer, tps)):
                found += [zlib.crc32(record.value) for record in records]
        lost_N = ~np.isin(np.array(self._acknowledged, np.int64), np.array(found, np.int64))
        return {
            "acknowledged": len(lost_N),
            "acknowledged_lost": int(lost_N.sum()),
            "ticks_a_s": round(len(lost_N) / self._seconds),
        }
