"""Pins every private name of aiokafka and Faust that streams/transport leans on, against the real classes."""

import asyncio
from types import SimpleNamespace

import faust
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import OffsetOutOfRangeError, ProducerFenced
from aiokafka.producer.message_accumulator import MessageAccumulator
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from data_io.topics.record_batch import pack
from streams.transport import packed_batch, raw_fetch
from streams.transport.batch_channel import Batch, BatchChannel, Round, batch_channel

TP = TopicPartition("ticks", 3)


def record_batch(base_offset: int, *values: bytes) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for delta, value in enumerate(values):
        builder.append(delta, 0, b"ACME", value, [])
    raw = bytearray(builder.build())
    raw[0:8] = base_offset.to_bytes(8, "big")
    return bytes(raw)


@pytest.fixture
async def consumer():
    """An aiokafka consumer as `take` sees it: a real fetcher and a real subscription, and no broker behind them."""
    raw_fetch.install()
    subscriptions = SubscriptionState()
    client = SimpleNamespace(_loop=asyncio.get_running_loop(), _metadata_max_age_ms=300_000)
    real = aiokafka_fetcher.Fetcher(client, subscriptions)
    await real.close()  # its own routine would ask the client for leaders
    subscriptions.subscribe({TP.topic})
    subscriptions.assign_from_subscribed({TP})
    subscriptions.seek(TP, 100)
    return SimpleNamespace(
        _fetcher=real, _coordinator=SimpleNamespace(check_errors=lambda: None), subscriptions=subscriptions
    )


def fetched(consumer, raw: bytes, *, position: int, aborted=()):
    records = aiokafka_fetcher.PartitionRecords(
        TP,
        aiokafka_fetcher.MemoryRecords(raw),
        list(aborted),
        position,
        None,
        None,
        True,
        aiokafka_fetcher.READ_COMMITTED,
    )
    assignment = consumer.subscriptions.subscription.assignment
    consumer._fetcher._records[TP] = aiokafka_fetcher.FetchResult(
        TP, assignment=assignment, partition_records=records, backoff=0
    )


async def test_fetched_bytes_come_out_whole_and_the_position_moves_past_them(consumer) -> None:
    raw = record_batch(98, b"a", b"b", b"c") + record_batch(101, b"d")
    fetched(consumer, raw, position=100, aborted=[(7, 98)])

    found = await raw_fetch.take(consumer, {TP}, timeout_s=0.01)

    assert found[TP].raw == raw
    assert found[TP].first_offset == 100
    assert found[TP].aborted == [(7, 98)]
    assert consumer.subscriptions.subscription.assignment.state_value(TP).position == 102
    assert TP not in consumer._fetcher._records


async def test_a_partition_that_is_not_ready_keeps_its_records(consumer) -> None:
    fetched(consumer, record_batch(100, b"a"), position=100)

    assert await raw_fetch.take(consumer, set(), timeout_s=0.01) == {}
    assert TP in consumer._fetcher._records


async def test_records_fetched_before_a_seek_are_dropped(consumer) -> None:
    fetched(consumer, record_batch(100, b"a"), position=100)
    consumer.subscriptions.seek(TP, 50)

    assert await raw_fetch.take(consumer, {TP}, timeout_s=0.01) == {}


async def test_an_error_of_the_fetcher_is_raised(consumer) -> None:
    consumer._fetcher._set_error(TP, OffsetOutOfRangeError({TP: 100}))

    with pytest.raises(OffsetOutOfRangeError):
        await raw_fetch.take(consumer, {TP}, timeout_s=0.01)


async def test_an_error_of_one_partition_does_not_lose_what_was_found_of_another(consumer) -> None:
    other = TopicPartition(TP.topic, 4)
    consumer.subscriptions.assign_from_subscribed({TP, other})
    consumer.subscriptions.seek(TP, 100)
    fetched(consumer, record_batch(100, b"a"), position=100)
    consumer._fetcher._set_error(other, OffsetOutOfRangeError({other: 7}))

    assert set(await raw_fetch.take(consumer, {TP, other}, timeout_s=0.01)) == {TP}
    with pytest.raises(OffsetOutOfRangeError):
        await raw_fetch.take(consumer, {TP, other}, timeout_s=0.01)


async def test_the_parts_of_a_consumer_that_can_die_are_watched() -> None:
    consumer = AIOKafkaConsumer("ticks", bootstrap_servers="127.0.0.1:1", group_id="pinned")
    client = SimpleNamespace(
        _loop=asyncio.get_running_loop(), _metadata_max_age_ms=300_000, cluster=consumer._client.cluster
    )
    consumer._fetcher = aiokafka_fetcher.Fetcher(client, consumer._subscription)
    consumer._coordinator = GroupCoordinator(client, consumer._subscription)
    assert raw_fetch.ended(consumer) is None
    consumer._coordinator.check_errors()

    await consumer._fetcher.close()

    assert raw_fetch.ended(consumer) == "fetcher"
    await consumer.stop()


async def test_waiting_ends_as_soon_as_records_arrive(consumer) -> None:
    waiting = asyncio.create_task(raw_fetch.take(consumer, {TP}, timeout_s=30))
    await asyncio.sleep(0)
    fetched(consumer, record_batch(100, b"a"), position=100)
    for waiter in list(consumer._fetcher._fetch_waiters):
        consumer._fetcher._notify(waiter)

    assert TP in await asyncio.wait_for(waiting, 5)


async def test_a_packed_batch_takes_its_turn_in_the_accumulator_and_gets_the_producers_numbers() -> None:
    transactions = TransactionManager("pinned", 15_000)
    transactions.set_pid_and_epoch(41, 3)
    transactions.begin_transaction()
    accumulator = MessageAccumulator(SimpleNamespace(), 1 << 20, 0, 30, txn_manager=transactions)
    first, second = (
        packed_batch.PackedBatch(pack([(b"k", value, [])] * 2)[0], transactional=True) for value in (b"a", b"b")
    )
    producer = SimpleNamespace(_message_accumulator=accumulator)
    waiting = [batch.queue(producer, TP) for batch in (first, second)]

    taken = [accumulator._pop_batch(TP) for _ in range(2)]
    for batch, future, sequence in zip(taken, waiting, (0, 2), strict=True):
        header = DefaultRecordBatch(bytes(batch.get_data_buffer()))
        assert header.validate_crc()
        assert (header.producer_id, header.producer_epoch, header.base_sequence) == (41, 3, sequence)
        assert header.is_transactional
        batch.done(base_offset=sequence)
        assert (await future).offset == sequence

    accumulator.fail_all(ProducerFenced())
    with pytest.raises(ProducerFenced):
        await first.queue(producer, TP)


@pytest.mark.parametrize("version", [3, 7])
def test_a_produce_request_has_the_bytes_of_aiokafkas_own(version) -> None:
    topics = [("rows", [(0, b"one"), (3, b"three")]), ("scores", [(3, b"")])]
    wanted = next(each for each in ProduceRequest._CLASSES if version == each.API_VERSION)
    given = {"transactional_id": "t-1", "required_acks": -1, "timeout": 30_000, "topics": topics}

    own = ProduceRequest(**given).build(wanted).encode()
    parted = packed_batch.PartedProduceRequest(**given).build(wanted)

    assert b"".join(parted.parts) == parted.encode() == own
    assert any(part is topics[0][1][1][1] for part in parted.parts), "a record batch was copied"


def test_a_partial_batch_at_the_end_does_not_move_the_end_offset() -> None:
    whole, cut = record_batch(10, b"a", b"b"), record_batch(12, b"c")[:-3]

    assert raw_fetch.end_offset(whole + cut, otherwise=10) == 12
    assert raw_fetch.end_offset(cut, otherwise=10) == 10


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - Faust sets no event when its agent subscribes
            await asyncio.sleep(0)


async def test_the_channel_hands_rounds_to_an_agent_and_keeps_its_queue_through_a_rebalance() -> None:
    app = faust.App("pinned", store="memory://", broker="kafka://127.0.0.1:1", loop=asyncio.get_running_loop())
    channel = batch_channel(app)
    seen: list[object] = []

    async def collect(stream) -> None:
        async for each in stream:
            seen.append(each)
            each.batches[0].done(1, 0)

    agent = app.agent(channel, name="collect")(collect)
    app.finalize()
    await agent.start()
    try:
        await until(lambda: channel.has_subscriber)
        first, second = Round([Batch(None, None)]), Round([Batch(None, None)])
        await channel.put(first)
        await first.batches[0].ended
        app.flow_control.suspend()
        app.flow_control.resume()
        await channel.put(second)
        await asyncio.wait_for(second.batches[0].ended, 10)
    finally:
        await agent.stop()

    assert seen == [first, second]
    assert isinstance(channel, BatchChannel)
