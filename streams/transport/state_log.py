"""The state topic of one partition: state blocks, manifest and position in one transaction, fenced by its id."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError
from pydantic import BaseModel, ConfigDict, Field, field_validator

from data_io import log_reader
from data_io.kafka_clients import end_producer
from data_io.topics import admin
from data_io.topics.admin import TopicSpec, compacted_topic
from ml_core.errors import KafkaUnavailableError, NotFoundError, SetupError
from model_ops_manager.shed import Shed
from streams.transport.pieces import Pieces
from streams.transport.tails import Place

Blocks = list[tuple[bytes, bytes | None]]  # key and bytes; None deletes the key

MANIFEST_KEY = b"manifest"
MANIFEST_VERSION = 1
BATCH_BYTES = 1_000_000
RECORD_BYTES = BATCH_BYTES - 200  # key and value; the rest is framing
MAX_REQUEST_BYTES = 8_000_000  # outputs of an exactly-once partition go out through this producer too
# A stopped owner holds back `read_committed` readers for at most this long.
TRANSACTION_TIMEOUT_MS = 15_000


def name(group: str) -> str:
    """Return the name of the state topic of a worker group."""
    return f"state.{group}.v1"


def topic_spec(group: str, partitions: int) -> TopicSpec:
    """Return the state topic of ``group``: compacted, one partition per partition of ticks."""
    return compacted_topic(
        name(group), partitions, **{"segment.bytes": str(64 << 20), "min.cleanable.dirty.ratio": "0.2"}
    )


class Manifest(BaseModel):
    """What a checkpoint says about its partition, besides the state blocks."""

    model_config = ConfigDict(extra="ignore", frozen=True)  # a worker that is set back reads what a later one wrote

    version: int = MANIFEST_VERSION
    topic: str
    topic_id: str
    partitions: int
    position: int = Field(ge=0, description="offset of the first tick that is not in the state")
    kernels: dict[str, str] = Field(description="feature set -> feature schema hash")
    models: dict[str, int] = Field(description="pipeline -> model version that scores from `position` on")
    labelled: dict[str, int] = Field(
        default_factory=dict, description="pipeline -> rows whose label has matured so far"
    )
    shed: Shed = Field(default=Shed(), description="ticks that were skipped; state starts empty behind each range")
    begins: dict[str, int] = Field(
        default_factory=dict, description="output topic -> offset of its log; below it stand outputs of other ticks"
    )
    out: dict[str, Place] = Field(
        default_factory=dict, description="output topic -> last tick at or behind `position` of which something is out"
    )
    stays: list[str] = Field(
        default_factory=list, description="output topics of which nothing that is out is written again"
    )
    bases: dict[str, int] = Field(
        default_factory=dict, description="feature set -> revision that bars begin with; 0 where it is missing"
    )

    @field_validator("version")
    @classmethod
    def _is_known(cls, version: int) -> int:
        # What it says, and whether its state means the same here, is not known.
        if version > MANIFEST_VERSION:
            raise SetupError(
                f"the checkpoint was written by a later tickwise: its version is {version}, and {MANIFEST_VERSION} is "
                "the last one that is known here; run that tickwise again, or start a new group"
            )
        return version

    @property
    def text(self) -> str:
        """As JSON; nothing of what is rare where nothing is, so that a worker from before it can read it."""
        rare = {
            "shed": self.shed.total,
            "begins": self.begins,
            "out": self.out,
            "stays": self.stays,
            "bases": self.bases,
        }
        return self.model_dump_json(exclude={name for name, value in rare.items() if not value})


async def manifests(bootstrap: str, group: str) -> AsyncIterator[tuple[int, Manifest, int]]:
    """Yield partition, manifest and time, ms, of all that the group's state topic holds, those of a partition in order.

    Raises:
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
        SetupError: A manifest is of a later version than is known here.
    """
    topic = name(group)
    try:
        count = (await admin.describe(bootstrap, topic)).partitions
    except NotFoundError:
        return
    async with log_reader.consumer(bootstrap) as consumer:
        held = await log_reader.held(consumer, [TopicPartition(topic, number) for number in range(count)])
        async for tp, records in log_reader.read(consumer, held):
            for record in records:
                if record.key == MANIFEST_KEY and record.value:
                    yield tp.partition, Manifest.model_validate_json(record.value), record.timestamp


class StateLog:
    """Reads and writes the checkpoints of one partition; whoever claims it last fences all earlier owners."""

    def __init__(self, bootstrap: str, group: str, ticks: TopicPartition, *, timeout_s: float = 20.0) -> None:
        """Serve ``ticks``; every step is bounded by ``timeout_s``."""
        self.bootstrap, self.group, self.ticks, self.timeout_s = bootstrap, group, ticks, timeout_s
        self._tp = TopicPartition(name(group), ticks.partition)
        self._pieces = Pieces()
        self.producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            transactional_id=f"tickwise.{group}.{ticks.partition}",
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            max_batch_size=BATCH_BYTES,
            max_request_size=MAX_REQUEST_BYTES,
            request_timeout_ms=int(timeout_s * 1000),
        )

    async def claim(self, lanes: Sequence[TopicPartition] = ()) -> tuple[Manifest | None, dict[bytes, bytes]]:
        """Fence earlier owners, open a transaction, and return the last manifest and the newest block of every key.

        Once it returns, earlier owners cannot write to ``lanes`` either, although outside of transactions: the end of a
        transaction without records leaves the epoch of this claim there.

        Raises:
            KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
            SetupError: The manifest is of a later version than is known here.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                await self.producer.start()
                if lanes:
                    await self._end_empty_transaction(lanes)
                    # It is answered before its end is written everywhere; the next one is not begun before that.
                    await self._end_empty_transaction([self._tp])
                records = await self._read()
                await self.producer.begin_transaction()
        except (TimeoutError, KafkaError) as error:
            raise KafkaUnavailableError(
                f"cannot take over {self.ticks.topic}-{self.ticks.partition}: {error!r}"
            ) from error
        manifest = records.pop(MANIFEST_KEY, None)
        return (Manifest.model_validate_json(manifest) if manifest else None), self._pieces.join(records)

    @property
    def identity(self) -> tuple[int, int]:
        """Producer id and epoch of the claim: Kafka takes nothing of an older epoch where a newer one has written."""
        known = self.producer._txn_manager._pid_and_epoch
        return known.pid, known.epoch

    async def commit(self, manifest: Manifest, blocks: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Commit ``blocks``, ``manifest`` and the group's offset with all that is in the transaction; open the next.

        Raises:
            KafkaUnavailableError: Whether it was committed is *unknown*: drop the memory and claim again.
            SetupError: A record, or a batch of them, is larger than Kafka takes. A retry will not help.
        """
        records = [*self._pieces.cut(blocks), (MANIFEST_KEY, manifest.text.encode())]
        try:
            async with asyncio.timeout(self.timeout_s):
                # A record that fails does not stop aiokafka's commit, so each is awaited before it.
                await asyncio.gather(*[await future for future in self._batches(records)])
                await self.producer.send_offsets_to_transaction({self.ticks: manifest.position}, self.group)
                await self.producer.commit_transaction()
                await self.producer.begin_transaction()
        except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
            raise SetupError(
                f"{self._tp.topic} refuses a batch of up to {BATCH_BYTES} bytes as too large: "
                "set its max.message.bytes to Kafka's default of 1048588 or more"
            ) from error
        except (TimeoutError, KafkaError) as error:
            raise KafkaUnavailableError(
                f"checkpoint of {self.ticks.topic}-{self.ticks.partition} failed: {error!r}"
            ) from error

    async def _end_empty_transaction(self, partitions: Sequence[TopicPartition]) -> None:
        await self.producer.begin_transaction()
        for tp in partitions:
            self.producer._txn_manager.maybe_add_partition_to_txn(tp)
        await self.producer.commit_transaction()

    async def close(self) -> None:
        """Disconnect without committing anything."""
        await end_producer(self.producer)

    def _batches(self, records: Sequence[tuple[bytes, bytes | None]]) -> Iterator[Awaitable[Awaitable[object]]]:
        batch = self.producer.create_batch()
        for key, value in records:
            # The first record of a batch is taken whatever its size, and refused by the broker.
            if (size := len(key) + len(value or b"")) > RECORD_BYTES:
                raise SetupError(f"{key!r} of a checkpoint has {size} bytes, and Kafka takes {RECORD_BYTES}")
            if batch.append(key=key, value=value, timestamp=None) is None:
                yield self.producer.send_batch(batch, self._tp.topic, partition=self._tp.partition)
                batch = self.producer.create_batch()
                batch.append(key=key, value=value, timestamp=None)
        yield self.producer.send_batch(batch, self._tp.topic, partition=self._tp.partition)

    async def _read(self) -> dict[bytes, bytes]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=8 << 20,
        )
        await consumer.start()
        try:
            consumer.assign([self._tp])
            await consumer.seek_to_beginning(self._tp)
            # Claiming aborted what was open, so the last stable offset is the end.
            end = (await consumer.end_offsets([self._tp]))[self._tp]
            blocks: dict[bytes, bytes] = {}
            while await consumer.position(self._tp) < end:
                for record in (await consumer.getmany(self._tp, timeout_ms=200)).get(self._tp, ()):
                    if record.value is None:
                        blocks.pop(record.key, None)
                    else:
                        blocks[record.key] = record.value
            return blocks
        finally:
            await consumer.stop()
