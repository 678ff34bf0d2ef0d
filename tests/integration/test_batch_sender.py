"""Lanes on a real Kafka: what is out is what was sent, once and in order, and an older epoch is shut out."""

import asyncio
import random

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import InvalidProducerEpoch

from data_io.topics import admin
from data_io.topics.admin import TopicSpec
from data_io.topics.record_batch import pack
from streams.transport import connection, state_log
from streams.transport.batch_sender import BatchSender, Lane
from streams.transport.state_log import StateLog


@pytest.fixture
async def topic(kafka, unique) -> str:
    await admin.ensure_topics(kafka, [TopicSpec(f"lanes-{unique}", 2, {})])
    return f"lanes-{unique}"


@pytest.fixture
async def sender(kafka):
    connection.install()
    sender = BatchSender(kafka)
    await sender.start()
    yield sender
    await sender.stop()


async def claim(kafka: str, unique: str) -> tuple[int, int]:
    """Return producer id and epoch of a new claim on a partition, as its state log has them."""
    log = StateLog(kafka, unique, TopicPartition("ticks", 0))
    await log.producer.start()
    identity = log.identity
    await log.producer.stop()
    return identity


async def values(kafka: str, tp: TopicPartition) -> list[int]:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        found: list[int] = []
        async with asyncio.timeout(30):
            while await consumer.position(tp) < end:
                records = (await consumer.getmany(tp, timeout_ms=200)).get(tp, ())
                found += [int(record.value) for record in records]
        return found
    finally:
        await consumer.stop()


def batches(numbers):
    return pack([(b"k", str(number).encode(), []) for number in numbers])


async def test_what_is_sent_while_connections_break_is_out_once_and_in_order(kafka, unique, topic, sender) -> None:
    await sender.find([topic])
    identity = await claim(kafka, unique)
    lanes = [Lane(TopicPartition(topic, p), *identity) for p in range(2)]
    rng, written, number = random.Random(4), [], 0
    for turn in range(150):
        for lane in lanes:
            written += [sender.send(lane, batch) for batch in batches(range(number, number + 1 + turn % 7))]
        number += 1 + turn % 7
        await asyncio.sleep(rng.choice([0, 0, 0.002]))
        if turn % 12 == 0:
            for each in list(sender._client._conns.values()):
                if each.connected():
                    each._writer.transport.abort()
    async with asyncio.timeout(30):
        await asyncio.gather(*written)

    for lane in lanes:
        assert await values(kafka, lane.tp) == list(range(number))


async def test_once_a_later_claim_has_written_an_earlier_one_cannot(kafka, unique, topic, sender) -> None:
    await sender.find([topic])
    tp = TopicPartition(topic, 0)
    earlier = Lane(tp, *await claim(kafka, unique))
    [first], [second], [third] = batches([1]), batches([2]), batches([3])
    await sender.send(earlier, first)
    later = Lane(tp, *await claim(kafka, unique))
    assert (later.producer_id, later.epoch) > (earlier.producer_id, earlier.epoch)
    await sender.send(later, second)

    with pytest.raises(InvalidProducerEpoch):
        await sender.send(earlier, third)
    assert await values(kafka, tp) == [1, 2]


async def test_a_claim_shuts_out_an_earlier_one_before_it_writes_itself(kafka, unique, topic, sender) -> None:
    await admin.ensure_topics(kafka, [state_log.topic_spec(unique, 1)])
    await sender.find([topic])
    written, unused = (TopicPartition(topic, number) for number in (0, 1))
    identity = await claim(kafka, unique)
    earlier, quiet = Lane(written, *identity), Lane(unused, *identity)
    [first], [second], [third], [fourth] = (batches([number]) for number in range(1, 5))
    await sender.send(earlier, first)

    log = StateLog(kafka, unique, TopicPartition("ticks", 0))
    try:
        await log.claim([written, unused])
        for lane, batch in ((earlier, second), (quiet, third)):
            with pytest.raises(InvalidProducerEpoch):
                await sender.send(lane, batch)
        await sender.send(Lane(written, *log.identity), fourth)
    finally:
        await log.close()

    assert (await values(kafka, written), await values(kafka, unused)) == ([1, 4], [])


async def test_outputs_and_a_transaction_of_one_claim_do_not_disturb_each_other(kafka, unique, topic, sender) -> None:
    await sender.find([topic])
    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=f"t-{unique}")
    await producer.start()
    try:
        known = producer._txn_manager._pid_and_epoch
        lane = Lane(TopicPartition(topic, 0), known.pid, known.epoch)
        for number in range(3):
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"-1", partition=1)
            await sender.send(lane, batches([number])[0])
            await producer.commit_transaction()
            await sender.send(lane, batches([10 + number])[0])
    finally:
        await producer.stop()
    assert await values(kafka, lane.tp) == [0, 10, 1, 11, 2, 12]
