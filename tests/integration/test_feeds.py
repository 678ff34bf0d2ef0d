import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from collections import Counter

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from data_io.feeds import gaps
from data_io.topics import admin
from tests.feeds_lab import Exchange, Faults, made_binance

pytestmark = pytest.mark.integration


async def values(bootstrap: str, topic: str) -> list[bytes]:
    """Return the values on ``topic``, partition by partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="none", enable_auto_commit=False)
    await consumer.start()
    try:
        places = [TopicPartition(topic, p) for p in range((await admin.describe(bootstrap, topic)).partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        found: list[bytes] = []
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=5000)).values():
                found += [record.value for record in records]
        return found
    finally:
        await consumer.stop()


async def test_a_feed_publishes_every_trade_or_its_gap_and_ends_cleanly_when_told(kafka: str, unique: str) -> None:
    topic, marks = f"feed.{unique}", f"feed.{unique}.gaps"
    withheld = frozenset(range(1100, 1110))
    faults = Faults(cuts=3, half_open=0, drop=0.02, twice=0.02, withheld=withheld)
    exchange = Exchange(made_binance(400), faults, step=10, step_s=0.02)
    async with exchange.open():
        command = [
            *("feed", "binance", "btcusdt", "--topic", topic, "--gaps", marks, "--partitions", "1", "--json"),
            *("--kafka", kafka, "--websocket", exchange.url, "--rest", exchange.url),
        ]
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "api.cli", *command, stdout=PIPE)
        try:
            await exchange.whole()
            await exchange.play()
            last = max(exchange.past)
            found: list[dict[str, object]] = []
            while not any(tick.get("seq") == last and tick["type"] == "trade" for tick in found):
                found = [json.loads(value) for value in await values(kafka, topic)]
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    assert process.returncode == 0
    trades = [tick["seq"] for tick in found if tick["type"] == "trade"]
    marked = Counter(
        i
        for gap in map(gaps.decode, await values(kafka, marks))
        if gap.kind == "trade"
        for i in range(gap.first_seq, gap.last_seq + 1)
    )
    assert trades == sorted(set(trades))
    assert sorted([*trades, *marked.elements()]) == list(range(trades[0], last + 1))
    assert set(marked) <= withheld
    assert any(tick.get("backfilled") for tick in found)
    report = json.loads(out)
    assert report["published"] == len(found)
    assert report["connections"] == 4
    assert report["missing"] == len(marked)
