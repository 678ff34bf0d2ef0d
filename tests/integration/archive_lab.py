"""What a topic of ticks holds, and what the archive holds of it, record for record."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from data_io import log_reader
from data_io.archive import layout, reader, report
from data_io.archive.layout import Place
from data_io.topics import admin

Held = dict[int, Sequence[tuple[Any, ...]]]  # partition -> offset, key, value and headers of each record


async def in_the_topic(kafka: str, topic: str, partitions: int = 2) -> Held:
    """Every committed record of the topic as it is."""
    tps = [TopicPartition(topic, number) for number in range(partitions)]
    found: dict[int, list[tuple[Any, ...]]] = {tp.partition: [] for tp in tps}
    async with log_reader.consumer(kafka) as consumer:
        async for tp, records in log_reader.read(consumer, await log_reader.held(consumer, tps)):
            found[tp.partition] += [(r.offset, r.key, r.value, tuple(r.headers)) for r in records]
    return found


async def in_the_archive(kafka: str, root: Path, topic: str, partitions: int = 2) -> Held:
    """Every record of the archive, which must have no hole."""
    topic_id = (await admin.describe(kafka, topic)).topic_id
    found: Held = {}
    for number in range(partitions):
        place = Place(topic, topic_id, number)
        files = layout.listed(place.folder(root))
        assert layout.holes(files) == []
        records = [each for file in files for each in reader.read(place, file, 0, 1 << 60)]
        found[number] = [record for each in records for record in zip(*each, strict=True)]
    return found


async def no_lag(kafka: str, root: Path, topic: str, partitions: int = 2) -> bool:
    """Whether all of the topic is in the archive."""
    found, _ = await report.status(root, kafka)
    return [each.lag for each in found if each.topic == topic] == [0] * partitions
