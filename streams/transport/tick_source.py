"""The service that owns the ticks consumer: assignment, takeover, and one round of batches at a time to the agents."""

import asyncio
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mode
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from data_io import log_reader
from data_io.kafka_clients import end_consumer
from data_io.topics import admin
from data_io.topics.raw_records import RawFetch
from ml_core.errors import KafkaUnavailableError, NotFoundError, SetupError
from streams import metrics
from streams.transport import connection, packed_batch
from streams.transport.attempts import Attempts, is_away
from streams.transport.batch_channel import Batch, BatchChannel, Round
from streams.transport.batch_sender import BatchSender
from streams.transport.partition import Partition, Phase
from streams.transport.shared import Shared
from streams.transport.tick_fetcher import TickFetcher, end_of

log = structlog.get_logger()

# How long one wait for new ticks lasts; due checkpoints and swaps of idle partitions are looked for this often.
POLL_S = 0.05
# The lag is reported this often.
REPORT_S = 0.25
# Batches of partitions are handed out together up to this size.
ROUND_BYTES = 1 << 18
# While a round is scored the loop stands still. A checkpoint takes a dozen answers of Kafka, and each waits for the
# round that is under way; so does a heartbeat. Where a model makes rounds longer than this, less is fetched.
ROUND_S = 0.1
LEAST_FETCH_BYTES = 1 << 14
# An open partition is asked for ticks all the time, and an empty answer comes within milliseconds.
SILENT_S = 5.0
# How long a takeover asks what the topic is and holds. What begins in the cut of a network ends no sooner.
ASKED_S = 15.0
# Kafka answers who joins within the session timeout, and everything else at once. Behind a half open connection a
# worker does not hear that its group has given it up, and goes on to claim what is no longer its own.
GROUP_ANSWER_MS = 5_000  # besides the session timeout


@dataclass(frozen=True)
class Membership:
    """How the worker is a member of its group."""

    instance: str | None = None  # static membership: a restarted worker gets its partitions back at once
    session_timeout_ms: int = 10_000
    max_fetch_bytes: int = 1 << 20


def _patience_s(partitions: Collection[Partition]) -> float:
    """Return how long new ticks may be waited for."""
    if any(p.fetched and p.takes_batches for p in partitions):
        return 0.0
    return min([POLL_S, *(p.lingers_s for p in partitions if p.lingers_s > 0)])


def next_fetch_bytes(fetch_bytes: int, round_bytes: int, took_s: float, most: int) -> int:
    """Return how much of a partition to fetch at once, after a round of ``round_bytes`` that took ``took_s``.

    >>> next_fetch_bytes(1_000_000, 1_000_000, 0.4, 1_000_000)
    250000
    >>> next_fetch_bytes(250_000, 250_000, 0.01, 1_000_000)
    500000

    A small round says nothing of a large one: a burst would meet a slow model with all at once.

    >>> next_fetch_bytes(250_000, 2_000, 0.01, 1_000_000)
    250000
    """
    if took_s > ROUND_S:
        return max(min(fetch_bytes, int(round_bytes * ROUND_S / took_s)), LEAST_FETCH_BYTES)
    has_room = took_s < ROUND_S / 4 and round_bytes >= fetch_bytes // 2
    return min(2 * fetch_bytes, most) if has_room else fetch_bytes


def _rounds(partitions: Sequence[Partition]) -> Iterator[list[Partition]]:
    """Yield them in order, together where their batches are small: each round has a cost, and holds up the loop."""
    part: list[Partition] = []
    size = 0
    for partition in partitions:
        more = len(partition.fetched[0].raw)
        if part and size + more > ROUND_BYTES:
            yield part
            part, size = [], 0
        part.append(partition)
        size += more
    if part:
        yield part


class TickSource(mode.Service, ConsumerRebalanceListener):  # type: ignore[misc]  # both ship no usable types
    """Feeds a ``BatchChannel`` with rounds of fetched batches; the next comes when every batch of one has ended."""

    def __init__(self, shared: Shared, channel: BatchChannel, membership: Membership, **kwargs: Any) -> None:
        """Serve the partitions of ``shared.topic`` that the group assigns to this worker."""
        super().__init__(**kwargs)
        self.shared, self.channel, self.membership = shared, channel, membership
        self.partitions: dict[int, Partition] = {}
        self.fatal: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.pumped_s = time.monotonic()  # when the pump last came round
        self._attempts: dict[int, Attempts] = {}  # of partitions that have failed since they last got further
        self._claims: dict[int, asyncio.Task[None]] = {}
        self.troubles: dict[int, str] = {}  # partition -> why it has to be taken over once more
        self.has_joined = False
        self.busy_since: float | None = None  # when the batch at the agents was handed out
        self._idle = asyncio.Event()
        self._idle.set()
        self._next_report = 0.0
        self._wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def unanswered(self) -> dict[int, float]:
        """For how many seconds Kafka has owed a partition an answer to whatever was asked, where that is no chance."""
        if not self.has_joined:
            return {}
        found = self.silent
        for partition in tuple(self.partitions.values()):
            if partition.works and (wait_s := partition.unanswered_s) > SILENT_S:
                found[partition.number] = max(wait_s, found.get(partition.number, 0.0))
        return found

    @property
    def silent(self) -> dict[int, float]:
        """For how many seconds Kafka has answered no fetch of a partition, where it is too long to be chance."""
        now_s = time.monotonic()
        return {
            tp.partition: now_s - since_s
            for tp, since_s in self.fetcher.waits.copy().items()
            if now_s - since_s > SILENT_S
        }

    def work(self) -> dict[int, tuple[float, object]]:
        """Return how many ticks of each open partition wait, and its position; not of those Kafka is silent about.

        What lies behind an open transaction does not wait, nor anything while Kafka answers nothing at all. Where the
        pump stands still, silence is not Kafka's.
        """
        silent = self.silent if time.monotonic() - self.pumped_s < SILENT_S else {}
        if silent and len(silent) == len(self.fetcher.waits):
            return {}
        readable = self.fetcher.readable
        return {
            each.number: (readable.get(each.tp, 0) - each.position, each.position)
            for each in tuple(self.partitions.values())
            if each.phase in (Phase.OPEN, Phase.SWAPPING) and each.number not in silent
        }

    async def on_start(self) -> None:
        """Join the group."""
        packed_batch.install()
        connection.install()
        self.sender = BatchSender(self.shared.bootstrap)
        self.consumer = AIOKafkaConsumer(
            bootstrap_servers=self.shared.bootstrap,
            group_id=self.shared.group,
            group_instance_id=self.membership.instance,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            partition_assignment_strategy=(StickyPartitionAssignor,),
            session_timeout_ms=self.membership.session_timeout_ms,
            heartbeat_interval_ms=self.membership.session_timeout_ms // 4,
            request_timeout_ms=self.membership.session_timeout_ms + GROUP_ANSWER_MS,
        )
        self.fetcher = TickFetcher(self.consumer._client, partition_bytes=self.membership.max_fetch_bytes)
        self.consumer.subscribe([self.shared.topic], listener=self)
        # A member that was killed keeps the group waiting until its session is over.
        async with asyncio.timeout(30.0 + self.membership.session_timeout_ms / 1000):
            await self.consumer.start()
            await self.sender.start()

    async def on_stop(self) -> None:
        """Close every partition with a checkpoint, then leave the group."""
        if not self.started:
            return
        await self._close_all(checkpoint=True)
        await self.fetcher.stop()
        await self.sender.stop()
        await end_consumer(self.consumer)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Checkpoint and forget; awaited by the consumer before it joins again."""
        if revoked:
            log.info("partitions revoked", action="revoke", partitions=sorted(tp.partition for tp in revoked))
        await self._close_all(checkpoint=True)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Hold every new partition still and claim it in a task of its own, so that the group does not wait."""
        if self.should_stop:
            return
        self.has_joined = True
        for tp in assigned:
            # The consumer is a member of the group and reads nothing: some position keeps it from asking for one.
            self.consumer.seek(tp, 0)
            self.consumer.pause(tp)
            self._claim(tp.partition)

    @property
    def all_open(self) -> bool:
        """True when the group has given this worker its partitions, possibly none, and all of them are processing."""
        return self.has_joined and all(p.phase in (Phase.OPEN, Phase.SWAPPING) for p in tuple(self.partitions.values()))

    def _claim(self, number: int, delay_s: float = 0.0) -> None:
        partition = self.partitions[number] = Partition(self.shared, number, self.sender, self._wake_up)
        self._claims[number] = asyncio.create_task(self._take_over(partition, delay_s), name=f"takeover-{number}")

    async def _take_over(self, partition: Partition, delay_s: float) -> None:
        tp = partition.tp
        try:
            await asyncio.sleep(delay_s)
            await partition.open(await self._first_offset(tp))
            self.fetcher.seek(tp, partition.position)
            self.troubles.pop(partition.number, None)
            if attempts := self._attempts.get(partition.number):
                attempts.taken_over()
        except SetupError as error:
            self.give_up(error)
        except Exception as error:  # noqa: BLE001 - whatever stopped a takeover, the way out is the same
            metrics.TAKEOVER_FAILURES.inc()
            await self._start_over(partition, error)

    async def _first_offset(self, tp: TopicPartition) -> int:
        """Return the oldest tick Kafka still has, of a topic that is the one that rows are named after.

        Asked through new connections: those of the group may be half open.
        """
        bootstrap = self.shared.bootstrap
        try:
            async with asyncio.timeout(ASKED_S):
                await self._check_topic()
                async with log_reader.consumer(bootstrap) as consumer:
                    return int((await consumer.beginning_offsets([tp]))[tp])
        except TimeoutError as error:
            raise KafkaUnavailableError(f"Kafka at {bootstrap} did not answer within {ASKED_S:g} s") from error

    async def _check_topic(self) -> None:
        """Raise a SetupError where the topic is no longer the one that rows are named after."""
        shared = self.shared
        try:
            found = await admin.describe(shared.bootstrap, shared.topic)
        except NotFoundError as error:
            raise SetupError(f"{shared.topic} was deleted while the worker ran") from error
        if (found.topic_id, found.partitions) != (shared.topic_id, shared.partitions):
            raise SetupError(f"{shared.topic} was made anew, or widened, while the worker ran: start it again")

    async def _start_over(self, partition: Partition, error: Exception) -> None:
        """Throw the partition away and claim it again, unless that has not helped for too long."""
        number, away = partition.number, partition.phase is Phase.CLAIMING and is_away(error)
        await partition.close(checkpoint=False)
        if self.partitions.get(number) is not partition:
            return
        attempts = self._attempts.setdefault(number, Attempts())
        pause_s = attempts.failed(partition.position, away=away)
        self.troubles[number] = str(error) or repr(error)
        log.error(
            "partition failed, taking it over again",
            action="start-over",
            partition=number,
            position=partition.position,
            attempt=attempts.count,
            away=away,
            error=repr(error),
        )
        if isinstance(error, SetupError):  # no attempt changes that
            self.give_up(SetupError(f"partition {number} of {partition.tp.topic}: {error}"))
        elif pause_s is None:
            self.give_up(error)
        elif partition.tp in self.consumer.assignment():
            self._claim(number, delay_s=pause_s)

    def give_up(self, error: Exception) -> None:
        """Let the worker end with ``error``, unless it ends with another one."""
        if not self.fatal.done():
            self.fatal.set_result(error)

    async def _close_all(self, *, checkpoint: bool) -> None:
        partitions, self.partitions = list(self.partitions.values()), {}
        self.has_joined = False
        self.troubles.clear()
        self._attempts.clear()
        metrics.LAG.clear()
        for partition in partitions:
            self.fetcher.forget(partition.tp)
        for task in self._claims.values():
            task.cancel()
        await asyncio.gather(*self._claims.values(), return_exceptions=True)
        self._claims.clear()
        # The batch at the agents moves state: it ends before its partition is closed.
        for partition in partitions:
            if partition.phase in (Phase.OPEN, Phase.SWAPPING):
                partition.phase = Phase.CLOSING
        try:
            async with asyncio.timeout(4.0):
                await self._idle.wait()
        except TimeoutError:
            log.warning("a batch did not end in time", action="revoke")
            checkpoint = False
        await asyncio.gather(*(partition.close(checkpoint=checkpoint) for partition in partitions))

    @mode.Service.task
    async def _pump(self) -> None:
        try:
            await self._pump_until_stopped()
        except Exception as error:
            log.exception("the pump of ticks died", action="fetch")
            self.give_up(error)
        finally:
            if not self.should_stop:  # also where it was cancelled, as by a dead coordinator: nobody else would notice
                self.give_up(KafkaUnavailableError("the pump of ticks ended by itself"))

    async def _pump_until_stopped(self) -> None:
        while not self.should_stop:
            self.pumped_s = time.monotonic()
            if not self.channel.has_subscriber:
                await asyncio.sleep(POLL_S)
                continue
            if self._wake.done():
                self._wake = asyncio.get_running_loop().create_future()
            working = [p for p in self.partitions.values() if p.phase in (Phase.OPEN, Phase.SWAPPING)]
            self.fetcher.ask(p.tp for p in working if p.wants_ticks)
            try:
                fetched = await self._arrived(_patience_s(working))
            except OffsetOutOfRangeError as error:
                self.give_up(
                    SetupError(
                        f"ticks that follow are not there: retention deleted them before they were read, "
                        f"or the topic was made anew: {error}"
                    )
                )
                return
            except KafkaError as error:
                if self.consumer._coordinator._coordination_task.done():
                    self.give_up(KafkaUnavailableError(f"the coordinator of the ticks consumer died: {error!r}"))
                    return
                log.warning("fetching ticks failed", action="fetch", error=repr(error))
                await asyncio.sleep(POLL_S)
                continue
            for tp, fetch in fetched:
                self.partitions[tp.partition].fetched.append(fetch)
            self._look_around()
            # The next fetch is under way while this one is processed.
            self.fetcher.ask(p.tp for p in working if p.wants_ticks)
            for together in _rounds([p for p in working if p.takes_batches and p.fetched]):
                await self._hand_out(together)
            if time.monotonic() >= self._next_report:
                self._next_report = time.monotonic() + REPORT_S
                self._report()

    def _look_around(self) -> None:
        for partition in list(self.partitions.values()):
            if partition.phase not in (Phase.OPEN, Phase.SWAPPING):
                continue
            try:
                readable = self.fetcher.readable.get(partition.tp, 0)
                if partition.look_around(readable):
                    self.fetcher.seek(partition.tp, readable)  # what has arrived or is under way is not wanted any more
            except Exception as error:  # noqa: BLE001 - whatever a checkpoint met, the partition starts over
                self._fail(partition, error)

    def _wake_up(self) -> None:
        if not self._wake.done() and any(p.fetched for p in self.partitions.values()):
            self._wake.set_result(None)

    async def _arrived(self, timeout_s: float) -> list[tuple[TopicPartition, RawFetch]]:
        """Return what has been fetched; raises what the coordinator met, which waits with its next step for that."""
        self.consumer._coordinator.check_errors()
        # A member that does not poll for minutes leaves its group; this is what the consumer takes for polling.
        with self.consumer._subscription.fetch_context():
            return await self.fetcher.arrived(timeout_s, self._wake)

    async def _hand_out(self, partitions: Sequence[Partition]) -> None:
        batches = [
            Batch(partition, partition.fetched.popleft())
            for partition in partitions
            if partition.is_open and self._is_next(partition)
        ]
        if not batches:
            return
        self._idle.clear()
        began = self.busy_since = time.monotonic()
        try:
            await self.channel.put(Round(batches))
            for batch in batches:
                await self._ended(batch)
            size, took_s = sum(len(batch.fetch.raw) for batch in batches), time.monotonic() - began
            most = self.membership.max_fetch_bytes
            self.fetcher.partition_bytes = next_fetch_bytes(self.fetcher.partition_bytes, size, took_s, most)
        finally:
            self.busy_since = None
            self._idle.set()

    def _is_next(self, partition: Partition) -> bool:
        first = partition.fetched[0].first_offset
        if first != partition.position:
            # A skipped tick would be lost without a trace.
            skipped = f"ticks come from {first} on instead of {partition.position}"
            self._fail(partition, KafkaUnavailableError(skipped))
        return first == partition.position

    async def _ended(self, batch: Batch) -> None:
        partition = batch.partition
        try:
            partition.advance(*await batch.ended)
            if partition.position < end_of(batch.fetch.raw, otherwise=0)[0]:  # it was too much to decompress at once
                partition.fetched.appendleft(batch.fetch._replace(first_offset=partition.position))
            failed = self._attempts.get(partition.number)
            if failed is not None and failed.is_over(partition.position):
                del self._attempts[partition.number]
        except Exception as error:  # noqa: BLE001 - a batch that cannot be processed stops its partition, uncommitted
            self._fail(partition, error)

    def _fail(self, partition: Partition, error: Exception) -> None:
        partition.phase = Phase.CLOSED  # its state may have moved without its position
        if self.partitions.get(partition.number) is not partition:
            return  # revoked meanwhile, and closed by who revoked it
        self.fetcher.forget(partition.tp)  # what is under way is not for the one that takes its place
        task = asyncio.create_task(self._start_over(partition, error), name=f"start-over-{partition.number}")
        self._claims[partition.number] = task

    def _report(self) -> None:
        metrics.TASKS.set(len(asyncio.all_tasks()))
        for partition in self.partitions.values():
            highwater = self.fetcher.highwater.get(partition.tp)
            if highwater is not None and partition.is_open:
                metrics.LAG.labels(partition.tp.topic, partition.number).set(max(0, highwater - partition.position))
