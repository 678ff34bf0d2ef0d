"""What is in the archive, and how far topics are ahead of it."""

import asyncio
from pathlib import Path
from typing import NamedTuple

from aiokafka import TopicPartition

from data_io import log_reader
from data_io.archive import layout
from data_io.archive.layout import Place
from data_io.topics import admin
from ml_core.errors import KafkaUnavailableError, NotFoundError


class PartitionStatus(NamedTuple):
    """What is archived of one partition: ``[start, end)`` but for ``holes``."""

    topic: str
    topic_id: str
    partition: int
    start: int | None
    end: int | None
    files: int
    bytes: int
    holes: list[tuple[int, int]]  # first offset, and the one after the last
    lag: int | None  # offsets in the topic that are not archived; None: no such topic any more, or Kafka is away


async def status(root: Path, bootstrap: str) -> tuple[list[PartitionStatus], str | None]:
    """Return the status of each archived partition, and why lag is not known where Kafka does not answer.

    Raises:
        ArchiveDamagedError, ArchiveUnavailableError: As ``layout.listed``.
    """
    found, why = await asyncio.to_thread(_found, root), None
    try:
        lags = await _lags(bootstrap, found)
    except KafkaUnavailableError as error:
        lags, why = {}, str(error)
    return [each._replace(lag=lags.get(_place(each))) for each in found], why


def _found(root: Path) -> list[PartitionStatus]:
    found = []
    for place in layout.places(root):
        files = layout.listed(place.folder(root))
        start, end = (files[0].start, files[-1].end) if files else (None, None)
        size = sum(file.path.stat().st_size for file in files)
        found.append(PartitionStatus(*place, start, end, len(files), size, layout.holes(files), None))
    return found


async def _lags(bootstrap: str, found: list[PartitionStatus]) -> dict[Place, int]:
    ids = {}
    for topic in {each.topic for each in found}:
        try:
            ids[topic] = (await admin.describe(bootstrap, topic)).topic_id
        except NotFoundError:
            continue
    known = {TopicPartition(each.topic, each.partition): each for each in found if ids.get(each.topic) == each.topic_id}
    if not known:
        return {}
    async with log_reader.consumer(bootstrap) as consumer:
        begins, ends = await log_reader.bounds(consumer, list(known))
    return {
        _place(each): ends[tp] - (begins[tp] if each.end is None else max(begins[tp], each.end))
        for tp, each in known.items()
    }


def _place(each: PartitionStatus) -> Place:
    return Place(each.topic, each.topic_id, each.partition)
