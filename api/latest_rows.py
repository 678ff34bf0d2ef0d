"""Follows the rows of one feature set on Kafka and knows the newest one of every symbol."""

import asyncio
import logging
import threading
from collections.abc import Iterable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from api.metrics import Metrics
from api.row_table import Newest, RowTable
from data_io.topics import rows as rows_topic
from data_io.topics.admin import TopicInfo, describe
from ml_core.data_processor.plan import FeaturePlan
from ml_core.errors import KafkaUnavailableError, SchemaMismatchError, SymbolNotFoundError, TickwiseError
from ml_core.types import RowBatch

logger = logging.getLogger(__name__)

FETCH_WAIT_MS = 250
FETCH_RECORDS = 32  # of at most 4096 rows each: bounds what one step decodes
LOOK_EVERY_S = 5.0  # how soon an unreachable broker, a new partition or a new topic is noticed
CALL_TIMEOUT_S = 10.0
RETRY_S = 2.0


class LatestRows:
    """The newest rows of one feature set; ``run`` keeps them new."""

    def __init__(
        self,
        bootstrap: str,
        feature_set: str,
        *,
        topic: str,
        plan: FeaturePlan,
        windows: Iterable[int],
        read_back: int,
        metrics: Metrics,
    ) -> None:
        """Prepare; nothing is asked of Kafka yet.

        Args:
            bootstrap: Kafka's addresses.
            feature_set: Whose rows.
            topic: Topic of the ticks that the rows are named after.
            plan: Features that the pipelines expect; rows of other features are left out.
            windows: Window lengths that will be asked for.
            read_back: Records a partition read at start. More of them find rarer symbols and fill longer windows.
            metrics: Takes the counts.
        """
        self.feature_set, self.topic, self.plan = feature_set, topic, plan
        self.problem: str | None = "starting"
        self.topic_id = ""
        self._bootstrap, self._windows, self._read_back = bootstrap, frozenset(windows), read_back
        self._records = metrics.latest_rows_records
        self._tables: dict[int, RowTable] = {}
        self._refused: str | None = None  # why the last record was left out
        self._lock = threading.Lock()

    @property
    def symbols(self) -> int:
        """How many symbols are held."""
        with self._lock:
            return sum(len(table.symbols) for table in self._tables.values())

    def newest(self, symbol: str, window: int) -> Newest:
        """Return the newest row of ``symbol`` with its window.

        Raises:
            KafkaUnavailableError: The newest rows are not at hand now. A retry is safe.
            SymbolNotFoundError: No row of it was seen. A retry will not help.
        """
        if self.problem is not None:
            raise KafkaUnavailableError(f"the newest rows of {self.feature_set!r} are not at hand: {self.problem}")
        with self._lock:
            found = [newest for table in self._tables.values() if (newest := table.newest(symbol, window))]
        if not found:
            raise SymbolNotFoundError(
                f"no row of this symbol in the newest {self._read_back} records a partition of "
                f"{rows_topic.name(self.feature_set)}; check its spelling, or raise TICKWISE_ROWS_READ_BACK"
            )
        return max(found, key=lambda newest: int(newest.row.ts_ns_N[0]))

    def reset(self, topic_id: str, partitions: Mapping[int, bool]) -> None:
        """Forget all rows.

        Args:
            topic_id: Kafka's id of the ticks' topic, which the rows to come are named after.
            partitions: Number -> whether the first row to come is the first that the partition ever had.
        """
        width = len(self.plan.names)
        tables = {n: RowTable(n, width, self._windows, from_start=first) for n, first in partitions.items()}
        with self._lock:
            self.topic_id, self._tables, self._refused = topic_id, tables, None

    def take(self, partition: int, values: Iterable[bytes | None]) -> None:
        """Move on by the next records of a partition; one that cannot be read or has other features is left out."""
        for value in values:
            try:
                rows = self._decode(value)
            except SchemaMismatchError as error:
                self._refused = str(error)
                self._records.labels(self.feature_set, "refused").inc()
                continue
            with self._lock:
                self._tables[partition].take(rows)
            self._refused = None
            self._records.labels(self.feature_set, "taken").inc()

    def _decode(self, value: bytes | None) -> RowBatch:
        decoded = rows_topic.decode(value)
        if decoded.hash != self.plan.hash:
            raise SchemaMismatchError(f"rows have schema {decoded.hash}, the pipeline files say {self.plan.hash}")
        return decoded.rows

    async def run(self) -> None:
        """Follow the topic until cancelled; what goes wrong stands in ``problem`` and is tried again."""
        while True:
            try:
                await self._follow()
            except (KafkaError, TickwiseError, OSError, TimeoutError) as error:
                self.problem = str(error) or type(error).__name__
                logger.warning("rows of %s are not followed now: %s", self.feature_set, self.problem)
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        """Read back, then follow; returns when a topic was made anew or got partitions, raises when Kafka is away."""
        topic = rows_topic.name(self.feature_set)
        here = await self._describe(topic)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="none",  # rows lost to retention are an error here too: it leads to a fresh start
            isolation_level="read_committed",
        )
        try:
            await asyncio.wait_for(consumer.start(), CALL_TIMEOUT_S)
            partitions = [TopicPartition(topic, number) for number in range(here[1].partitions)]
            ends = await self._seek(consumer, here[0].topic_id, partitions)
            look_at = asyncio.get_running_loop().time() + LOOK_EVERY_S
            while True:
                fetched = await consumer.getmany(timeout_ms=FETCH_WAIT_MS, max_records=FETCH_RECORDS)
                for partition, records in fetched.items():
                    await asyncio.to_thread(self.take, partition.partition, [record.value for record in records])
                if ends:
                    ends = {tp: end for tp, end in ends.items() if await consumer.position(tp) < end}
                self.problem = self._refused or ("reading back" if ends else None)
                if asyncio.get_running_loop().time() >= look_at:
                    if await self._describe(topic) != here:
                        return
                    look_at = asyncio.get_running_loop().time() + LOOK_EVERY_S
        finally:
            self.problem = self.problem or "starting again"
            await consumer.stop()

    async def _describe(self, topic: str) -> tuple[TopicInfo, TopicInfo]:
        """Return what Kafka says of the ticks' topic and of the rows' topic."""
        ticks = await describe(self._bootstrap, self.topic, CALL_TIMEOUT_S)
        return ticks, await describe(self._bootstrap, topic, CALL_TIMEOUT_S)

    async def _seek(
        self, consumer: AIOKafkaConsumer, topic_id: str, partitions: list[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Start with empty tables ``read_back`` records before the end; return the ends."""
        consumer.assign(partitions)
        async with asyncio.timeout(CALL_TIMEOUT_S):
            first = await consumer.beginning_offsets(partitions)
            ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        starts = {tp: max(first[tp], ends[tp] - self._read_back) for tp in partitions}
        for tp, start in starts.items():
            consumer.seek(tp, start)
        self.reset(topic_id, {tp.partition: start == 0 for tp, start in starts.items()})
        return ends
