"""The outputs of one partition: in order, bounded, and stopping at their first failure."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from data_io.kafka_clients import end_producer
from data_io.topics.record_batch import RecordBatch
from ml_core.errors import KafkaUnavailableError
from streams.transport.packed_batch import PackedBatch

# A dead letter holds a whole record, which may be as large as the broker lets it be, and the headers that say why.
RECORD_BYTES = 4_000_000
# Hand-outs whose outputs may be under way: one at the broker and one behind it. Ticks that arrive meanwhile wait in the
# consumer and make the next batch larger, so this bounds memory and latency at once.
MAX_UNDER_WAY = 2


def output_producer(bootstrap: str, timeout_s: float = 30.0) -> AIOKafkaProducer:
    """Return the idempotent producer of a partition whose outputs are not part of a transaction."""
    return AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        enable_idempotence=True,
        acks="all",
        linger_ms=0,
        max_batch_size=RECORD_BYTES,
        max_request_size=2 * RECORD_BYTES,
        request_timeout_ms=int(timeout_s * 1000),
    )


class Outputs:
    """Queues record batches; one that fails makes every later one fail too, so what is out is a prefix."""

    def __init__(
        self,
        producer: AIOKafkaProducer,
        partition: int,
        *,
        transactional: bool = False,
        on_room: Callable[[], None] = lambda: None,
        timeout_s: float = 30.0,
    ) -> None:
        """Write to ``partition`` of whatever topic.

        Args:
            producer: Started and stopped here, unless ``transactional``.
            partition: Of every topic.
            transactional: ``producer`` is that of the state log, with a transaction open whenever ``send`` is called.
            on_room: Called whenever something was acknowledged, or failed.
            timeout_s: A batch not acknowledged for so long has failed.
        """
        self.partition, self.transactional, self.timeout_s = partition, transactional, timeout_s
        self._producer, self._on_room = producer, on_room
        self._hand_out = 0
        self._under_way: deque[tuple[int, asyncio.Future[object]]] = deque()  # hand-out and its future, oldest first

    async def start(self, topics: Sequence[str]) -> None:
        """Connect, and learn where ``topics`` are: only to them anything can be sent.

        Raises:
            KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                if not self.transactional:
                    await self._producer.start()
                for topic in topics:
                    await self._producer.partitions_for(topic)
        except (TimeoutError, KafkaError) as error:
            raise KafkaUnavailableError(f"Kafka did not answer: {error!r}") from error

    async def stop(self) -> None:
        """Disconnect; what is not acknowledged by then is unknown."""
        if not self.transactional:
            await end_producer(self._producer)
        for _, future in self._under_way:
            future.cancel()
        self._under_way.clear()

    def begin(self) -> None:
        """Begin the outputs of another batch of ticks."""
        self._hand_out += 1

    def send(self, topic: str, batches: Sequence[RecordBatch]) -> None:
        """Queue ``batches`` for ``topic`` in order.

        Raises:
            KafkaUnavailableError: An earlier or this output failed; the partition has to be taken over again.
        """
        self.check()
        tp = TopicPartition(topic, self.partition)
        for batch in batches:
            if len(batch.data) > RECORD_BYTES:
                raise KafkaUnavailableError(
                    f"a record for {topic} is larger than {RECORD_BYTES} bytes and cannot be written"
                )
            future = PackedBatch(batch, transactional=self.transactional).queue(self._producer, tp)
            future.add_done_callback(lambda _: self._on_room())
            self._under_way.append((self._hand_out, future))

    def check(self) -> None:
        """Forget what is acknowledged.

        Raises:
            KafkaUnavailableError: An output failed; the partition has to be taken over again.
        """
        while self._under_way and self._under_way[0][1].done():
            error = self._under_way.popleft()[1].exception()
            if error is not None:
                raise KafkaUnavailableError(f"an output of partition {self.partition} failed: {error!r}") from error

    @property
    def has_room(self) -> bool:
        """True where another batch of ticks may be handed out."""
        oldest = next((hand_out for hand_out, future in self._under_way if not future.done()), self._hand_out + 1)
        return self._hand_out + 1 - oldest < MAX_UNDER_WAY

    async def settle(self) -> None:
        """Wait until everything sent so far is acknowledged.

        Raises:
            KafkaUnavailableError: As ``check``, or it took too long.
        """
        under_way = [future for _, future in self._under_way]
        if under_way:
            await asyncio.wait(under_way, timeout=self.timeout_s)
        self.check()
        if any(not future.done() for future in under_way):
            raise KafkaUnavailableError(
                f"outputs of partition {self.partition} were not acknowledged in {self.timeout_s:.0f} s"
            )
