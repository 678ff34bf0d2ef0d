"""How far the outputs of a partition reach: the newest tick that the last record of each topic names."""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from data_io.topics import bars, dead_letters, late_ticks, predictions, rows
from ml_core.errors import InputError, KafkaUnavailableError
from streams.transport.tails import WHOLE_RECORD, Place

PlaceOf = Callable[[ConsumerRecord], Place | None]  # None, or an InputError, of what tells of no tick


class Out(NamedTuple):
    """What stands in one output topic."""

    place: Place | None  # of the tick that its last record tells of; None where there is none
    end: int  # of the log: behind everything that was ever written to it


async def published(
    bootstrap: str,
    topics: Mapping[str, PlaceOf],
    partition: int,
    begins: Mapping[str, int] | None = None,
    *,
    timeout_s: float = 20.0,
) -> dict[str, Out]:
    """Return how far ``partition`` of each of ``topics`` reaches, of what is committed.

    Args:
        bootstrap: Servers of Kafka.
        topics: How the place of a tick is read of a record of each.
        partition: Of all topics.
        begins: Topic -> offset in its log; what lies below is of no interest.
        timeout_s: Of all together.

    Raises:
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="latest",
        isolation_level="read_committed",
        fetch_max_wait_ms=10,  # behind the end of a transaction nothing follows, and that is waited for
    )
    tps = {topic: TopicPartition(topic, partition) for topic in topics}
    found: dict[str, Out] = {}
    try:
        async with asyncio.timeout(timeout_s):
            await consumer.start()
            consumer.assign(list(tps.values()))
            ends = await consumer.end_offsets(list(tps.values()))
            oldest = await consumer.beginning_offsets(list(tps.values()))
            for topic, place_of in topics.items():
                tp = tps[topic]
                begin = max(oldest[tp], (begins or {}).get(topic, 0))
                found[topic] = Out(await _last_place(consumer, tp, begin, ends[tp], place_of), ends[tp])
    except (TimeoutError, KafkaError) as error:
        raise KafkaUnavailableError(f"cannot read the end of {', '.join(topics)}: {error!r}") from error
    finally:
        await consumer.stop()
    return found


async def _last_place(
    consumer: AIOKafkaConsumer, tp: TopicPartition, begin: int, end: int, place_of: PlaceOf
) -> Place | None:
    """Return what the last record in ``[begin, end)`` that tells of a tick says; an end of a transaction is none."""
    back, upper = 1, end
    while upper > begin:
        start = max(begin, end - back)
        consumer.seek(tp, start)
        records: list[ConsumerRecord] = []
        while await consumer.position(tp) < upper:
            records += (await consumer.getmany(tp, timeout_ms=20)).get(tp, ())
        for record in reversed(records):
            place = _place(record, place_of) if record.offset < upper else None
            if place is not None:
                return place
        upper, back = start, back * 16
    return None


def _place(record: ConsumerRecord, place_of: PlaceOf) -> Place | None:
    try:
        return place_of(record)
    except InputError:  # somebody else's
        return None


def of_rows(record: ConsumerRecord) -> Place | None:
    """Return the place of the last row of a record."""
    made = rows.decode(record.value).rows
    return (int(made.offset_N[-1]), int(made.index_N[-1])) if len(made) else None


def of_predictions(record: ConsumerRecord) -> Place | None:
    """Return the place of the last prediction of a record."""
    made = predictions.decode(record.value, record.headers)
    if not made:
        return None
    # topic id, partition, offset, index: the id of the topic may hold dashes, the rest does not
    _, _, offset, index = made[-1]["id"].rsplit("-", 3)
    return int(offset), int(index)


def of_bars(record: ConsumerRecord) -> Place | None:
    """Return the place of the tick that had a bar written; None of a provisional one."""
    bar = bars.decode(record.value)
    return None if bar.offset is None or bar.index is None else (bar.offset, bar.index)


def of_dead_letter(record: ConsumerRecord) -> Place | None:
    """Return the place of what was refused; marks of a replay are no letters."""
    return dead_letters.decode(record.key, record.value, record.headers).source[2:]


def of_late_ticks(record: ConsumerRecord) -> Place | None:
    """Return the place of a record with late ticks; they have one letter."""
    return late_ticks.offset_of(record.headers), WHOLE_RECORD
