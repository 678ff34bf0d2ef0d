"""Ticks at a steady rate from a publisher that remembers what Kafka has acknowledged."""

import asyncio
import zlib
from collections.abc import Iterator
from itertools import islice

import numpy as np
from aiokafka import TopicPartition

from data_io import log_reader, publisher
from data_io.data_fetcher.sources import open_source
from data_io.topics import ticks
from ml_core.errors import KafkaUnavailableError
from ml_core.types import TickBatch

# A slow market, sent fast; it does not end.
MARKET = "synthetic:symbols=6,ticks=1000000000,rate=50,seed=2"
_READ = 250


class Load:
    """Publishes one market, second by second; a Kafka that is away is tried again.

    What was under way then is given up: it may stand in the log or not, and only what was acknowledged has to.
    """

    def __init__(self, kafka: str, topic: str, rate: float) -> None:
        """Publish ``rate`` ticks a second to ``topic`` once run; the rate may be changed meanwhile."""
        self.rate = rate
        self._kafka, self._topic = kafka, topic
        self._market = open_source(MARKET).stream(_READ)
        self._ended = asyncio.Event()
        self._acknowledged: list[int] = []  # checksums of values

    def end(self) -> None:
        """Let ``run`` return once what is under way is answered for."""
        self._ended.set()

    async def run(self) -> None:
        """Publish until ``end``."""
        while not self._ended.is_set():
            second = _Second(list(islice(self._market, max(round(self.rate / _READ), 1))))
            try:
                await publisher.publish(second, bootstrap=self._kafka, topic=self._topic, rate=self.rate)
            except KafkaUnavailableError:
                await asyncio.sleep(1.0)
            else:
                self._acknowledged += second.checksums()

    async def acknowledged(self, partitions: int) -> dict[str, int]:
        """Return how many ticks Kafka has acknowledged, and how many of them are not in its log."""
        tps = [TopicPartition(self._topic, number) for number in range(partitions)]
        found: list[int] = []
        async with log_reader.consumer(self._kafka) as consumer:
            async for _, records in log_reader.read(consumer, await log_reader.held(consumer, tps)):
                found += [zlib.crc32(record.value) for record in records]
        lost_N = ~np.isin(np.array(self._acknowledged, np.int64), np.array(found, np.int64))
        return {"acknowledged": len(lost_N), "acknowledged_lost": int(lost_N.sum())}


class _Second:
    """The ticks of about a second, as a source."""

    def __init__(self, batches: list[TickBatch]) -> None:
        self._batches = batches

    def stream(self, batch_size: int) -> Iterator[TickBatch]:
        assert batch_size >= _READ
        yield from self._batches

    def checksums(self) -> list[int]:
        return [zlib.crc32(value) for batch in self._batches for _, value in ticks.encode(batch)]
