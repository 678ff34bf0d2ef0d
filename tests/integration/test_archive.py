"""A real archiver process beside a real Kafka: what it keeps is the topic, however often it is killed."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pandas as pd
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from data_io.archive import raw_columns, report
from data_io.archive.archiver import Archiver
from data_io.archive.settings import ArchiveSettings
from data_io.data_fetcher.kafka_range import fetch_ranges, newest_ranges
from data_io.data_fetcher.sources import open_source
from data_io.publisher import publish
from data_io.topics import admin
from data_io.topics.ticks import TickDecoder, topic_spec
from ml_core.errors import InputError
from ml_core.types import OffsetRange
from tests.integration.archive_lab import in_the_archive, in_the_topic, no_lag

pytestmark = pytest.mark.integration

WAIT_S = 120.0  # on a machine that does much else besides
# Five archivers are killed and a sixth stays, all of one process that has imported what they need.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from api.cli import main
from data_io.archive import archiver

root, rng = Path(sys.argv[1]), random.Random(1)
for _ in range(5):
    if not (child := os.fork()):
        main(["archive", "run"])
    before = files = len(list(root.rglob("*.parquet")))
    while files == before:
        time.sleep(0.01)
        files = len(list(root.rglob("*.parquet")))
    time.sleep(rng.uniform(0.0, 0.4))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
Path(sys.argv[2]).touch()
main(["archive", "run"])
"""


@pytest.fixture
async def topic(kafka, unique):
    name = f"ticks-{unique}"
    await admin.ensure_topics(kafka, [topic_spec(name, 2)])
    return name


def started(code, *arguments, environment, log):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with log.open("wb") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)


async def until(condition):
    async with asyncio.timeout(WAIT_S):
        while not await condition():  # noqa: ASYNC110 - files tell nobody
            await asyncio.sleep(0.1)


async def test_an_archiver_that_is_killed_again_and_again_has_every_record_once(kafka, topic, unique, tmp_path):
    (tmp_path / "p.toml").write_text(
        f'name = "p"\n[source]\ntopic = "{topic}"\n[features]\nset = "set-{unique}"\nuse = ["return:1s"]\n'
    )
    root = tmp_path / "archive"
    environment = {
        **os.environ,
        "TICKWISE_KAFKA": kafka,
        "TICKWISE_ARCHIVE": str(root),
        "TICKWISE_PIPELINES": str(tmp_path / "p.toml"),
        "TICKWISE_ARCHIVE_FLUSH_S": "0.05",
        "TICKWISE_ARCHIVE_FILE_MB": "0.05",
    }

    log, over = tmp_path / "log", tmp_path / "over"
    source = open_source("synthetic:symbols=4,ticks=400000,rate=5000,seed=1")
    load = asyncio.create_task(publish(source, bootstrap=kafka, topic=topic, rate=1000))
    process = started(KILLED, root, over, environment=environment, log=log)

    async def is_over():
        return over.exists() or process.poll() is not None

    try:
        await until(is_over)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        await abort_some(kafka, topic)
        await until(lambda: no_lag(kafka, root, topic))
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, WAIT_S) == 0, log.read_text()
    finally:
        load.cancel()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
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


async def archive_all(kafka, root, topic):
    """One archiver until it has all there is, stopped as SIGTERM stops it."""
    settings = ArchiveSettings(kafka=kafka, archive_flush_s=0.1, archive_file_mb=0.02)
    archiver, stop = Archiver(settings, root, {topic: raw_columns.COLUMNS}), asyncio.Event()
    work = asyncio.create_task(archiver.run(stop))
    await until(lambda: no_lag(kafka, root, topic))
    assert archiver.problems() == []
    stop.set()
    await work


async def delete(kafka, topic, before):
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    try:
        await client.delete_records(
            {TopicPartition(topic, number): RecordsToDelete(before_offset=end) for number, end in before.items()}
        )
    finally:
        await client.close()


async def test_a_range_that_retention_has_deleted_is_read_as_before_and_a_hole_is_named(kafka, topic, tmp_path):
    decoder = TickDecoder()
    await publish(open_source("synthetic:symbols=5,ticks=1500,rate=500,seed=1"), bootstrap=kafka, topic=topic)
    await archive_all(kafka, tmp_path, topic)
    await publish(open_source("synthetic:symbols=9,ticks=1000,rate=500,seed=2"), bootstrap=kafka, topic=topic)
    newest = await newest_ranges(kafka, topic, 100_000)
    before = await fetch_ranges(kafka, topic, newest, decoder)
    archived = {each.partition: each.end for each in (await report.status(tmp_path, kafka))[0]}
    deleted = {each.partition: each.start for each in await newest_ranges(kafka, topic, 1250)}
    assert all(0 < deleted[number] < archived[number] for number in archived)

    await delete(kafka, topic, deleted)
    with pytest.raises(InputError, match="are lost"):
        await fetch_ranges(kafka, topic, newest, decoder)
    after = await fetch_ranges(kafka, topic, newest, decoder, archive=tmp_path)

    pd.testing.assert_frame_equal(after.frame, before.frame, check_exact=True)
    assert list(after.frame["symbol"].cat.categories) == list(before.frame["symbol"].cat.categories)
    assert await newest_ranges(kafka, topic, 100_000, tmp_path) == newest
    assert await newest_ranges(kafka, topic, 100_000) != newest

    holes = {number: (archived[number], archived[number] + 7) for number in archived}
    await delete(kafka, topic, {number: end for number, (_, end) in holes.items()})
    await archive_all(kafka, tmp_path, topic)

    assert {each.partition: each.holes for each in (await report.status(tmp_path, kafka))[0]} == {
        number: [hole] for number, hole in holes.items()
    }
    for number, (first, end) in holes.items():
        whole = OffsetRange(partition=number, start=0, end=end + 1)
        with pytest.raises(InputError, match=rf"offsets {first} to {end - 1} of partition {number} .* are lost"):
            await fetch_ranges(kafka, topic, [whole], decoder, archive=tmp_path)
    behind = await newest_ranges(kafka, topic, 100_000, tmp_path)
    assert {each.partition: each.start for each in behind} == {number: end for number, (_, end) in holes.items()}
