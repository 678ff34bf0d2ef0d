"""Ticks of a source onto a topic: one JSON record a tick, keyed by symbol, in order, at a chosen speed."""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from data_io.data_fetcher.port import TickStream, cut
from data_io.topics import admin, ticks
from ml_core.errors import InputError, KafkaUnavailableError, SetupError, TickwiseError
from ml_core.frames import KINDS
from ml_core.types import Float64, TickBatch

BATCH_BYTES = 256 << 10
TIMEOUT_S = 30.0
LONGEST_PAUSE_S = 60.0
_READ_TICKS = 4096
_IN_FLIGHT = 32  # unacknowledged batches of a partition before the next one waits: 8 MB
_PROGRESS_S = 0.2
_STOP_S = 5.0
_SHORTEST_SLEEP_S = 0.002  # ticks due within it go together: a batch each would cost more than it is worth

Records = list[tuple[bytes, bytes]]


@dataclass
class PublishReport:
    """What was published; at the end all of it is acknowledged."""

    ticks: int = 0
    per_kind: Counter[str] = field(default_factory=Counter)
    first_ts_ns: int | None = None  # event time of the first and of the last tick
    last_ts_ns: int | None = None
    seconds: float = 0.0
    pauses_cut: int = 0  # silences of the source that were shortened to the longest pause


async def publish(
    fetcher: TickStream,
    *,
    bootstrap: str,
    topic: str,
    speed: float | None = None,
    rate: float | None = None,
    limit: int | None = None,
    longest_pause_s: float = LONGEST_PAUSE_S,
    progress: Callable[[PublishReport], None] = lambda _report: None,
) -> PublishReport:
    """Publish the ticks of ``fetcher`` to the existing ``topic`` and return once all of them are acknowledged.

    The order of a symbol's ticks is kept, and no retry writes a tick twice. Partitions are chosen by key as Kafka's
    own producers choose them. Memory is bounded: some MB a partition, however long the source is.

    Args:
        fetcher: The source.
        bootstrap: Kafka's bootstrap servers.
        topic: A topic with one JSON object a tick, see `data_io.topics.ticks`.
        speed: Times real time on the clock of the ticks; None: as fast as Kafka takes them.
        rate: Ticks per second at a constant rate, instead of ``speed``.
        limit: At most so many ticks.
        longest_pause_s: With ``speed``: longer silences of the source, such as nights, are cut to so many seconds.
        progress: Called a few times a second, and at the end in any case.

    Raises:
        InputError: The source broke off. What came before it is published and counted in the last call of ``progress``.
        SourceUnavailableError: As before; a retry is safe.
        NotFoundError: There is no such topic.
        KafkaUnavailableError: Kafka did not take a batch in time. What was acknowledged is a prefix of each partition.
        SetupError: Kafka refuses the ticks. A retry will not help.
    """
    pace = _Pace(speed, rate, longest_pause_s)
    if limit is not None and limit < 0:
        raise InputError(f"the limit {limit} is negative")
    partitions = (await admin.describe(bootstrap, topic, TIMEOUT_S)).partitions
    run = _Run(pace, Outbox(bootstrap, topic, partitions), progress)
    await run.outbox.start()
    try:
        source = fetcher.stream(_READ_TICKS)
        while limit is None or run.report.ticks < limit:
            # in a thread: reading may take long, and acknowledgements have to be heard meanwhile
            batch = await asyncio.to_thread(next, source, None)
            if batch is None:
                break
            await run.send(batch if limit is None else cut(batch, 0, limit - run.report.ticks))
    finally:
        await run.finish()
    return run.report


class _Run:
    """One publication under way."""

    def __init__(self, pace: "_Pace", outbox: "Outbox", progress: Callable[[PublishReport], None]) -> None:
        self.pace = pace
        self.outbox = outbox
        self.report = PublishReport()
        self._progress = progress
        self._started = self._told = time.monotonic()

    async def send(self, batch: TickBatch) -> None:
        """Hand the ticks of ``batch`` to Kafka when they are due."""
        records = ticks.encode(batch)
        due_N = self.pace.due(batch)
        start = 0
        while start < len(batch):
            now = time.monotonic() - self._started
            if (wait := float(due_N[start]) - now) > 0:
                await asyncio.sleep(max(wait, _SHORTEST_SLEEP_S))
                continue
            end = int(np.searchsorted(due_N, now, side="right"))
            await self.outbox.add(records[start:end])
            if self.pace.waits:
                await self.outbox.send_open()
            self._count(batch, start, end)
            start = end

    async def finish(self) -> None:
        """Wait for all acknowledgements, disconnect, and tell the count."""
        try:
            await self.outbox.settle()
        finally:
            await self.outbox.stop()
            self.report.seconds = time.monotonic() - self._started
            self._progress(self.report)

    def _count(self, batch: TickBatch, start: int, end: int) -> None:
        report = self.report
        report.ticks += end - start
        for kind, n in enumerate(np.bincount(batch.kind_N[start:end], minlength=len(KINDS)).tolist()):
            if n:
                report.per_kind[KINDS[kind]] += n
        if report.first_ts_ns is None:
            report.first_ts_ns = int(batch.ts_ns_N[start])
        report.last_ts_ns = int(batch.ts_ns_N[end - 1])
        report.pauses_cut = self.pace.pauses_cut
        now = time.monotonic()
        if now - self._told >= _PROGRESS_S:
            self._told = now
            report.seconds = now - self._started
            self._progress(report)


class _Pace:
    """When each tick is due, in seconds after the start."""

    def __init__(self, speed: float | None, rate: float | None, longest_pause_s: float) -> None:
        if speed is not None and rate is not None:
            raise InputError("give a speed or a rate, not both")
        for name, value in (("speed", speed), ("rate", rate), ("longest pause", longest_pause_s)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"the {name} {value} is not positive and finite")
        self._speed = speed
        self._rate = rate
        self._longest_pause_s = longest_pause_s
        self._ticks = 0
        self._last_ts_ns: int | None = None
        self._last_due = 0.0
        self.pauses_cut = 0

    @property
    def waits(self) -> bool:
        """Whether ticks have a time to wait for."""
        return self._speed is not None or self._rate is not None

    def due(self, batch: TickBatch) -> Float64:
        """Return when the next N ticks are due, ascending; ticks that are late by their clock are due at once."""
        if self._rate is not None:
            due_N: Float64 = np.arange(self._ticks, self._ticks + len(batch)) / self._rate
            self._ticks += len(batch)
            return due_N
        if self._speed is None:
            return np.zeros(len(batch))
        first = batch.ts_ns_N[0] if self._last_ts_ns is None else self._last_ts_ns
        clock_N = np.maximum.accumulate(np.concatenate([[first], batch.ts_ns_N]))
        wait_N = np.diff(clock_N) / 1e9 / self._speed
        self.pauses_cut += int((wait_N > self._longest_pause_s).sum())
        due_N = self._last_due + np.cumsum(np.minimum(wait_N, self._longest_pause_s))
        self._last_ts_ns, self._last_due = int(clock_N[-1]), float(due_N[-1])
        return due_N


class Outbox:
    """An idempotent producer that fills one batch a partition; a failure of one batch stops all that would follow."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            enable_idempotence=True,
            acks="all",
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=int(TIMEOUT_S * 1000),
        )
        self._partitions = list(range(partitions))
        self._choose = DefaultPartitioner()
        self._partition_of: dict[bytes, int] = {}
        self._open = [self._producer.create_batch() for _ in self._partitions]
        self._failed = False
        self._under_way: list[deque[asyncio.Future[object]]] = [deque() for _ in self._partitions]

    async def start(self) -> None:
        """Connect."""
        try:
            async with asyncio.timeout(TIMEOUT_S):  # wait_for of Python 3.11 may swallow a cancellation
                await self._producer.start()
        except (TimeoutError, KafkaError) as error:
            await self.stop()
            raise KafkaUnavailableError(f"Kafka at {self._bootstrap} did not answer: {error!r}") from error

    async def add(self, records: Records) -> None:
        """Put ``records`` into batches, sending those that are full."""
        for key, value in records:
            partition = self._partition_of.get(key)
            if partition is None:
                partition = self._choose(key, self._partitions, self._partitions)
                self._partition_of[key] = partition
            # an empty batch takes a record of any size
            if self._open[partition].append(key=key, value=value, timestamp=None) is None:
                await self._send(partition)
                self._open[partition].append(key=key, value=value, timestamp=None)

    async def send_open(self) -> None:
        """Send what has been added and not sent."""
        for partition in self._partitions:
            if self._open[partition].record_count():
                await self._send(partition)

    async def settle(self) -> None:
        """Send what is left, and wait until all is acknowledged; after a failure there is nothing to wait for."""
        if self._failed:
            return
        await self.send_open()
        for under_way in self._under_way:
            while under_way:
                await self._acknowledged(under_way)

    async def stop(self) -> None:
        """Disconnect; what is not acknowledged by then is given up."""
        left = [future for under_way in self._under_way for future in under_way if not future.done()]
        for future in left:
            future.cancel()
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(_STOP_S):
                if left or self._failed:
                    await self._give_up()
                await self._producer.stop()
        for future in (future for under_way in self._under_way for future in under_way if not future.cancelled()):
            future.exception()  # asking marks it as heard; the first failure has been raised

    async def _give_up(self) -> None:
        """End the producer's tasks and forget its batches: an idempotent one would try, and ``stop`` wait, for ever."""
        # no public way; the test that no task outlives a lost Kafka pins these names
        await self._producer._sender.close()  # noqa: SLF001
        batches = self._producer._message_accumulator  # noqa: SLF001
        batches._batches.clear()  # noqa: SLF001
        batches._pending_batches.clear()  # noqa: SLF001

    async def _send(self, partition: int) -> None:
        batch, self._open[partition] = self._open[partition], self._producer.create_batch()
        under_way = self._under_way[partition]
        while under_way and (under_way[0].done() or len(under_way) >= _IN_FLIGHT):
            await self._acknowledged(under_way)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                under_way.append(await self._producer.send_batch(batch, self._topic, partition=partition))
        except (TimeoutError, KafkaError) as error:
            raise self._failure(error) from error

    async def _acknowledged(self, under_way: deque["asyncio.Future[object]"]) -> None:
        # to await the future itself would cancel it together with this task, and its answer would never be heard
        done, _ = await asyncio.wait([under_way[0]], timeout=TIMEOUT_S)
        if not done:
            raise self._failure(TimeoutError())
        try:
            under_way.popleft().result()
        except KafkaError as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> TickwiseError:
        self._failed = True
        if isinstance(error, KafkaError) and not error.retriable:
            return SetupError(f"Kafka at {self._bootstrap} refuses ticks for {self._topic!r}: {error!r}")
        why = f"no answer within {TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else repr(error)
        return KafkaUnavailableError(f"Kafka at {self._bootstrap} did not take ticks for {self._topic!r}: {why}")
