"""How far the outputs of a partition reach: the newest tick that the last record of each topic names."""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from data_io.topics import bars, predictions, rows
from ml_core.errors import InputError, KafkaUnavailableError, SchemaMismatchError
from streams.transport.tails import Place

# Of a record and the id of a topic: None, or an InputError, of what tells of no tick of that topic.
PlaceOf = Callable[[ConsumerRecord, str], Place | None]

# Who has no manifest does not know where outputs of the ticks begin, and looks at so many records.
LOOK_BACK = 10_000
MOST_AT_ONCE = 4096


class Out(NamedTuple):
    """What stands in one output topic."""

    place: Place | None  # of the tick that its last record tells of; None where there is none
    end: int  # of the log: behind everything that was ever written to it
    begin: int = 0  # of the log: what lies below was deleted

    @property
    def was_written(self) -> bool:
        """True where something of the ticks is in the log, or may have been deleted from it."""
        return self.place is not None or self.begin > 0


async def published(
    bootstrap: str,
    topics: Mapping[str, PlaceOf],
    partition: int,
    topic_id: str,
    begins: Mapping[str, int] | None = None,
    *,
    timeout_s: float = 20.0,
) -> dict[str, Out]:
    """Return how far ``partition`` of each of ``topics`` reaches, of what is committed.

    Args:
        bootstrap: Servers of Kafka.
        topics: How the place of a tick is read of a record of each.
        partition: Of all topics.
        topic_id: Of the ticks; what is out of others does not count.
        begins: Topic -> offset in its log; what lies below is of no interest. None: only the last records are.
        timeout_s: As long as nothing is read.

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
        async with asyncio.timeout(timeout_s) as bound:

            def moved() -> None:
                bound.reschedule(asyncio.get_running_loop().time() + timeout_s)

            await consumer.start()
            consumer.assign(list(tps.values()))
            ends = await consumer.end_offsets(list(tps.values()))
            oldest = await consumer.beginning_offsets(list(tps.values()))
            for topic, place_of in topics.items():
                tp = tps[topic]
                end, begin = ends[tp], ends[tp] - LOOK_BACK if begins is None else begins.get(topic, 0)
                # One that was made anew may end below where it began before.
                begin = max(oldest[tp], begin if begin <= end else 0)
                reader = _Reader(consumer, tp, place_of, topic_id, moved)
                found[topic] = Out(await reader.last_place(begin, end), end, oldest[tp])
    except (TimeoutError, KafkaError) as error:
        raise KafkaUnavailableError(f"cannot read the end of {', '.join(topics)}: {error!r}") from error
    finally:
        await consumer.stop()
    return found


class _Reader(NamedTuple):
    """Reads one partition backwards."""

    consumer: AIOKafkaConsumer
    tp: TopicPartition
    place_of: PlaceOf
    topic_id: str
    moved: Callable[[], None]  # called whenever something was read

    async def last_place(self, begin: int, end: int) -> Place | None:
        """Return what the last record in ``[begin, end)`` that tells of a tick says."""
        back, upper = 3, end  # the last two are ends of transactions: that of the claim, that of a checkpoint
        while upper > begin:
            start = max(begin, upper - back)
            place = await self._last_of(start, upper)
            if place is not None:
                return place
            upper, back = start, min(back * 16, MOST_AT_ONCE)
        return None

    async def _last_of(self, start: int, end: int) -> Place | None:
        self.consumer.seek(self.tp, start)
        found: Place | None = None
        while (position := await self.consumer.position(self.tp)) < end:
            records = (await self.consumer.getmany(self.tp, timeout_ms=20)).get(self.tp, ())
            places = (self._place(record) for record in reversed(records) if record.offset < end)
            found = next((place for place in places if place is not None), found)
            if await self.consumer.position(self.tp) > position:
                self.moved()
        return found

    def _place(self, record: ConsumerRecord) -> Place | None:
        try:
            return self.place_of(record, self.topic_id)
        except InputError:  # somebody else's
            return None


def of_rows(record: ConsumerRecord, topic_id: str) -> Place | None:
    """Return the place of the last row of a record."""
    if (rows.TOPIC_HEADER, topic_id.encode()) not in record.headers:
        return None
    made = rows.decode(record.value).rows
    return (int(made.offset_N[-1]), int(made.index_N[-1])) if len(made) else None


def of_predictions(record: ConsumerRecord, topic_id: str) -> Place | None:
    """Return the place of the last prediction of a record."""
    made = predictions.decode(record.value, record.headers)
    try:
        # topic id, partition, offset, index: the id of the topic may hold dashes, the rest does not
        of, _, offset, index = made[-1]["id"].rsplit("-", 3)
        return (int(offset), int(index)) if of == topic_id else None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise SchemaMismatchError(f"the record holds no prediction: {error!r}") from error


def of_bars(record: ConsumerRecord, topic_id: str) -> Place | None:
    """Return the place of the tick that had a bar written; None of a provisional one."""
    bar = bars.decode(record.value)
    if bar.id is None or bar.offset is None or bar.index is None:
        return None
    return (bar.offset, bar.index) if bar.id.startswith(f"{topic_id}-{record.partition}-") else None
