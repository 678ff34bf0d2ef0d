"""The archiver: reads topics of ticks and rows as they are committed and writes them to the archive.

Names of topics can change hands, ids never come back: files get their names only after a look at the topic's id that
came later than their records.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from data_io import log_reader
from data_io.archive import metrics, raw_columns, row_columns
from data_io.archive.columns import Columns
from data_io.archive.layout import ArchiveFile, Place
from data_io.archive.settings import ArchiveSettings
from data_io.archive.writer import PartitionWriter
from data_io.health_server import HealthServer
from data_io.topics import admin, rows
from data_io.topics.admin import TopicInfo
from ml_core.errors import ArchiveUnavailableError, DependencyError, InvalidSettingsError, NotFoundError, SetupError
from ml_core.spec import PipelineSpec, load_all

log = structlog.get_logger()

Result = TypeVar("Result")

LOOK_S = 10.0  # between two looks at topics and their ends
STOP_S = 10.0  # for what is read to become files
_POLL_MS = 200
_RECORDS_A_POLL = 20_000
_FETCH_BYTES = 1 << 20
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 30.0  # after something failed


@dataclass
class Trouble:
    """Why nothing of a partition is archived now."""

    text: str
    pause_s: float
    again_s: float | None  # when it is tried again; None: it is being tried


class Archiver:
    """Archives topics until it is told to stop; all of it runs in one task."""

    def __init__(self, settings: ArchiveSettings, root: Path, topics: Mapping[str, Columns]) -> None:
        """Archive ``topics`` under ``root``; nothing is contacted yet."""
        self.settings, self._root, self._topics = settings, root, topics
        self._infos: dict[str, TopicInfo] = {}  # of the topics there are
        self._writers: dict[TopicPartition, PartitionWriter] = {}
        self._troubles: dict[TopicPartition, Trouble] = {}
        self._away: str | None = "starting"
        self._looked_s = 0.0

    def problems(self) -> list[str]:
        """Return why not all is archived that should be; empty when it is. Any thread may ask."""
        away = [self._away] if self._away else []
        missing = [f"there is no topic {topic!r} yet" for topic in self._topics if topic not in self._infos]
        return [*away, *(missing if not away else []), *(each.text for each in list(self._troubles.values()))]

    async def run(self, stop: asyncio.Event) -> None:
        """Archive until ``stop`` is set; what was read by then becomes files. A Kafka that is away is waited for.

        Raises:
            SetupError: Another archiver writes there.
            ArchiveDamagedError: Two files cover the same offset.
        """
        pause_s = FIRST_PAUSE_S
        while not stop.is_set():
            try:
                await self._session(stop)
            except (DependencyError, TimeoutError) as error:
                if self._away is None:  # all was well until now
                    pause_s = FIRST_PAUSE_S
                if self._away != str(error):
                    log.warning("nothing is archived for a while", action="archive", error=str(error))
                self._away = str(error)
                await _pause(stop, pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
        for writer in self._writers.values():
            writer.close()

    async def _session(self, stop: asyncio.Event) -> None:
        """Archive until topics have changed or ``stop`` is set."""
        await self._open(await self._described())
        if not self._writers:
            self._away = None
            await _pause(stop, LOOK_S)
            return
        async with log_reader.consumer(self.settings.kafka, fetch_bytes=_FETCH_BYTES) as consumer:
            consumer.assign(list(self._writers))
            await self._place(consumer, list(self._writers))
            self._away, is_same = None, True
            while is_same and not stop.is_set():
                await self._retry(consumer)
                await self._fetch(consumer)
                is_same = await self._publish(consumer) and await self._look(consumer)
            if is_same:
                await self._publish(consumer, everything=True)

    async def _described(self) -> dict[str, TopicInfo]:
        found = {}
        for topic in self._topics:
            with suppress(NotFoundError):
                found[topic] = await admin.describe(self.settings.kafka, topic)
        return found

    async def _open(self, infos: dict[str, TopicInfo]) -> None:
        """Take over the partitions of ``infos``, and let go of those that are no more."""
        for tp, writer in list(self._writers.items()):
            if tp.topic not in infos or infos[tp.topic].topic_id != writer.place.topic_id:
                log.warning("the topic is gone or made anew", action="archive", **_named(tp), offset=writer.archived)
                await asyncio.to_thread(writer.close)
                del self._writers[tp]
                self._troubles.pop(tp, None)
        size = int(self.settings.archive_file_mb * 1_000_000)
        for topic, info in infos.items():
            for number in range(info.partitions):
                if (tp := TopicPartition(topic, number)) not in self._writers:
                    place = Place(topic, info.topic_id, number)
                    writer = await asyncio.to_thread(PartitionWriter, self._root, place, self._topics[topic], size)
                    self._writers[tp] = writer
                    log.info("partition is archived", action="archive", **_named(tp), offset=writer.archived)
        self._infos = infos

    async def _place(self, consumer: AIOKafkaConsumer, tps: Iterable[TopicPartition]) -> None:
        """Read each partition on from what is written; what is no more in the topic is lost."""
        begins, ends = await log_reader.bounds(consumer, list(tps))
        for tp, begin in begins.items():
            writer = self._writers[tp]
            offset = begin if writer.next_offset is None else writer.next_offset
            if offset > ends[tp]:
                text = f"partition {tp.partition} of {tp.topic!r} ends at {ends[tp]}, before the archived {offset}"
                self._fails(consumer, tp, f"{text}: the topic has lost records")
                continue
            if offset < begin:
                metrics.LOST.labels(tp.topic, tp.partition).inc(begin - offset)
                text = "offsets were deleted before they were archived; the archive goes on behind them"
                log.error(text, action="archive", **_named(tp), first=offset, last=begin - 1)
                offset = begin
            if await self._try(consumer, tp, partial(writer.begin, offset)) is not None:
                consumer.seek(tp, offset)

    async def _retry(self, consumer: AIOKafkaConsumer) -> None:
        """Begin again with partitions whose pause is over."""
        now_s = time.monotonic()
        for tp, trouble in list(self._troubles.items()):
            if trouble.again_s is not None and trouble.again_s <= now_s:
                trouble.again_s = None
                consumer.resume(tp)
                await self._place(consumer, [tp])
                if trouble.again_s is None and not self._writers[tp].waiting_s:
                    del self._troubles[tp]  # it was the topic's

    async def _fetch(self, consumer: AIOKafkaConsumer) -> None:
        ready = [tp for tp in self._writers if not self._is_paused(tp)]
        if not ready:
            await asyncio.sleep(_POLL_MS / 1000)
            return
        try:
            found = await consumer.getmany(*ready, timeout_ms=_POLL_MS, max_records=_RECORDS_A_POLL)
        except OffsetOutOfRangeError as error:
            await self._place(consumer, list(error.args[0]))
            return
        for tp in ready:
            writer, end = self._writers[tp], await consumer.position(tp)  # passes transaction markers too
            if end != writer.next_offset:
                await self._try(consumer, tp, partial(writer.add, found.get(tp, ()), end))
        by_size = sorted(self._writers.items(), key=lambda item: item[1].buffered_bytes)
        while sum(writer.buffered_bytes for _, writer in by_size) > self.settings.archive_memory_mb * 1_000_000:
            tp, writer = by_size.pop()
            await self._try(consumer, tp, writer.flush)

    async def _publish(self, consumer: AIOKafkaConsumer, *, everything: bool = False) -> bool:
        """Make files of what is due; False where a topic is not the one any more that was read."""
        for tp, writer in self._writers.items():
            is_due = everything or tp in self._troubles or writer.waiting_s >= self.settings.archive_flush_s
            if is_due and not self._is_paused(tp):
                await self._try(consumer, tp, writer.seal)
        sealed = {tp: writer for tp, writer in self._writers.items() if writer.has_sealed}
        for topic in {tp.topic for tp in sealed}:
            try:
                info = await admin.describe(self.settings.kafka, topic)
            except NotFoundError:
                return False
            if info.topic_id != self._infos[topic].topic_id:
                return False
        for tp, writer in sealed.items():
            files = await self._try(consumer, tp, writer.publish)
            if files is not None:
                _count(tp, files)
                if self._troubles.pop(tp, None):
                    log.info("the partition is archived again", action="archive", **_named(tp), offset=writer.archived)
        return True

    async def _look(self, consumer: AIOKafkaConsumer) -> bool:
        """Now and then measure lag and look for topics made anew, or widened; False where there are such."""
        if time.monotonic() - self._looked_s < LOOK_S:
            return True
        begins, ends = await log_reader.bounds(consumer, list(self._writers))
        for tp, writer in self._writers.items():
            archived = begins[tp] if writer.archived is None else writer.archived
            metrics.LAG.labels(tp.topic, tp.partition).set(ends[tp] - archived)
        infos = await self._described()
        self._looked_s = time.monotonic()
        return infos == self._infos

    def _is_paused(self, tp: TopicPartition) -> bool:
        return tp in self._troubles and self._troubles[tp].again_s is not None

    async def _try(self, consumer: AIOKafkaConsumer, tp: TopicPartition, call: Callable[[], Result]) -> Result | None:
        """Return what ``call`` returns in a thread; where the disk fails, the partition rests for a while."""
        try:
            return await asyncio.to_thread(call)
        except ArchiveUnavailableError as error:
            self._fails(consumer, tp, str(error))
            return None

    def _fails(self, consumer: AIOKafkaConsumer, tp: TopicPartition, text: str) -> None:
        before = self._troubles.get(tp)
        pause_s = min(2 * before.pause_s, MAX_PAUSE_S) if before else FIRST_PAUSE_S
        if before:
            before.text, before.pause_s, before.again_s = text, pause_s, time.monotonic() + pause_s
        else:
            self._troubles[tp] = Trouble(text, pause_s, time.monotonic() + pause_s)
        metrics.FAILURES.labels(tp.topic, tp.partition).inc()
        log.error("a partition is not archived", action="archive", **_named(tp), error=text, again_s=pause_s)
        consumer.pause(tp)


def run(settings: ArchiveSettings) -> None:
    """Run an archiver of all pipelines until SIGTERM or SIGINT; raises as ``Archiver.run``.

    Raises:
        SetupError: There is no folder to write to.
    """
    if settings.archive is None:
        raise InvalidSettingsError("TICKWISE_ARCHIVE is not set: name the folder of the archive")
    try:
        settings.archive.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"the folder of the archive cannot be made: {error}") from error
    if not os.access(settings.archive, os.W_OK | os.X_OK):
        raise SetupError(f"{settings.archive} cannot be written to by this user")
    topics = topics_of(load_all(settings.pipelines).values())
    asyncio.run(_run(settings, Archiver(settings, settings.archive, topics)))


def topics_of(pipelines: Iterable[PipelineSpec]) -> dict[str, Columns]:
    """Return the topics of ``pipelines`` that are archived, and as what."""
    found: dict[str, Columns] = {}
    for spec in pipelines:
        found[spec.source.topic] = raw_columns.COLUMNS
        found[rows.name(spec.feature_set)] = row_columns.COLUMNS
    return found


async def _run(settings: ArchiveSettings, archiver: Archiver) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with HealthServer(settings.archive_host, settings.archive_port, archiver.problems):
        log.info("archiver started", action="start", archive=str(settings.archive))
        work = asyncio.create_task(archiver.run(stop), name="archiver")
        asked = asyncio.create_task(stop.wait(), name="asked-to-stop")
        await asyncio.wait({work, asked}, return_when=asyncio.FIRST_COMPLETED)
        _, late = await asyncio.wait({work}, timeout=STOP_S)
        if late:
            work.cancel()  # what is no file yet is read again
        asked.cancel()
        with suppress(asyncio.CancelledError):
            await work
    log.info("archiver stopped", action="stop")


def _named(tp: TopicPartition) -> dict[str, str | int]:
    return {"topic": tp.topic, "partition": tp.partition}


def _count(tp: TopicPartition, files: list[ArchiveFile]) -> None:
    metrics.FILES.labels(tp.topic).inc(len(files))
    metrics.BYTES.labels(tp.topic).inc(sum(file.path.stat().st_size for file in files))
    metrics.OFFSETS.labels(tp.topic, tp.partition).inc(sum(file.end - file.start for file in files))


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
