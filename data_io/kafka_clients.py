"""Ends Kafka clients within a bound, also when Kafka is gone."""

import asyncio
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError


async def end_producer(producer: AIOKafkaProducer, timeout_s: float = 2.0) -> None:
    """Stop ``producer``; what is not acknowledged in ``timeout_s`` is given up, and its tasks are ended."""
    with suppress(TimeoutError, KafkaError):
        async with asyncio.timeout(timeout_s):
            await producer.stop()
            sender = producer._sender.sender_task if producer._sender is not None else None  # noqa: SLF001 - as below
            if sender is None or sender.done():
                return  # not so where an earlier stop was interrupted: this one did nothing
    # No public way: an idempotent producer would go on trying for ever. Without connections its requests fail at once.
    with suppress(TimeoutError, KafkaError):
        async with asyncio.timeout(timeout_s):
            await producer.client.close()
            await producer._sender.close()  # noqa: SLF001 - pinned by tests/conformance/test_private_names.py
    for batches in (producer._message_accumulator._batches, producer._message_accumulator._pending_batches):  # noqa: SLF001
        batches.clear()


async def end_consumer(consumer: AIOKafkaConsumer, timeout_s: float = 2.0) -> None:
    """Stop ``consumer``; a coordinator that does not hear its farewell in ``timeout_s`` finds out by itself."""
    with suppress(TimeoutError, KafkaError):
        async with asyncio.timeout(timeout_s):
            await consumer.stop()
            return
    with suppress(TimeoutError, KafkaError):
        async with asyncio.timeout(timeout_s):
            await consumer._client.close()  # noqa: SLF001 - as above
