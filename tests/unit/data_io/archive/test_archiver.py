"""What the archiver does when topics, disk or Kafka are not as they should be."""

import asyncio
import errno
import os
from collections import defaultdict
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from data_io.archive import archiver as module
from data_io.archive import layout, metrics, raw_columns, reader, row_columns
from data_io.archive.archiver import Archiver, topics_of
from data_io.archive.layout import Place
from data_io.archive.settings import ArchiveSettings
from data_io.topics.admin import TopicInfo
from ml_core.errors import (
    ArchiveUnavailableError,
    InvalidSettingsError,
    KafkaUnavailableError,
    NotFoundError,
    SetupError,
)
from ml_core.spec import parse
from tests.unit.data_io.archive.archive_lab import record

TOPIC = "ticks"
ZERO, ONE = (TopicPartition(TOPIC, number) for number in (0, 1))


class Broker:
    """One topic, and the only consumer it has."""

    def __init__(self):
        self.is_away, self.id, self.begin = False, "id-1", 0
        self.log = {ZERO: [], ONE: []}
        self.positions, self.paused = {}, set()

    def add(self, tp, count, size=3):
        for _ in range(count):
            end = self.ends[tp]
            self.log[tp].append(record(end, b"%d" % end * size))

    @property
    def ends(self):
        return {tp: records[-1].offset + 1 if records else self.begin for tp, records in self.log.items()}

    def made_anew(self):
        self.id, self.begin, self.log = f"id-{int(self.id[3:]) + 1}", 0, {ZERO: [], ONE: []}

    async def describe(self, _bootstrap, topic):
        if self.is_away:
            raise KafkaUnavailableError("Kafka does not answer")
        if self.id == "id-0":
            raise NotFoundError(topic)
        return TopicInfo(self.id, len(self.log))

    async def bounds(self, _consumer, tps):
        return dict.fromkeys(tps, self.begin), {tp: self.ends[tp] for tp in tps}

    @asynccontextmanager
    async def consumer(self, _bootstrap, **_):
        yield self

    def assign(self, tps):
        self.positions = dict.fromkeys(tps)

    def seek(self, tp, offset):
        self.positions[tp] = offset

    def pause(self, tp):
        self.paused.add(tp)

    def resume(self, tp):
        self.paused.discard(tp)

    async def position(self, tp):
        return self.positions[tp]

    async def getmany(self, *tps, timeout_ms, max_records):
        await asyncio.sleep(0.005)
        assert not self.paused & set(tps)
        if lost := {tp: self.positions[tp] for tp in tps if self.positions[tp] < self.begin}:
            raise OffsetOutOfRangeError(lost)
        found = {tp: [r for r in self.log[tp] if r.offset >= self.positions[tp]][:max_records] for tp in tps}
        for tp in tps:
            self.positions[tp] = found[tp][-1].offset + 1 if found[tp] else self.positions[tp]
        return found


@pytest.fixture
def broker(monkeypatch):
    broker = Broker()
    monkeypatch.setattr(module.admin, "describe", broker.describe)
    monkeypatch.setattr(module.log_reader, "bounds", broker.bounds)
    monkeypatch.setattr(module.log_reader, "consumer", broker.consumer)
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "LOOK_S", 0.05)
    return broker


@asynccontextmanager
async def archiving(root, flush_s=0.02, **settings):
    archiver, stop = (
        Archiver(ArchiveSettings(archive_flush_s=flush_s, **settings), root, {TOPIC: raw_columns.COLUMNS}),
        asyncio.Event(),
    )
    work = asyncio.create_task(archiver.run(stop))
    try:
        yield archiver
    finally:
        stop.set()
        await work


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a thread writes
            await asyncio.sleep(0.01)


def archived(root, topic_id="id-1"):
    """Values of each partition that has any."""
    found = defaultdict(list)
    for number in (0, 1):
        place = Place(TOPIC, topic_id, number)
        for file in layout.listed(place.folder(root)):
            for records in reader.read(place, file, 0, 1 << 60):
                found[number] += records.value
    return found


def values(broker):
    return {tp.partition: [each.value for each in log] for tp, log in broker.log.items() if log}


async def test_what_is_read_by_the_stop_becomes_files(broker, tmp_path):
    broker.add(ZERO, 5)
    broker.add(ONE, 3)
    async with archiving(tmp_path, flush_s=1000) as archiver:
        await until(lambda: not archiver.problems() and broker.positions == broker.ends)
    assert archived(tmp_path) == values(broker)


async def test_offsets_deleted_before_they_were_archived_are_counted_and_named_and_left_out(broker, tmp_path, capsys):
    before = metrics.LOST.labels(TOPIC, 0)._value.get()
    broker.add(ZERO, 5)
    async with archiving(tmp_path):
        await until(lambda: archived(tmp_path) == values(broker))
        broker.begin = 100
        broker.log[ONE] = []
        broker.log[ZERO] = [record(100), record(101)]
        await until(lambda: archived(tmp_path)[0][5:] == [b"100", b"101"])

    assert layout.holes(layout.listed(Place(TOPIC, "id-1", 0).folder(tmp_path))) == [(5, 100)]
    assert metrics.LOST.labels(TOPIC, 0)._value.get() - before == 95
    said = capsys.readouterr().out
    assert "offsets were deleted before they were archived" in said
    assert "first=5" in said
    assert "last=99" in said


async def test_a_disk_that_is_full_is_told_of_and_archiving_goes_on_when_it_is_not(broker, tmp_path, monkeypatch):
    broker.add(ZERO, 5)
    broker.add(ONE, 5)
    async with archiving(tmp_path) as archiver:
        await until(lambda: archived(tmp_path) == values(broker))
        sync, full = os.fsync, Place(TOPIC, "id-1", 1).folder(tmp_path)

        def fsync(descriptor):
            if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(full):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        broker.add(ZERO, 5)
        broker.add(ONE, 5)
        await until(archiver.problems)
        [problem] = archiver.problems()
        assert problem.startswith("offsets from 5 on of partition 1 of 'ticks' are not archived: [Errno 28] No space")
        await until(lambda: len(archived(tmp_path)[0]) == 10)
        assert len(archived(tmp_path)[1]) == 5
        await until(lambda: broker.paused == {ONE})  # nothing more of it is held in memory

        monkeypatch.setattr(os, "fsync", sync)
        await until(lambda: not archiver.problems())
        assert archived(tmp_path) == values(broker)


async def test_what_failed_becomes_a_file_as_soon_as_the_disk_takes_it(broker, tmp_path, monkeypatch):
    monkeypatch.setattr("data_io.archive.writer.GROUP_BYTES", 1)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    broker.add(ZERO, 5)
    async with archiving(tmp_path, flush_s=1000) as archiver:
        with monkeypatch.context() as patch:
            patch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
            await until(lambda: "No space" in "".join(archiver.problems()))
        await until(lambda: not archiver.problems())
        assert archived(tmp_path) == values(broker)


async def test_records_of_a_topic_made_anew_are_not_taken_for_those_of_the_old_one(broker, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 1e9)  # only the look before files get their names is left
    broker.add(ZERO, 3)
    async with archiving(tmp_path, flush_s=0.3) as archiver:
        await until(lambda: broker.positions == broker.ends and not archiver.problems())
        broker.made_anew()
        broker.add(ZERO, 9, size=2)  # the consumer reads on at 3, as if nothing had been
        await until(lambda: archived(tmp_path, "id-2") == values(broker))

    assert archived(tmp_path, "id-1") == {}


async def test_a_topic_that_ends_before_what_is_archived_is_told_of_and_nothing_is_written(broker, tmp_path):
    broker.add(ZERO, 9)
    async with archiving(tmp_path):
        await until(lambda: archived(tmp_path) == values(broker))
    del broker.log[ZERO][4:]
    async with archiving(tmp_path) as archiver:
        await until(lambda: "starting" not in archiver.problems() and archiver.problems())
        assert archiver.problems() == [
            "partition 0 of 'ticks' ends at 4, before the archived 9: the topic has lost records"
        ]
        broker.add(ZERO, 7)
        await until(lambda: not archiver.problems())
        await until(lambda: len(archived(tmp_path)[0]) == 11)


async def test_a_kafka_that_is_away_and_a_topic_that_is_not_there_yet_are_waited_for(broker, tmp_path):
    broker.is_away, broker.id = True, "id-0"
    async with archiving(tmp_path) as archiver:
        await until(lambda: archiver.problems() == ["Kafka does not answer"])
        broker.is_away = False
        await until(lambda: archiver.problems() == ["there is no topic 'ticks' yet"])
        broker.made_anew()
        broker.add(ONE, 4)
        await until(lambda: not archiver.problems())
        await until(lambda: archived(tmp_path) == values(broker))


async def test_records_in_memory_are_bounded_over_all_partitions(broker, tmp_path):
    most = 0
    for tp in (ZERO, ONE):
        broker.log[tp] = [record(offset, os.urandom(500_000)) for offset in range(24)]
    async with archiving(tmp_path, flush_s=1000, archive_memory_mb=16) as archiver:

        def all_read():
            nonlocal most
            most = max(most, sum(each.buffered_bytes for each in archiver._writers.values()))
            return broker.positions == broker.ends

        await until(all_read)
        await asyncio.sleep(0.05)
        assert sum(each.buffered_bytes for each in archiver._writers.values()) <= 16e6
    assert archived(tmp_path) == values(broker)


async def test_a_folder_that_cannot_be_made_is_a_problem_and_tried_again(broker, tmp_path, monkeypatch):
    broker.add(ZERO, 2)
    with monkeypatch.context() as patch:

        def full(*_):
            raise ArchiveUnavailableError("no space")

        patch.setattr(module, "PartitionWriter", full)
        async with archiving(tmp_path) as archiver:
            await until(lambda: archiver.problems() == ["no space"])
            patch.undo()
            await until(lambda: archived(tmp_path) == values(broker))


def test_an_archiver_without_a_folder_to_write_to_ends_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSettingsError, match="TICKWISE_ARCHIVE is not set"):
        module.run(ArchiveSettings(archive=None))
    with pytest.raises(SetupError, match="cannot be made"):
        module.run(ArchiveSettings(archive=tmp_path / "file"))


def test_ticks_and_rows_of_all_pipelines_are_archived():
    one, two = (parse({"name": name, "features": {"set": "basic"}}) for name in ("one", "two"))
    assert topics_of([one, two]) == {
        "market.ticks.v1": raw_columns.COLUMNS,
        "features.basic.v1": row_columns.COLUMNS,
    }
