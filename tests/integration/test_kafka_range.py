import asyncio
import json
import time

import numpy as np
import pandas as pd
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from data_io.data_fetcher.gap_range import with_marks
from data_io.data_fetcher.kafka_range import Fetched, fetch_ranges, newest_ranges, within_span
from data_io.data_fetcher.sources import open_source
from data_io.feeds import gaps
from data_io.feeds.gaps import Gap
from data_io.publisher import publish
from data_io.topics.admin import ensure_topics
from data_io.topics.ticks import TickDecoder, topic_spec
from ml_core import frames
from ml_core.data_processor.gap_marks import GapMark
from ml_core.errors import InputError, KafkaUnavailableError, NotEnoughDataError, NotFoundError
from ml_core.types import SECOND_NS, OffsetRange

DECODER = TickDecoder()


def tick(ts_ns: int, symbol: str = "A", price: float = 10.0) -> bytes:
    return json.dumps({"type": "trade", "symbol": symbol, "ts": ts_ns, "price": price, "size": 1.0}).encode()


def part(start: int, end: int, partition: int = 0) -> OffsetRange:
    return OffsetRange(partition=partition, start=start, end=end)


@pytest.fixture
async def topic(kafka, unique):
    name = f"ticks-{unique}"
    await ensure_topics(kafka, [topic_spec(name, 3)])
    return name


@pytest.fixture
def send(kafka, topic):
    async def send(values, *, partition=0, transactional_id=None, commit=True):
        producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=transactional_id)
        await producer.start()
        try:
            if transactional_id:
                await producer.begin_transaction()
            for value in values:
                await producer.send_and_wait(topic, value, partition=partition)
            if transactional_id:
                await (producer.commit_transaction() if commit else producer.abort_transaction())
        finally:
            await producer.stop()

    return send


@pytest.mark.integration
async def test_exactly_the_offsets_asked_for_are_read(kafka, topic, send):
    await send([tick(ts) for ts in range(10)])
    await send([tick(ts, "B") for ts in range(100, 105)], partition=2)

    fetched = await fetch_ranges(kafka, topic, [part(3, 7), part(1, 5, partition=2)], DECODER)

    frames.check(fetched.frame)
    assert fetched.frame["ts_ns"].tolist() == [3, 4, 5, 6, 101, 102, 103, 104]
    assert fetched.frame["offset"].tolist() == [3, 4, 5, 6, 1, 2, 3, 4]
    assert fetched.frame["partition"].tolist() == [0] * 4 + [2] * 4
    assert fetched.frame["symbol"].tolist() == ["A"] * 4 + ["B"] * 4
    assert (fetched.ranges, fetched.rejected) == ((part(3, 7), part(1, 5, partition=2)), {})


@pytest.mark.integration
async def test_what_is_no_tick_is_counted_by_reason_and_its_neighbours_are_read(kafka, topic, send):
    await send([tick(1), b"{", b'{"type": "trade"}', tick(4, price=-1.0), b"", tick(6)])

    fetched = await fetch_ranges(kafka, topic, [part(0, 6)], DECODER)

    assert fetched.frame["offset"].tolist() == [0, 5]
    assert sum(fetched.rejected.values()) == 4
    assert fetched.rejected["not_positive:price"] == 1


@pytest.mark.integration
async def test_the_gaps_marked_in_the_time_of_the_ticks_are_read_and_later_ones_change_no_earlier_answer(
    kafka, topic, send, unique
):
    name = f"gaps-{unique}"
    now_ns = time.time_ns()
    await send([tick(now_ns + i) for i in range(100, 200)])
    fetched = await fetch_ranges(kafka, topic, [part(0, 100)], DECODER)
    assert await with_marks(kafka, name, fetched) is fetched, "there is no such topic"
    await ensure_topics(kafka, [gaps.topic_spec(2)._replace(name=name)])
    assert (await with_marks(kafka, name, fetched)).mark_ranges == ()

    async def mark(*each):
        producer = AIOKafkaProducer(bootstrap_servers=kafka)
        await producer.start()
        for partition, value in each:
            await producer.send_and_wait(name, value, partition=partition)
        await producer.stop()

    def gap(first, last):
        return gaps.encode(Gap("A", "trade", now_ns + first, now_ns + last, "refused"))[1]

    await mark((0, gap(50, 120)), (0, gap(10, 99)), (1, b"{"), (1, gap(199, 300)), (1, gap(200, 300)))
    marked = await with_marks(kafka, name, fetched)
    await mark((0, gap(150, 160)))

    assert marked.marks == (GapMark("A", now_ns + 50, now_ns + 120), GapMark("A", now_ns + 199, now_ns + 300))
    assert marked.mark_ranges == (part(0, 2), part(0, 3, partition=1))
    assert await with_marks(kafka, name, fetched, marked.mark_ranges) == marked
    assert len((await with_marks(kafka, name, fetched)).marks) == 3
    late = fetched._replace(frame=fetched.frame.assign(ts_ns=fetched.frame["ts_ns"] + 3600 * SECOND_NS))
    assert (await with_marks(kafka, name, late)).mark_ranges == (), "what came an hour before is not read"
    with pytest.raises(InputError, match="holds offsets 0 to 2; the marks of the gaps in these ticks stand in 0 to 8"):
        await with_marks(kafka, name, fetched, [part(0, 9)])


async def until_stable(kafka: str, topic: str, offset: int) -> None:
    tp = TopicPartition(topic, 0)
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, isolation_level="read_committed")
    await consumer.start()
    try:
        async with asyncio.timeout(30):
            while (await consumer.end_offsets([tp]))[tp] < offset:  # noqa: ASYNC110 - Kafka tells nobody
                await asyncio.sleep(0.02)
    finally:
        await consumer.stop()


@pytest.mark.integration
async def test_ticks_of_aborted_transactions_are_left_out_and_markers_are_no_holes(kafka, topic, send, unique):
    await send([tick(10)])
    await send([tick(11), tick(12)], transactional_id=f"aborts-{unique}", commit=False)  # marker at 3
    await until_stable(kafka, topic, 4)  # Kafka answers before it has written the marker
    await send([tick(14)], transactional_id=f"commits-{unique}")  # marker at 5

    fetched = await fetch_ranges(kafka, topic, [part(0, 6)], DECODER)
    assert fetched.frame["ts_ns"].tolist() == [10, 14]
    with pytest.raises(NotEnoughDataError, match="hold no ticks; refused: nothing"):
        await fetch_ranges(kafka, topic, [part(1, 4)], DECODER)


@pytest.mark.integration
async def test_a_range_that_is_not_there_is_named(kafka, topic, send):
    await send([tick(ts) for ts in range(5)])

    with pytest.raises(NotEnoughDataError, match=r"\[3, 3\) of partition 0 .* is empty"):
        await fetch_ranges(kafka, topic, [part(3, 3)], DECODER)
    with pytest.raises(NotEnoughDataError, match="no range"):
        await fetch_ranges(kafka, topic, [], DECODER)
    with pytest.raises(InputError, match="ends at offset 5, before the asked 9"):
        await fetch_ranges(kafka, topic, [part(0, 9)], DECODER)
    with pytest.raises(InputError, match="partitions 0 to 2, so there is none of number 7"):
        await fetch_ranges(kafka, topic, [part(0, 5, partition=7)], DECODER)
    with pytest.raises(InputError, match=r"partition 0 .* is named twice"):
        await fetch_ranges(kafka, topic, [part(0, 2), part(2, 4)], DECODER)
    with pytest.raises(InputError, match="hold 5 offsets, at most 4"):
        await fetch_ranges(kafka, topic, [part(0, 5)], DECODER, limit=4)


@pytest.mark.integration
async def test_offsets_that_retention_has_deleted_are_named(kafka, topic, send):
    await send([tick(ts) for ts in range(8)])
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=5)})
    finally:
        await admin.close()

    with pytest.raises(InputError, match=r"offsets 2 to 4 of partition 0 .* are lost: .* begins at 5"):
        await fetch_ranges(kafka, topic, [part(2, 7)], DECODER)
    assert (await fetch_ranges(kafka, topic, [part(5, 8)], DECODER)).frame["ts_ns"].tolist() == [5, 6, 7]


@pytest.mark.integration
async def test_an_unknown_or_empty_topic_and_a_kafka_that_is_away_are_told_apart(kafka, topic, unique):
    with pytest.raises(NotFoundError, match=f"nothing-{unique}"):
        await fetch_ranges(kafka, f"nothing-{unique}", [part(0, 1)], DECODER)
    with pytest.raises(NotEnoughDataError, match="holds no ticks"):
        await newest_ranges(kafka, topic, 100)
    with pytest.raises(KafkaUnavailableError):
        await fetch_ranges("127.0.0.1:1", topic, [part(0, 1)], DECODER)


@pytest.mark.integration
async def test_the_newest_ticks_are_shared_out_over_the_partitions(kafka, topic, send):
    await send([tick(ts) for ts in range(30)])
    await send([tick(ts, "B") for ts in range(10)], partition=1)

    assert await newest_ranges(kafka, topic, 1000) == (part(0, 30), part(0, 10, partition=1))
    assert await newest_ranges(kafka, topic, 20) == (part(15, 30), part(5, 10, partition=1))


@pytest.mark.integration
async def test_a_published_source_comes_back_equal(kafka, topic):
    source = open_source("synthetic:symbols=3,ticks=30000,rate=500,seed=1")
    await publish(source, bootstrap=kafka, topic=topic)

    fetched = await fetch_ranges(kafka, topic, await newest_ranges(kafka, topic, 100_000), DECODER)

    assert len(fetched.frame) == 30_000
    for symbol, expected in source.fetch().groupby("symbol", observed=True):
        found = fetched.frame[fetched.frame["symbol"] == symbol]
        for column in ("ts_ns", "price", "size", "bid", "ask", "bid_size", "ask_size", "side"):
            np.testing.assert_array_equal(found[column], expected[column], err_msg=f"{symbol} {column}")


def some(ts_ns: list[int], partition: int = 0) -> pd.DataFrame:
    frame = frames.build(ts_ns=np.array(ts_ns), symbol=pd.Categorical(["A"] * len(ts_ns)), kind=0, price=1.0, size=1.0)
    frame["partition"] = np.full(len(ts_ns), partition, np.int32)
    frame["offset"] = np.arange(len(ts_ns), dtype=np.int64)
    return frame


def test_the_last_span_begins_at_the_first_young_tick_of_each_partition():
    seconds = [0, 50, 100, 40, 101]
    frame = pd.concat([some([second * SECOND_NS for second in seconds]), some([0, 10], partition=1)], ignore_index=True)
    fetched = Fetched(frame, (part(0, 5), part(0, 2, partition=1)), {"bad_json": 1})

    cut = within_span(fetched, 50 * SECOND_NS)

    # 101 - 50: offset 1 (50) is too old, 2 (100) is not; the late one at 40 came after it and stays
    assert (cut.frame["ts_ns"] // SECOND_NS).tolist() == [100, 40, 101]
    assert (cut.ranges, cut.rejected) == ((part(2, 5),), {"bad_json": 1})


def test_one_tick_from_the_future_does_not_hide_the_others():
    ts_ns = [*range(0, 2000 * SECOND_NS, SECOND_NS), 10**18]
    cut = within_span(Fetched(some(ts_ns), (part(0, 2001),), {}), 1000 * SECOND_NS)
    assert len(cut.frame) == pytest.approx(1000, abs=5)


def test_no_tick_has_no_last_span():
    with pytest.raises(NotEnoughDataError):
        within_span(Fetched(some([]), (), {}), SECOND_NS)
