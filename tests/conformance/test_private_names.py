"""Pins every private name of aiokafka and Faust that streams/transport leans on, against the real classes."""

import asyncio
from types import SimpleNamespace

import faust
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import ProducerFenced
from aiokafka.producer.message_accumulator import MessageAccumulator
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatch

from data_io.topics.record_batch import pack
from streams.transport import connection, packed_batch
from streams.transport.batch_channel import Batch, BatchChannel, Round, batch_channel
from streams.transport.state_log import StateLog

TP = TopicPartition("ticks", 3)


async def test_the_coordinator_of_a_consumer_can_be_watched_and_told_that_somebody_polls() -> None:
    consumer = AIOKafkaConsumer("ticks", bootstrap_servers="127.0.0.1:1", group_id="pinned")
    client = SimpleNamespace(
        _loop=asyncio.get_running_loop(), _metadata_max_age_ms=300_000, cluster=consumer._client.cluster
    )
    consumer._coordinator = GroupCoordinator(client, consumer._subscription)
    consumer._coordinator.check_errors()
    assert not consumer._coordinator._coordination_task.done()

    with consumer._subscription.fetch_context():
        assert consumer._subscription.fetcher_idle_time == 0
    assert consumer._subscription.fetcher_idle_time > 0
    await consumer.stop()


async def test_a_client_gives_its_connections_by_broker_and_the_wanted_topics_by_name() -> None:
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    assert connection.of(client, 3) is None
    there = client._conns[(3, ConnectionGroup.DEFAULT)] = SimpleNamespace(connected=lambda: True)
    assert connection.of(client, 3) is there
    there.connected = lambda: False
    assert connection.of(client, 3) is None
    assert asyncio.iscoroutinefunction(client._wait_on_metadata)
    assert client.cluster.leader_for_partition(TP) is None


async def test_the_identity_of_a_claim_is_that_of_the_transactions() -> None:
    transactions = TransactionManager("pinned", 15_000)
    transactions.set_pid_and_epoch(41, 3)
    log = SimpleNamespace(producer=SimpleNamespace(_txn_manager=transactions))
    assert StateLog.identity.fget(log) == (41, 3)
    transactions.begin_transaction()
    transactions.maybe_add_partition_to_txn(TP)
    assert transactions.partitions_to_add() == {TP}
    transactions.partition_added(TP)
    assert not transactions.is_empty_transaction()  # else its end would not be written anywhere


async def test_a_packed_batch_takes_its_turn_in_the_accumulator_and_gets_the_producers_numbers() -> None:
    transactions = TransactionManager("pinned", 15_000)
    transactions.set_pid_and_epoch(41, 3)
    transactions.begin_transaction()
    accumulator = MessageAccumulator(SimpleNamespace(), 1 << 20, 0, 30, txn_manager=transactions)
    first, second = (packed_batch.PackedBatch(pack([(b"k", value, [])] * 2)[0]) for value in (b"a", b"b"))
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
