"""The outputs of one partition: in order, bounded, and stopping at their first failure."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from data_io.topics import record_batch
from data_io.topics.record_batch import RecordBatch
from ml_core.errors import KafkaUnavailableError
from streams.transport.batch_sender import BatchSender, Lane
from streams.transport.packed_batch import PackedBatch
from streams.transport.state_log import StateLog

# A dead letter holds a whole record, which may be as large as the broker lets it be, and the headers that say why.
RECORD_BYTES = 4_000_000
# Hand-outs whose outputs may be under way: one at the broker and one behind it. Ticks that arrive meanwhile wait in the
# consumer and make the next batch larger, so this bounds memory and latency at once.
MAX_UNDER_WAY = 2
# Records of a topic that has few of them, though in nearly every batch of ticks, wait for so long, or until they are so
# many: to Kafka and to its client a batch costs about as much as fifty records.
HELD_S, HELD_BYTES = 0.1, 1 << 18


class Channel(Protocol):
    """How the outputs of one claim reach Kafka."""

    async def start(self, topics: Sequence[str]) -> None:
        """Connect, and learn where ``topics`` are; raises a KafkaError where Kafka does not answer."""

    def queue(self, tp: TopicPartition, batch: RecordBatch) -> "asyncio.Future[Any]":
        """Queue ``batch`` behind the others for ``tp`` and return what ends when Kafka has it."""

    def stop(self) -> None:
        """Send nothing any more; what is not acknowledged by then is unknown."""


class Lanes:
    """At least once: outputs go out at once, under the producer id of the claim: a later claim shuts them out."""

    def __init__(self, sender: BatchSender, state_log: StateLog) -> None:
        """Write through ``sender`` for the claim of ``state_log``, which has been made when ``queue`` is called."""
        self._sender, self._state_log = sender, state_log
        self._lanes: dict[TopicPartition, Lane] = {}

    async def start(self, topics: Sequence[str]) -> None:
        """See ``Channel``."""
        await self._sender.find(topics)

    def queue(self, tp: TopicPartition, batch: RecordBatch) -> "asyncio.Future[None]":
        """See ``Channel``."""
        lane = self._lanes.get(tp)
        if lane is None:
            lane = self._lanes[tp] = Lane(tp, *self._state_log.identity)
        return self._sender.send(lane, batch)

    def stop(self) -> None:
        """See ``Channel``."""
        for lane in self._lanes.values():
            self._sender.give_up(lane)


class Transaction:
    """Exactly once: outputs go into the transaction of the checkpoint, by the producer that commits it."""

    def __init__(self, state_log: StateLog) -> None:
        """Write through the producer of ``state_log``, which has a transaction open whenever ``queue`` is called."""
        self._producer = state_log.producer

    async def start(self, topics: Sequence[str]) -> None:
        """See ``Channel``."""
        for topic in topics:
            await self._producer.partitions_for(topic)

    def queue(self, tp: TopicPartition, batch: RecordBatch) -> "asyncio.Future[object]":
        """See ``Channel``."""
        return PackedBatch(batch).queue(self._producer, tp)

    def stop(self) -> None:
        """Leave the end to the state log, whose producer it is."""


class Outputs:
    """Queues record batches; one that fails makes every later one fail too, so what is out is a prefix."""

    def __init__(
        self,
        channel: Channel,
        partition: int,
        *,
        on_room: Callable[[], None] = lambda: None,
        timeout_s: float = 30.0,
    ) -> None:
        """Write to ``partition`` of whatever topic.

        Args:
            channel: How; stopped here.
            partition: Of every topic.
            on_room: Called whenever something was acknowledged, or failed.
            timeout_s: A batch not acknowledged for so long has failed.
        """
        self.partition, self.timeout_s = partition, timeout_s
        self._channel, self._on_room = channel, on_room
        self._hand_out = 0
        # Hand-out, its future and since when it waits, oldest first.
        self._under_way: deque[tuple[int, asyncio.Future[Any], float]] = deque()
        self._held: dict[str, list[bytes]] = {}  # records by topic
        self._held_bytes = 0
        self._held_until_s = 0.0

    async def start(self, topics: Sequence[str]) -> None:
        """Connect, and learn where ``topics`` are: only to them anything can be sent.

        Raises:
            KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._channel.start(topics)
        except (TimeoutError, KafkaError) as error:
            raise KafkaUnavailableError(f"Kafka did not answer: {error!r}") from error

    def stop(self) -> None:
        """Send nothing any more; what is not acknowledged by then is unknown."""
        self._channel.stop()
        for _, future, _ in self._under_way:
            future.cancel()

    def begin(self) -> None:
        """Begin the outputs of another batch of ticks."""
        self._hand_out += 1

    def send(self, topic: str, batches: Sequence[RecordBatch]) -> None:
        """Queue ``batches`` for ``topic`` in order.

        Raises:
            KafkaUnavailableError: An earlier or this output failed; the partition has to be taken over again.
        """
        self._must_not_have_failed()
        tp = TopicPartition(topic, self.partition)
        for batch in batches:
            if len(batch.data) > RECORD_BYTES:
                raise KafkaUnavailableError(
                    f"a record for {topic} is larger than {RECORD_BYTES} bytes and cannot be written"
                )
            future = self._channel.queue(tp, batch)
            future.add_done_callback(lambda _: self._on_room())
            self._under_way.append((self._hand_out, future, time.monotonic()))

    def hold(self, topic: str, contents: Sequence[bytes]) -> None:
        """Queue records, as ``record_batch.content`` returns them, with those of the next batches of ticks.

        They go out with one of the next calls of ``go_on``, and before anything settles.
        """
        if not self._held:
            self._held_until_s = time.monotonic() + HELD_S
        self._held.setdefault(topic, []).extend(contents)
        self._held_bytes += sum(map(len, contents))

    def go_on(self) -> None:
        """Send what was held for long enough.

        Raises:
            KafkaUnavailableError: An output failed; the partition has to be taken over again.
        """
        self._must_not_have_failed()
        if self._held and (self._held_bytes >= HELD_BYTES or time.monotonic() >= self._held_until_s):
            self._release()

    def _release(self) -> None:
        held, self._held, self._held_bytes = self._held, {}, 0
        for topic, contents in held.items():
            self.send(topic, record_batch.join(contents))

    def _must_not_have_failed(self) -> None:
        """Forget what is acknowledged; what failed stays, so that whoever asks next learns of it too."""
        while self._under_way and (oldest := self._under_way[0][1]).done():
            error = asyncio.CancelledError("it was stopped") if oldest.cancelled() else oldest.exception()
            if error is not None:
                raise KafkaUnavailableError(f"an output of partition {self.partition} failed: {error!r}") from error
            self._under_way.popleft()

    @property
    def has_room(self) -> bool:
        """True where another batch of ticks may be handed out."""
        oldest = next((hand_out for hand_out, future, _ in self._under_way if not future.done()), self._hand_out + 1)
        return self._hand_out + 1 - oldest < MAX_UNDER_WAY

    @property
    def waiting_s(self) -> float:
        """For how long the oldest output has waited to be acknowledged."""
        since_s = next((since_s for _, future, since_s in self._under_way.copy() if not future.done()), None)
        return 0.0 if since_s is None else time.monotonic() - since_s

    async def settle(self) -> None:
        """Wait until everything sent or held so far is acknowledged.

        Raises:
            KafkaUnavailableError: As ``send``, or it took too long.
        """
        self._release()
        under_way = [future for _, future, _ in self._under_way]
        if under_way:
            await asyncio.wait(under_way, timeout=self.timeout_s)
        self._must_not_have_failed()
        if any(not future.done() for future in under_way):
            raise KafkaUnavailableError(
                f"outputs of partition {self.partition} were not acknowledged in {self.timeout_s:.0f} s"
            )
