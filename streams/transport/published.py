"""How far the outputs of a partition reach: the newest tick offset among its published predictions."""

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from data_io.topics import predictions
from ml_core.errors import KafkaUnavailableError


async def last_published(
    bootstrap: str, topics: Sequence[str], topic_id: str, partition: int, *, timeout_s: float = 20.0
) -> int:
    """Return the highest tick offset that names a prediction in ``partition`` of ``topics``; -1 where there is none.

    Only names of ticks in the topic ``topic_id`` count: a topic that was made anew begins at 0 again.

    Raises:
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="latest",
        isolation_level="read_committed",
    )
    tps = [TopicPartition(topic, partition) for topic in topics]
    newest = -1
    try:
        async with asyncio.timeout(timeout_s):
            await consumer.start()
            consumer.assign(tps)
            ends, begins = await consumer.end_offsets(tps), await consumer.beginning_offsets(tps)
            for tp in tps:
                record = await _last_record(consumer, tp, begins[tp], ends[tp])
                if record is not None:
                    # topic id, partition, offset, index: the id of the topic may hold dashes, the rest does not
                    last = predictions.decode(record.value, record.headers)[-1]
                    topic, _, offset, _ = last["id"].rsplit("-", 3)
                    newest = max(newest, int(offset)) if topic == topic_id else newest
    except (TimeoutError, KafkaError) as error:
        raise KafkaUnavailableError(f"cannot read the end of {', '.join(topics)}: {error!r}") from error
    finally:
        await consumer.stop()
    return newest


async def _last_record(consumer: AIOKafkaConsumer, tp: TopicPartition, begin: int, end: int) -> ConsumerRecord | None:
    """Return the last committed record below ``end`` with a value; what ends a transaction has only an offset."""
    back, start, last = 1, end, None
    while last is None and start > begin:
        start = max(begin, end - back)
        consumer.seek(tp, start)
        while await consumer.position(tp) < end:
            for record in (await consumer.getmany(tp, timeout_ms=200)).get(tp, ()):
                if record.offset < end and record.value is not None:
                    last = record
        back *= 16
    return last
