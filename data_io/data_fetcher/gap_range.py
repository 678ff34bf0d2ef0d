"""What feeds have marked as missing of some ticks: read from the topic of gaps, as far as it can concern them."""

from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import DecodeError

from data_io import log_reader
from data_io.data_fetcher.kafka_range import Fetched
from data_io.feeds import gaps
from data_io.topics import admin
from ml_core.data_processor.gap_marks import GapMark
from ml_core.errors import InputError, NotFoundError
from ml_core.types import OffsetRange

log = structlog.get_logger()

_SLACK_MS = 60_000  # a mark comes behind the gap it tells of, by the clock of another machine


async def with_marks(
    bootstrap: str, topic: str, fetched: Fetched, ranges: Sequence[OffsetRange] | None = None
) -> Fetched:
    """Return ``fetched`` with the gaps that are marked in its time, and the offsets that they were read from.

    Args:
        bootstrap: Kafka.
        topic: Topic of gaps; empty, or not there, it has no marks.
        fetched: Ticks.
        ranges: Read exactly these; None: whatever came since the first of the ticks.

    Raises:
        InputError, NotFoundError: The topic does not hold ``ranges``. A retry will not help.
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
    """
    if not topic or fetched.frame.empty or (ranges is not None and not ranges):
        return fetched
    first_ns, last_ns = int(fetched.frame["ts_ns"].min()), int(fetched.frame["ts_ns"].max())
    marks: list[GapMark] = []
    try:
        partitions = (await admin.describe(bootstrap, topic)).partitions
    except NotFoundError:
        if ranges is None:
            return fetched
        raise
    async with log_reader.consumer(bootstrap) as consumer:
        if ranges is None:
            held = await log_reader.held(consumer, [TopicPartition(topic, number) for number in range(partitions)])
            since_ms = max(0, first_ns // 10**6 - _SLACK_MS)
            wanted = await log_reader.arrived(consumer, held, since_ms, None) if held else {}
        else:
            wanted = {TopicPartition(topic, each.partition): each for each in ranges}
            await _check_held(consumer, wanted)
        async for tp, records in log_reader.read(consumer, wanted):
            for record in records:
                try:
                    gap = gaps.decode(record.value or b"")
                except DecodeError as error:
                    log.warning("no gap", action="fetch", topic=topic, partition=tp.partition, error=str(error))
                    continue
                if gap.to_ns >= first_ns and gap.from_ns <= last_ns:
                    marks.append(GapMark(gap.symbol, gap.from_ns, gap.to_ns))
    return fetched._replace(marks=tuple(sorted(marks)), mark_ranges=tuple(wanted.values()))


async def _check_held(consumer: AIOKafkaConsumer, wanted: dict[TopicPartition, OffsetRange]) -> None:
    begins, ends = await log_reader.bounds(consumer, list(wanted))
    for tp, each in wanted.items():
        if each.start < begins[tp] or each.end > ends[tp]:
            raise InputError(
                f"partition {tp.partition} of {tp.topic!r} holds offsets {begins[tp]} to {ends[tp] - 1}; the marks of "
                f"the gaps in these ticks stand in {each.start} to {each.end - 1}"
            )
