"""Writes the record batches of all partitions of a worker: one request a broker for all that a round has made.

Every topic partition is a lane with numbers of its own, under the producer id and epoch of the claim on its partition.
Kafka takes a batch of a lane only behind the one numbered before it, takes none twice, and none of an older epoch once
a newer one has written. So a lane whose request failed sends again what is not acknowledged, in order, and a lane that
was given up sends nothing any more, whatever its neighbours do.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import structlog
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import BrokerResponseError, KafkaConnectionError, KafkaError, KafkaTimeoutError, for_code

from data_io.topics.record_batch import RecordBatch, seal
from streams.transport import connection, wire

log = structlog.get_logger()

# Kafka remembers the numbers of the last five batches of a lane, so that any of them may be sent again.
MAX_IN_FLIGHT = 5
REQUEST_BYTES = 16_000_000  # a broker takes 100 MB by default
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
        self.refusal: Exception | None = None  # why a batch was not written the last time
        self.waiting: deque[_Sealed] = deque()  # to be sent, oldest first
        self.sent: deque[_Sealed] = deque()  # and not acknowledged, oldest first
        self.unanswered = 0  # requests
        self.goes_back = False  # a batch was not written: with the last answer, all of `sent` is `waiting` again
        self.is_known = False  # Kafka has taken a batch of this epoch, and so knows which number comes next

    @property
    def is_free(self) -> bool:
        """True where a batch may be sent now; until the first is taken, any number would do for Kafka."""
        return bool(self.waiting) and not self.goes_back and len(self.sent) < (MAX_IN_FLIGHT if self.is_known else 1)

    def take_back(self) -> None:
        """Put what was sent and not taken in front of what waits, once every request is answered."""
        if self.goes_back and not self.unanswered:
            self.waiting.extendleft(reversed(self.sent))
            self.sent.clear()

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
        # A broker that is silent for a third of the time leaves some for another one that leads by then.
        self._silent_ms = int(timeout_s * 1000 / 3)
        self._client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=self._silent_ms)
        self._lanes: set[Lane] = set()  # that were sent to and not given up
        self._ready: dict[Lane, None] = {}  # of them those that may have something to send, in order
        self._is_stopped = False
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
        self._is_stopped = True
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.gather(self._mending, return_exceptions=True)
        for lane in tuple(self._lanes):
            self.give_up(lane)
        await self._client.close()

    async def find(self, topics: Sequence[str]) -> None:
        """Learn who leads ``topics`` and connect to them.

        Raises:
            KafkaError: Kafka did not answer, or knows no such topic.
        """
        # All first: else the client, which knows every topic until it is told of one, would forget the others.
        self._client.set_topics({*self._client._topics, *topics})
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
        if self._is_stopped:
            lane.fail(KafkaConnectionError("the sender is stopped"))
        if lane.error is not None:
            written.set_exception(lane.error)
            written.exception()  # whoever wants to know asks the lane's owner
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
        self._lanes.discard(lane)
        self._ready.pop(lane, None)
        lane.fail(KafkaConnectionError("its partition was given up"))

    def _go_on(self, lane: Lane) -> None:
        self._lanes.add(lane)
        self._ready[lane] = None
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
        for lane in tuple(self._ready):
            if not (lane.goes_back or lane.is_free):
                del self._ready[lane]  # the next answer to it brings it back
                continue
            leader = self._leader(lane.tp)
            if lane.goes_back or leader is None:
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
        parts = wire.produce(topics, self._silent_ms * 4 // 5)  # the broker gives up before the connection does
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
        for lane, batch in batches:
            lane.unanswered -= 1
            if lane.error is not None:
                continue
            if isinstance(answer, Exception):
                self._judge(lane, batch, None, answer)
            elif (code := answer.get(lane.tp)) is None:
                self._judge(lane, batch, None, KafkaConnectionError("it was not answered for"))
            else:
                self._judge(lane, batch, code, for_code(code)(f"error {code}"))
            lane.take_back()
            if lane.waiting or lane.goes_back:
                self._go_on(lane)

    def _judge(self, lane: Lane, batch: _Sealed, code: int | None, error: Exception) -> None:
        """Do what the answer to one batch asks for; ``error`` says what it is where it is not 0."""
        is_oldest = lane.sent[0] is batch
        if code in (0, _DUPLICATE):
            # Taken, though nothing said so of the one in front of it, which must then be written too. Both are sent
            # again: Kafka remembers their numbers and says so.
            if not is_oldest:
                self._go_back(lane, KafkaConnectionError("what came in front of it was not answered for"))
                return
            lane.sent.popleft()
            lane.is_known, lane.refusal = True, None
            if not batch.written.done():
                batch.written.set_result(None)
            return
        # A batch that comes behind one that was not taken is out of order.
        is_behind = code == _OUT_OF_ORDER and (lane.goes_back or not is_oldest)
        is_final = isinstance(error, BrokerResponseError) and not error.retriable
        if is_final and not is_behind:
            lane.fail(error)
        else:
            self._go_back(lane, error)

    def _go_back(self, lane: Lane, error: Exception) -> None:
        if not lane.goes_back and type(error) is not type(lane.refusal):
            lane.refusal = error
            log.warning("an output was not taken, trying again", action="produce", to=str(lane.tp), error=repr(error))
        lane.goes_back = True
        self._mend()

    def _mend(self) -> None:
        if not self._is_stopped and (self._mending is None or self._mending.done()):
            self._mending = asyncio.create_task(self._find_ways(), name="outputs-mend")

    async def _find_ways(self) -> None:
        """Look for leaders and connect to them until every lane that went back is on its way again, or too late."""
        pauses = connection.pauses()
        while lanes := [lane for lane in self._ready if lane.goes_back or self._leader(lane.tp) is None]:
            await asyncio.sleep(next(pauses))
            self._expire(lanes)
            await self._connect(lanes)
            for lane in lanes:
                if lane.error is None and lane.goes_back and not lane.unanswered and self._leader(lane.tp) is not None:
                    lane.goes_back = False
                    lane.is_known = False  # alone, until it is clear how far Kafka has come
            self._send_waiting()
        self._mending = None
        self._send_waiting()

    def _expire(self, lanes: Sequence[Lane]) -> None:
        now_s = time.monotonic()
        for lane in lanes:
            oldest = (*lane.sent, *lane.waiting)[:1]
            if oldest and now_s > oldest[0].give_up_s:
                why = f": {lane.refusal!r}" if lane.refusal else ""
                lane.fail(KafkaTimeoutError(f"{lane.tp} has not taken a batch in {self.timeout_s:.0f} s{why}"))
                self._ready.pop(lane, None)

    async def _connect(self, lanes: Sequence[Lane]) -> None:
        try:
            await connection.refresh(self._client)
            leaders = {self._client.cluster.leader_for_partition(lane.tp) for lane in lanes} - {None, -1}
            away = [leader for leader in leaders if connection.of(self._client, leader) is None]
            await asyncio.gather(*(connection.reach(self._client, leader) for leader in away))
        except Exception as error:  # noqa: BLE001 - while it is tried again, its lanes still have their time limits
            log.warning("connecting to Kafka failed", action="produce", error=repr(error))


def _codes_of(answer: "asyncio.Future[memoryview]") -> Mapping[TopicPartition, int] | Exception:
    """Return the error code of every partition that was answered for, or why there is no answer."""
    try:
        return wire.produced(answer.result())
    except asyncio.CancelledError:
        return TimeoutError("the request was given up")
    except Exception as error:  # noqa: BLE001 - whatever it is, the batches are not known to be written
        return error
