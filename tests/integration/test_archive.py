"""A real archiver process beside a real Kafka: what it keeps is the topic, however often it is killed."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from data_io import log_reader
from data_io.archive import layout, raw_columns, reader, report
from data_io.archive.archiver import Archiver
from data_io.archive.layout import Place
from data_io.archive.settings import ArchiveSettings
from data_io.data_fetcher.kafka_range import fetch_ranges, newest_ranges
from data_io.data_fetcher.sources import open_source
from data_io.publisher import publish
from data_io.topics import admin, rows, ticks
from data_io.topics.ticks import TickDecoder, topic_spec
from ml_core.errors import InputError
from ml_core.types import OffsetRange

pytestmark = pytest.mark.integration

KILLS = 6
WAIT_S = 60.0


@pytest.fixture
async def topic(kafka, unique):
    name = f"ticks-{unique}"
    await admin.ensure_topics(kafka, [topic_spec(name, 2), rows.topic_spec(f"set-{unique}", 1)])
    return name


async def in_the_topic(kafka, topic, partitions=2):
    """Every committed record of the topic as it is."""
    tps = [TopicPartition(topic, number) for number in range(partitions)]
    found = {tp.partition: [] for tp in tps}
    async with log_reader.consumer(kafka) as consumer:
        async for tp, records in log_reader.read(consumer, await log_reader.held(consumer, tps)):
            found[tp.partition] += [(r.offset, r.key, r.value, tuple(r.headers)) for r in records]
    return found


async def in_the_archive(kafka, root, topic, partitions=2):
    topic_id, found = (await admin.describe(kafka, topic)).topic_id, {}
    for number in range(partitions):
        place = Place(topic, topic_id, number)
        files = layout.listed(place.folder(root))
        assert layout.gaps(files) == []
        records = [each for file in files for each in reader.read(place, file, 0, 1 << 60)]
        found[number] = [record for each in records for record in zip(*each, strict=True)]
    return found


async def until(condition):
    async with asyncio.timeout(WAIT_S):
        while not await condition():  # noqa: ASYNC110 - files tell nobody
            await asyncio.sleep(0.1)


async def test_an_archiver_that_is_killed_again_and_again_has_every_record_once(kafka, topic, unique, tmp_path):
    (tmp_path / "p.toml").write_text(
        f'name = "p"\n[source]\ntopic = "{topic}"\n[features]\nset = "set-{unique}"\nuse = ["return:1s"]\n'
    )
    root, rng = tmp_path / "archive", random.Random(1)
    environment = {
        **os.environ,
        "TICKWISE_KAFKA": kafka,
        "TICKWISE_ARCHIVE": str(root),
        "TICKWISE_PIPELINES": str(tmp_path / "p.toml"),
        "TICKWISE_ARCHIVE_FLUSH_S": "0.2",
        "TICKWISE_ARCHIVE_FILE_MB": "0.05",
    }

    def start():
        with (tmp_path / "log").open("ab") as log:
            command = [sys.executable, "-m", "api.cli", "archive", "run"]
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def files():
        return len(list(root.rglob("*.parquet")))

    async def more_files_than(count):
        assert process.poll() is None, (tmp_path / "log").read_text()
        return files() > count

    load = asyncio.create_task(
        publish(
            open_source("synthetic:symbols=4,ticks=400000,rate=5000,seed=1"), bootstrap=kafka, topic=topic, rate=3000
        )
    )
    try:
        for _ in range(KILLS):
            process, before = start(), files()
            await until(lambda before=before: more_files_than(before))
            await asyncio.sleep(rng.uniform(0.0, 0.4))
            process.kill()
            process.wait(10)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        await abort_some(kafka, topic)
        process = start()
        await until(lambda: no_lag(kafka, root, topic))
        second = start()
        assert second.wait(WAIT_S) == 2
        assert "another archiver" in (tmp_path / "log").read_text()
    finally:
        load.cancel()
        process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert await in_the_archive(kafka, root, topic) == await in_the_topic(kafka, topic)
    assert list(root.rglob("*.tmp")) == []


async def abort_some(kafka, topic):
    """Records that no reader of committed data sees, then one with headers that is seen."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=f"aborts-{topic}")
    await producer.start()
    try:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted", partition=0)
        await producer.abort_transaction()
        async with producer.transaction():
            headers = [("a", b"1"), ("a", b""), ("b", None)]
            await producer.send_and_wait(topic, b"\x00\xff", key=b"\xfe", partition=0, headers=headers)
    finally:
        await producer.stop()


async def no_lag(kafka, root, topic):
    found, _ = await report.status(root, kafka)
    return [each.lag for each in found if each.topic == topic] == [0, 0]
