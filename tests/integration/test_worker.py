"""The worker on a real Kafka: rows equal the offline kernel's, bad records stay alone, crashes change nothing."""

import asyncio

import pytest
from aiokafka import AIOKafkaProducer

from streams.transport.published import of_predictions, published
from tests.integration.worker_lab import stop

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

SOURCE = "synthetic:symbols=12,ticks={ticks},rate=500,seed=3"


async def test_live_rows_equal_rows_recomputed_from_the_topic_bit_for_bit(lab) -> None:
    spec = lab.pipeline("parity")
    count = await lab.publish(SOURCE.format(ticks=20_000))

    process = lab.start(spec)
    live = await lab.until_rows(spec, count)

    assert live == await lab.expected_rows(spec)
    assert stop(process) == 0


async def test_exactly_once_a_reader_of_committed_data_sees_every_row_once_whoever_was_killed(lab) -> None:
    spec = lab.pipeline("once")
    for turn in range(3):
        seen = len(await lab.committed_rows(spec))
        publishing = asyncio.create_task(lab.publish(SOURCE.format(ticks=8_000).replace("seed=3", f"seed={turn}")))
        process = lab.start(spec, instance="a", delivery="exactly_once", checkpoint_s="0.2")
        await lab.until(lambda seen=seen: _more_committed(lab, spec, seen))
        await publishing
        if turn < 2:
            process.kill()
            process.wait(10)
    expected = await lab.expected_rows(spec)

    found = await lab.until(lambda: _more_committed(lab, spec, len(expected) - 1))

    assert sorted(found) == sorted(expected)
    assert stop(process) == 0


async def test_the_end_of_a_topic_is_found_behind_aborted_records_and_the_ends_of_transactions(lab) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=lab.kafka, transactional_id=f"end-{lab.unique}")
    await producer.start()
    try:
        for offset, ends in ((7, producer.commit_transaction), (9, producer.abort_transaction)):
            await producer.begin_transaction()
            await producer.send_and_wait(lab.topic, b'{"id":"a-b-0-%d-0"}' % offset, partition=0)
            await ends()
    finally:
        await producer.stop()

    topics = {lab.topic: of_predictions}

    async def whole():  # the end of a transaction is written a while after it was asked for
        found = await published(lab.kafka, topics, 0, "a-b")
        return found if found[lab.topic].end == 4 else None

    assert await lab.until(whole) == {lab.topic: ((7, 0), 4, 0)}
    assert await published(lab.kafka, topics, 0, "another") == {lab.topic: (None, 4, 0)}
    assert await published(lab.kafka, topics, 0, "a-b", begins={lab.topic: 1}) == {lab.topic: (None, 4, 0)}
    assert await published(lab.kafka, topics, 0, "a-b", begins={lab.topic: 5}) == {lab.topic: ((7, 0), 4, 0)}
    assert await published(lab.kafka, topics, 1, "a-b") == {lab.topic: (None, 0, 0)}


async def _more_committed(lab, spec, count):
    found = await lab.committed_rows(spec)
    return found if len(found) > count else None


async def test_a_topic_with_other_field_names_is_read_through_a_map(lab) -> None:
    mapping = {"ts": "$.data.T:ms", "symbol": "$.data.s", "price": "$.data.p", "size": "$.data.q"}
    spec = lab.pipeline("mapped", source={"topic": lab.topic, "map": mapping})
    value = b'{"stream":"x","data":{"e":"trade","T":1700000000123,"s":"BTCUSDT","p":"61000.10","q":"0.5","m":true}}'
    await lab.send(*[(b"BTCUSDT", value)] * 3)

    lab.start(spec)
    live = await lab.until_rows(spec, 3)

    assert live == await lab.expected_rows(spec)


async def test_two_workers_share_the_partitions_and_one_takes_over_when_the_other_stops(lab) -> None:
    spec = lab.pipeline("shared")
    first, second = lab.start(spec), lab.start(spec)
    await lab.until(lambda: all("partition taken over" in lab.log(number) for number in (0, 1)))
    await lab.publish(SOURCE.format(ticks=6_000))
    await lab.until_rows(spec, 6_000)
    assert stop(first) == 0
    await lab.publish(SOURCE.format(ticks=6_000).replace("seed=3", "seed=9"))

    expected = await lab.expected_rows(spec)

    assert await lab.until_rows(spec, len(expected)) == expected
    assert stop(second) == 0
