"""Many records at once through aiokafka's own batches: a future a batch instead of one a record."""

import asyncio

from aiokafka import AIOKafkaProducer

from tests.benchmarks.contenders.steps import Predictions

MAX_UNDER_WAY = 64  # batches
SETTLE_S = 30.0


class BulkOutput:
    """An idempotent producer; records of a partition are written in the order they are given."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, max_batch_size=512 << 10
        )
        self._topic = topic
        self._under_way: set[asyncio.Future[object]] = set()

    async def start(self) -> None:
        await self._producer.start()

    async def stop(self) -> None:
        await self._producer.stop()

    async def send(self, predictions: Predictions) -> None:
        """Queue records; waits only where too much is under way."""
        partition = predictions.partition
        batch = self._producer.create_batch()
        append = batch.append
        for key, value in zip(predictions.keys, predictions.values, strict=True):
            if append(key=key, value=value, timestamp=None) is None:
                await self._send(batch, partition)
                batch = self._producer.create_batch()
                append = batch.append
                append(key=key, value=value, timestamp=None)
        await self._send(batch, partition)

    async def settle(self) -> None:
        """Wait until everything is acknowledged; raises what went wrong."""
        async with asyncio.timeout(SETTLE_S):
            for future in tuple(self._under_way):
                await future
        self._under_way.clear()

    async def _send(self, batch: object, partition: int) -> None:
        if len(self._under_way) >= MAX_UNDER_WAY:
            done, self._under_way = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                future.result()
        self._under_way.add(await self._producer.send_batch(batch, self._topic, partition=partition))
