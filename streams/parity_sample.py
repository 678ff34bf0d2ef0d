"""Is what this worker publishes what its ticks give? From time to time a few of them are computed again and compared.

The hot path gives a copy of one partition's state at a checkpoint. What follows is read from the topics once a later
checkpoint says that it is out, decoded by the exact decoder, and worked on in short steps of the event loop.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import aclosing
from typing import NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from data_io import log_reader
from data_io.topics import predictions, rows
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import ModelNotFoundError
from ml_core.spec import PipelineSpec
from ml_core.types import OffsetRange
from model_ops_manager.champion import Serving
from model_ops_manager.parity_check import Check, Findings, Start
from model_ops_manager.subject import Subject
from streams import metrics
from streams.transport.partition import Copied, Partition

log = structlog.get_logger()

MAX_TICKS, MAX_BYTES = 2_000, 1 << 20  # of a sample
MAX_COPY_BYTES = 24 << 20  # 10,000 symbols with the features of the default take 9 MB, and as many ms at most
FETCH_BYTES = 1 << 17
# Of an event loop that scores ticks: a step is a millisecond, and others come before the next.
STEP, STEP_BYTES, PAUSE_S = 25, 8192, 0.002
AT_ONCE = 200
# Outputs that are committed can be read a moment later, when the transaction's markers are written.
VISIBLE_S = 10.0
AGAIN_S = 0.25
SLACK_S = 10.0  # on top of the interval, for a checkpoint to come

Ticks = tuple[int, int]  # first and last offset of the ticks that a record of outputs is about


class _Output(NamedTuple):
    """Where outputs stand: of everything behind ``mark`` the partition's owner is the writer."""

    tp: TopicPartition
    mark: int
    ticks: Callable[[ConsumerRecord], Ticks]
    take: Callable[[Check, ConsumerRecord], None]


class ParitySample:
    """Takes samples one after the other, of partition and pipeline in turn."""

    def __init__(
        self, bootstrap: str, partitions: Callable[[], Collection[Partition]], *, every_s: float, checkpoint_s: float
    ) -> None:
        """Sample the open ones of ``partitions`` every ``every_s``; they checkpoint every ``checkpoint_s``."""
        self._bootstrap, self._partitions = bootstrap, partitions
        self._every_s, self._patience_s = every_s, checkpoint_s + SLACK_S
        self._turn = 0
        self._plans: dict[str, FeaturePlan] = {}  # pipeline -> a plan with own features of its own
        self._too_large: set[str] = set()  # pipelines, said once
        for result in ("equal", "different", "missing", "unchecked", "unread"):
            metrics.PARITY_ROWS.labels(result)
            metrics.PARITY_PREDICTIONS.labels(result)

    async def run(self) -> None:
        """Sample until cancelled; no error of a sample ends it."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.look()

    async def look(self) -> None:
        """Take one sample, where a partition is at work."""
        found = [
            (partition, spec)
            for partition in self._partitions()
            if partition.is_open and partition.position != partition.committed
            for spec in partition.shared.pipelines
            if self._is_small(partition, spec)
        ]
        if not found:
            return
        self._turn += 1
        partition, spec = found[self._turn % len(found)]
        try:
            await self._sample(partition, spec)
        except Exception as error:  # noqa: BLE001 - whatever a sample met, the ticks go on
            log.warning(
                "a parity sample was not read",
                action="parity",
                partition=partition.number,
                pipeline=spec.name,
                error=repr(error),
            )
            for counter in (metrics.PARITY_ROWS, metrics.PARITY_PREDICTIONS):
                counter.labels("unread").inc()

    def _is_small(self, partition: Partition, spec: PipelineSpec) -> bool:
        size = partition.copy_bytes(spec)
        if size > MAX_COPY_BYTES and spec.name not in self._too_large:
            self._too_large.add(spec.name)
            log.warning("too much state for parity samples: they are off", action="parity", pipeline=spec.name)
        return size <= MAX_COPY_BYTES

    async def _sample(self, partition: Partition, spec: PipelineSpec) -> None:
        row_tp = TopicPartition(rows.name(spec.feature_set), partition.number)
        prediction_tp = TopicPartition(predictions.name(spec.name), partition.number)
        async with log_reader.consumer(self._bootstrap, fetch_bytes=FETCH_BYTES) as consumer:
            _, marks = await log_reader.bounds(consumer, [row_tp, prediction_tp])
            outputs = [
                _Output(row_tp, marks[row_tp], _ticks_of_rows, _add_rows),
                _Output(prediction_tp, marks[prediction_tp], _ticks_of_predictions, _add_predictions),
            ]
            copied = await self._copied(partition, spec)
            end = await self._out(partition, copied) if copied else 0
            if copied is None or end <= copied.position:
                return
            ticks = await _ticks(consumer, partition.tp, copied.position, end)
            if ticks:
                asked = OffsetRange(partition=partition.number, start=copied.position, end=ticks[-1].offset + 1)
                findings = await _compared(consumer, partition, spec, copied, asked, outputs, ticks)
                if _is_same(partition, copied):
                    _tell(spec, findings)

    async def _copied(self, partition: Partition, spec: PipelineSpec) -> Copied | None:
        """Return the state at the next checkpoint; None where none is due."""
        if spec.name not in self._plans:
            self._plans[spec.name] = FeaturePlan.from_spec(spec)
        copied = partition.copy_at_checkpoint(spec, self._plans[spec.name])
        await asyncio.wait([copied], timeout=self._patience_s)
        if copied.done():
            return copied.result()
        copied.cancel()
        return None

    async def _out(self, partition: Partition, copied: Copied) -> int:
        """Return the end of the sample: as far as it is wanted and, by a later checkpoint, out."""
        wanted, until_s = copied.position + MAX_TICKS, time.monotonic() + self._patience_s

        def may_come() -> bool:
            return partition.committed < wanted and time.monotonic() < until_s and _is_same(partition, copied)

        while may_come():  # noqa: ASYNC110 - a sample has time, and a checkpoint has nobody to tell
            await asyncio.sleep(AGAIN_S)
        return min(wanted, partition.committed) if _is_same(partition, copied) else 0


def _is_same(partition: Partition, copied: Copied) -> bool:
    """Return whether the partition has gone on from the copied state without a break."""
    return partition.works and partition.state is copied.owner


async def _ticks(consumer: AIOKafkaConsumer, tp: TopicPartition, start: int, end: int) -> list[ConsumerRecord]:
    """Return the records in ``[start, end)``, and of large ones fewer."""
    found: list[ConsumerRecord] = []
    size, wanted = 0, {tp: OffsetRange(partition=tp.partition, start=start, end=end)}
    async with aclosing(log_reader.read(consumer, wanted, at_once=AT_ONCE)) as parts:
        async for _, records in parts:
            for record in records:
                size += len(record.value or b"")
                if found and size > MAX_BYTES:
                    return found
                found.append(record)
            await asyncio.sleep(PAUSE_S)
    return found


async def _compared(
    consumer: AIOKafkaConsumer,
    partition: Partition,
    spec: PipelineSpec,
    copied: Copied,
    asked: OffsetRange,
    outputs: Sequence[_Output],
    ticks: Sequence[ConsumerRecord],
) -> Findings:
    def load(version: int) -> Serving:
        for serving in (copied.serving, partition.serving.get(spec.name)):
            if serving is not None and serving.version.version == version:
                return serving
        raise ModelNotFoundError(f"version {version} serves no more")

    start = Start(copied.features, copied.tail, is_served=copied.serving is not None)
    findings = Findings()
    check = Check(Subject(spec, partition.shared.topic_id, asked), start, load, findings)
    for output in outputs:
        await _read(consumer, output, check)
    for step in _steps(ticks):
        check.recompute(step)
        await asyncio.sleep(PAUSE_S)
    check.end()
    return findings


def _steps(ticks: Sequence[ConsumerRecord]) -> Iterator[Sequence[ConsumerRecord]]:
    """Yield them in order, some at once; one of many ticks alone."""
    first = size = 0
    for number, record in enumerate(ticks):
        size += len(record.value or b"")
        if number > first and (number - first >= STEP or size > STEP_BYTES):
            yield ticks[first:number]
            first, size = number, len(record.value or b"")
    yield ticks[first:]


async def _read(consumer: AIOKafkaConsumer, output: _Output, check: Check) -> None:
    """Give ``check`` what is out about its ticks; waits for the last of them, which may have given nothing."""
    tp, asked, until_s = output.tp, check.asked, time.monotonic() + VISIBLE_S
    _, ends = await log_reader.bounds(consumer, [tp])
    at = await _first_about(consumer, output, ends[tp], asked.start)
    while True:
        wanted = {tp: OffsetRange(partition=tp.partition, start=at, end=max(at, ends[tp]))}
        async with aclosing(log_reader.read(consumer, wanted, at_once=AT_ONCE)) as parts:
            async for _, records in parts:
                # In a thread: an Arrow record of 4096 predictions takes a tenth of a second.
                if await asyncio.to_thread(_taken, output, check, records):
                    return
                await asyncio.sleep(PAUSE_S)
        at = wanted[tp].end
        if time.monotonic() > until_s:
            return
        await asyncio.sleep(AGAIN_S)
        _, ends = await log_reader.bounds(consumer, [tp])


def _taken(output: _Output, check: Check, records: Sequence[ConsumerRecord]) -> bool:
    """Give ``check`` the records about its ticks; return whether they reach the last of them."""
    for record in records:
        first, last = output.ticks(record)
        if first < check.asked.end:
            output.take(check, record)
        if last >= check.asked.end - 1:
            return True
    return False


async def _first_about(consumer: AIOKafkaConsumer, output: _Output, end: int, tick: int) -> int:
    """Return an offset of outputs below which all are about ticks before ``tick``, and not far below."""
    low, high = output.mark, end
    while high - low > AT_ONCE:
        middle = (low + high) // 2
        consumer.assign([output.tp])
        consumer.seek(output.tp, middle)
        found = (await consumer.getmany(output.tp, timeout_ms=1000, max_records=1)).get(output.tp)
        if found and (await asyncio.to_thread(output.ticks, found[0]))[1] < tick:
            low = found[0].offset + 1
        else:
            high = middle
    return low


def _ticks_of_rows(record: ConsumerRecord) -> Ticks:
    offset_N = rows.decode(record.value).rows.offset_N
    return int(offset_N[0]), int(offset_N[-1])


def _ticks_of_predictions(record: ConsumerRecord) -> Ticks:
    found = predictions.decode(record.value, record.headers)
    first, last = (int(found[place]["id"].rsplit("-", 2)[1]) for place in (0, -1))
    return first, last


def _add_rows(check: Check, record: ConsumerRecord) -> None:
    check.add_rows(record.value, record.headers)


def _add_predictions(check: Check, record: ConsumerRecord) -> None:
    check.add_predictions(record.value, record.headers)


def _tell(spec: PipelineSpec, findings: Findings) -> None:
    for kind, counter, compared in (
        ("rows", metrics.PARITY_ROWS, findings.rows),
        ("predictions", metrics.PARITY_PREDICTIONS, findings.predictions),
    ):
        counter.labels("equal").inc(compared.compared - compared.different)
        counter.labels("different").inc(compared.different + compared.conflicting + compared.unexpected)
        counter.labels("missing").inc(compared.missing)
        counter.labels("unchecked").inc(compared.unchecked.total())
        if compared.first:
            log.error(
                "what is published is not what its ticks give",
                action="parity",
                outputs=kind,
                pipeline=spec.name,
                **compared.first,
                mismatches=dict(compared.mismatches),
            )
