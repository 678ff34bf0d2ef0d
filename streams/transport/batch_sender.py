"""Writes the record batches of all partitions of a worker: one request a broker for all that a round has made.

Every topic partition is a lane with numbers of its own, under the producer id and epoch of the claim on its partition.
Kafka takes a batch of a lane only behind the one numbered before it, takes none twice, and none of an older epoch once
a newer one has written. So a lane whose request failed sends again what is not acknowledged, in order, and a lane that
was given up sends nothing any more, whatever its neighbours do.
"""

import asyncio
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import structlog
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, for_code

from data_io.topics.record_batch import RecordBatch, seal
from streams.transport import connection, wire

log = structlog.get_logger()

# Kafka remembers the numbers of the last five batches of a lane, so that any of them may be sent again.
MAX_IN_FLIGHT = 5
REQUEST_BYTES = 16_000_000  # a broker takes 100 MB by default
AGAIN_S = 0.1
CONNECT_S = 5.0
_DUPLICATE, _OUT_OF_ORDER = 46, 45
_SEQUENCES = 1 << 31


class _Sealed(NamedTuple):
    data: memoryview
    written: "asyncio.Future[None]"
    give_up_s: float  # when what became of it is unknown


class Lane:
    """What one claim writes to one topic partition, in order."""

    def __init__(self, tp: TopicPartition, producer_id: int, epoch: int) -> None:
        """Begin with number 0, as Kafka wants of a new epoch."""
        self.tp, self.producer_id, self.epoch = tp, producer_id, epoch
        self.sequence = 0
        self.error: Exception | None = None
        self.waiting: deque[_Sealed] = deque()  # to be sent, oldest first
        self.sent: deque[_Sealed] = deque()  # and not acknowledged, oldest first
        self.unanswered = 0  # requests
        self.goes_back = False  # a batch was not written: it and what was sent behind it is sent again
        self.is_known = False  # Kafka has taken a batch of this epoch, and so knows which number comes next

    @property
    def is_free(self) -> bool:
        """True where a batch may be sent now; until the first is taken, any number would do for Kafka."""
        return bool(self.waiting) and not self.goes_back and len(self.sent) < (MAX_IN_FLIGHT if self.is_known else 1)

    def fail(self, error: Exception) -> None:
        """Take and send nothing any more; what is not acknowledged is unknown."""
        if self.error is None:
            self.error = error
        for batch in (*self.sent, *self.waiting):
            if not batch.written.done():
                batch.written.set_exception(self.error)
                batch.written.exception()  # whoever wants to know asks the lane's owner
        self.sent.clear()
        self.waiting.clear()
        self.goes_back = False


class BatchSender:
    """One client for the outputs of all partitions of a worker."""

    def __init__(self, bootstrap: str, timeout_s: float = 30.0) -> None:
        """Write to Kafka at ``bootstrap``; what is not written after ``timeout_s`` has failed."""
        self.timeout_s = timeout_s
        self._client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=int(timeout_s * 1000))
        self._lanes: dict[Lane, None] = {}  # that have something to send, in order
        self._flush: asyncio.Handle | None = None
        self._mending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect.

        Raises:
            KafkaError: Kafka did not answer.
        """
        await self._client.bootstrap()

    async def stop(self) -> None:
        """Disconnect; what is not acknowledged is unknown."""
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.gather(self._mending, return_exceptions=True)
        for lane in self._lanes:
            lane.fail(KafkaConnectionError("the sender is closed"))
        self._lanes.clear()
        await self._client.close()

    async def find(self, topics: Sequence[str]) -> None:
        """Learn who leads ``topics`` and connect to them.

        Raises:
            KafkaError: Kafka did not answer, or knows no such topic.
        """
        for topic in topics:
            for partition in await self._client._wait_on_metadata(topic):
                leader = self._client.cluster.leader_for_partition(TopicPartition(topic, partition))
                if leader is not None and leader >= 0:
                    await self._client.ready(leader)

    def send(self, lane: Lane, batch: RecordBatch) -> "asyncio.Future[None]":
        """Queue ``batch`` behind what was sent to ``lane``; it goes out with all that is sent until the loop turns.

        Returns:
            What ends when Kafka has it, with an error where that is refused or unknown.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if lane.error is not None:
            written.set_exception(lane.error)
            return written
        sequence = lane.sequence
        seal(batch, producer_id=lane.producer_id, epoch=lane.epoch, sequence=sequence, transactional=False)
        lane.sequence = (sequence + batch.records) % _SEQUENCES
        data = memoryview(batch.data)  # type: ignore[arg-type]  # an array is a buffer
        lane.waiting.append(_Sealed(data, written, time.monotonic() + self.timeout_s))
        self._go_on(lane)
        return written

    def give_up(self, lane: Lane) -> None:
        """Send nothing of ``lane`` any more."""
        self._lanes.pop(lane, None)
        lane.fail(KafkaConnectionError("its partition was given up"))

    def _go_on(self, lane: Lane) -> None:
        self._lanes[lane] = None
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_soon(self._send_waiting)

    def _send_waiting(self) -> None:
        self._flush = None
        while request := self._next_request():
            for leader, batches in request.items():
                self._send(leader, batches)

    def _next_request(self) -> dict[int, list[tuple[Lane, _Sealed]]]:
        """Return the next batch of every lane that is free, by the broker it goes to; at most REQUEST_BYTES each."""
        found: dict[int, list[tuple[Lane, _Sealed]]] = {}
        sizes: dict[int, int] = {}
        for lane in tuple(self._lanes):
            if not lane.is_free:
                if not lane.goes_back:
                    del self._lanes[lane]  # the next answer to it brings it back
                continue
            leader = self._leader(lane.tp)
            if leader is None:
                self._mend()
                continue
            size = sizes.get(leader, 0) + len(lane.waiting[0].data)
            if leader in found and size > REQUEST_BYTES:
                continue
            sizes[leader] = size
            batch = lane.waiting.popleft()
            lane.sent.append(batch)
            lane.unanswered += 1
            found.setdefault(leader, []).append((lane, batch))
        return found

    def _leader(self, tp: TopicPartition) -> int | None:
        """Return the broker that leads ``tp``, None where it is unknown or not connected."""
        leader = self._client.cluster.leader_for_partition(tp)
        return leader if leader is not None and connection.of(self._client, leader) is not None else None

    def _send(self, leader: int, batches: Sequence[tuple[Lane, _Sealed]]) -> None:
        topics: dict[str, list[tuple[int, memoryview]]] = {}
        for lane, batch in batches:
            topics.setdefault(lane.tp.topic, []).append((lane.tp.partition, batch.data))
        parts = wire.produce(topics, int(self.timeout_s * 1000))
        try:
            to = connection.of(self._client, leader)
            if to is None:
                raise KafkaConnectionError("the connection has just ended")
            answer = to.ask(wire.PRODUCE, wire.PRODUCE_VERSION, parts)
        except KafkaError as error:
            self._answered(batches, error)
            return
        answer.add_done_callback(lambda future: self._answered(batches, _codes_of(future)))

    def _answered(
        self, batches: Sequence[tuple[Lane, _Sealed]], answer: Mapping[TopicPartition, int] | Exception
    ) -> None:
        codes: Mapping[TopicPartition, int] = {}
        if isinstance(answer, Exception):
            log.warning("writing outputs failed, trying again", action="produce", error=repr(answer))
        else:
            codes = answer
        for lane, batch in batches:
            lane.unanswered -= 1
            if lane.error is None:
                self._judge(lane, batch, codes.get(lane.tp))
                if lane.waiting or lane.goes_back:
                    self._go_on(lane)

    def _judge(self, lane: Lane, batch: _Sealed, code: int | None) -> None:
        """Do what the answer to one batch asks for; None is no answer."""
        if code in (0, _DUPLICATE):
            if lane.goes_back or lane.sent[0] is not batch:
                lane.fail(KafkaError(f"{lane.tp} has taken a batch before the one in front of it"))
                return
            lane.sent.popleft()
            lane.is_known = True
            if not batch.written.done():
                batch.written.set_result(None)
            return
        # A batch that comes behind one that was not taken is out of order: both are sent again.
        is_behind = lane.goes_back or lane.sent[0] is not batch
        error = KafkaConnectionError() if code is None else for_code(code)()
        if not (error.retriable or (code == _OUT_OF_ORDER and is_behind)):
            lane.fail(error)
            return
        lane.goes_back = True
        if not lane.unanswered:
            lane.waiting.extendleft(reversed(lane.sent))
            lane.sent.clear()
        self._mend()

    def _mend(self) -> None:
        if self._mending is None or self._mending.done():
            self._mending = asyncio.create_task(self._find_ways(), name="outputs-mend")

    async def _find_ways(self) -> None:
        """Look for leaders and connect to them until every lane that went back is on its way again, or too late."""
        while lanes := [lane for lane in self._lanes if lane.goes_back or self._leader(lane.tp) is None]:
            await asyncio.sleep(AGAIN_S)
            now_s = time.monotonic()
            for lane in lanes:
                oldest = (*lane.sent, *lane.waiting)[:1]
                if oldest and now_s > oldest[0].give_up_s:
                    lane.fail(KafkaTimeoutError(f"{lane.tp} has not taken a batch in {self.timeout_s:.0f} s"))
                    self._lanes.pop(lane, None)
            with suppress(OSError, KafkaError):  # the time that is up is among the first
                async with asyncio.timeout(CONNECT_S):
                    await self._client.force_metadata_update()
                    await self._connect({self._client.cluster.leader_for_partition(lane.tp) for lane in lanes})
            for lane in lanes:
                if lane.error is None and lane.goes_back and not lane.unanswered and self._leader(lane.tp) is not None:
                    lane.goes_back = False
                    lane.is_known = False  # alone, until it is clear how far Kafka has come
            self._send_waiting()
        self._mending = None
        self._send_waiting()

    async def _connect(self, nodes: Collection[int | None]) -> None:
        for node in nodes:
            if node is not None and node >= 0:
                await self._client.ready(node)


def _codes_of(answer: "asyncio.Future[memoryview]") -> Mapping[TopicPartition, int] | Exception:
    """Return the error code of every partition that was answered for, or why there is no answer."""
    try:
        return wire.produced(answer.result())
    except asyncio.CancelledError:
        return TimeoutError("the request was given up")
    except Exception as error:  # noqa: BLE001 - whatever it is, the batches are not known to be written
        return error
