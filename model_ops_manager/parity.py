"""Are the rows, predictions and bars in their topics the ones that their ticks give? Recomputes and compares."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from data_io import log_reader
from data_io.topics import admin, bars, predictions, rows
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import InputError
from ml_core.spec import PipelineSpec
from ml_core.types import OffsetRange
from model_ops_manager.champion import ModelReader, Serving, load_serving, must_fit
from model_ops_manager.compared import MAX_COMPARED, Compared
from model_ops_manager.parity_check import Check, Findings, Start
from model_ops_manager.shed import Shed
from model_ops_manager.subject import Committed, Subject

# Rows, predictions and bars of a round go out together: beside what is out for longer, by Kafka's clock, all is.
SETTLED_S = 10.0

Offsets = Mapping[int, tuple[int, int]]  # partition -> first and last offset (exclusive)


class Arrival(NamedTuple):
    """Ticks that Kafka took in ``[since_ms, until_ms)``, milliseconds since the epoch, UTC; None: no bound."""

    since_ms: int | None = None
    until_ms: int | None = None


@dataclass
class Parity:
    """What ``verify`` found."""

    pipeline: str
    ranges: list[OffsetRange]
    state_from: dict[int, int]  # partition -> the first tick there is; state before it cannot be known
    rows: Compared
    predictions: Compared
    bars: Compared | None = None  # where the pipeline makes any
    not_out: dict[int, tuple[int, int]] = field(default_factory=dict)  # partition -> ticks at its end, left out

    @property
    def is_empty(self) -> bool:
        """True where nothing was compared, and so nothing is proven."""
        return not any(compared.compared for compared in self.outputs.values())

    @property
    def is_equal(self) -> bool:
        """True where rows, predictions and bars are what they must be."""
        return all(compared.is_equal for compared in self.outputs.values())

    @property
    def unproven(self) -> dict[str, Counter[str]]:
        """What should have been compared and could not be, by kind, and why."""
        found = {kind: Counter(compared.unproven) for kind, compared in self.outputs.items()}
        if not self.rows.compared:
            found["rows"] = self.rows.unchecked
        return {kind: +counts for kind, counts in found.items() if counts.total()}

    @property
    def outputs(self) -> dict[str, Compared]:
        """What was compared, by kind."""
        found = {"rows": self.rows, "predictions": self.predictions}
        return found if self.bars is None else found | {"bars": self.bars}

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "pipeline": self.pipeline,
            "is_equal": self.is_equal,
            "ranges": [each.model_dump() for each in self.ranges],
            "is_empty": self.is_empty,
            "is_proven": not (self.is_empty or self.unproven),
            "state_from": self.state_from,
            "not_out": self.not_out,
            **{kind: compared.as_dict() for kind, compared in self.outputs.items()},
        }


async def verify(
    bootstrap: str,
    spec: PipelineSpec,
    models: ModelReader,
    asked: Offsets | Arrival | None = None,
    shed: Mapping[int, Shed] | None = None,
    committed: Mapping[int, Committed] | None = None,
) -> Parity:
    """Recompute rows, predictions and bars of ``spec`` from its ticks and compare them, to the bit, with what is out.

    State begins with the first tick that Kafka still has, or behind the ticks that the worker skipped before the range.
    Where older ticks were deleted, what looks back further than that can differ, and ``state_from`` says so.

    Args:
        bootstrap: Kafka.
        spec: The pipeline.
        models: Where the versions that scored are.
        asked: The ticks to compare; what has no end goes as far as outputs reach, without those of the last moment that
            may be under way. None: all.
        shed: What the worker skipped of each partition: nothing is expected of it, and it is counted as shed.
        committed: What checkpoints that were read before say must be out of each partition, beside what is seen.

    Raises:
        InputError: A range is not there, or holds more than MAX_COMPARED of ticks, rows, predictions or bars. A retry
            will not help.
        NotFoundError: The topic of ticks, rows, predictions or bars is not there.
        KafkaUnavailableError, ModelStoreUnavailableError: A retry is safe.
    """
    topic = spec.source.topic
    info = await admin.describe(bootstrap, topic)
    for output in _outputs(spec):
        await admin.describe(bootstrap, output)  # a worker creates them before its first tick
    tps = [TopicPartition(topic, number) for number in range(info.partitions)]
    plan = FeaturePlan.from_spec(spec)
    fits = must_fit(plan.hash, spec.features.window)

    @cache
    def load(version: int) -> Serving:
        return load_serving(models, spec.name, version, fits)

    findings = Findings()
    report = Parity(spec.name, [], {}, findings.rows, findings.predictions, findings.bars if spec.bars else None)
    async with log_reader.consumer(bootstrap) as consumer:
        held = await log_reader.held(consumer, tps)
        for tp, each in held.items():  # what was skipped before that is not known any more
            known_from = (shed or {}).get(tp.partition, Shed()).known_from
            held[tp] = each.model_copy(update={"start": min(max(each.start, known_from), each.end)})
        for tp, each in (await _wanted(consumer, held, asked)).items():
            skipped = (shed or {}).get(tp.partition, Shed())
            begin = skipped.start_before(each.start, held[tp].start)
            is_cut = begin > 0 and not any(begin == end for _, end in skipped.ranges)
            start = Start.empty(spec, plan, begin, is_cut=is_cut)
            trimmed = await _trimmed(consumer, spec, tp.partition)
            said = _still_out(spec, (committed or {}).get(tp.partition, Committed()), trimmed)
            subject = Subject(spec, info.topic_id, each, skipped, said)
            check = Check(subject, start, load, findings, is_trimmed=rows.name(spec.feature_set) in trimmed)
            await _read_outputs(consumer, spec, check, tp.partition)
            if each.end == held[tp].end and (asked is None or isinstance(asked, Arrival)):
                check.leave_what_is_under_way()
                if check.asked.end < each.end:
                    report.not_out[tp.partition] = check.asked.end, each.end
            report.ranges.append(check.asked)
            report.state_from[tp.partition] = begin
            state_and_all = OffsetRange(partition=tp.partition, start=begin, end=check.asked.end)
            async for _, records in log_reader.read(consumer, {tp: state_and_all}):
                check.recompute(records)
            check.end()
    return report


async def _read_outputs(consumer: AIOKafkaConsumer, spec: PipelineSpec, check: Check, partition: int) -> None:
    settled_ms = (time.time() - SETTLED_S) * 1000
    # Rows first: what is beside them and read later cannot have been written after them and be missed.
    async for record in _all(consumer, TopicPartition(rows.name(spec.feature_set), partition)):
        check.add_rows(record.value, record.headers, is_settled=record.timestamp <= settled_ms)
    async for record in _all(consumer, TopicPartition(predictions.name(spec.name), partition)):
        check.add_predictions(record.value, record.headers)
    if spec.bars is not None:
        async for record in _all(consumer, TopicPartition(bars.name(spec.feature_set), partition)):
            check.add_bars(record.value)


async def _trimmed(consumer: AIOKafkaConsumer, spec: PipelineSpec, partition: int) -> set[str]:
    """Return the output topics whose oldest records were deleted."""
    begins, _ = await log_reader.bounds(consumer, [TopicPartition(name, partition) for name in _outputs(spec)])
    return {tp.topic for tp, begin in begins.items() if begin > 0}


def _still_out(spec: PipelineSpec, said: Committed, trimmed: Collection[str]) -> Committed:
    """Return ``said`` without what may have been deleted since."""
    if predictions.name(spec.name) in trimmed:
        said = said._replace(serves_from=None)
    return said._replace(bars_from=None) if bars.name(spec.feature_set) in trimmed else said


def _outputs(spec: PipelineSpec) -> list[str]:
    found = [rows.name(spec.feature_set), predictions.name(spec.name)]
    return found if spec.bars is None else [*found, bars.name(spec.feature_set)]


async def _all(consumer: AIOKafkaConsumer, tp: TopicPartition) -> AsyncIterator[ConsumerRecord]:
    async for _, records in log_reader.read(consumer, await log_reader.held(consumer, [tp])):
        for record in records:
            yield record


async def _wanted(
    consumer: AIOKafkaConsumer, held: Mapping[TopicPartition, OffsetRange], asked: Offsets | Arrival | None
) -> dict[TopicPartition, OffsetRange]:
    """Return what is to be compared, checked against ``held``."""
    if asked is None:
        found = dict(held)
    elif isinstance(asked, Arrival):
        found = await log_reader.arrived(consumer, held, *asked)
        if not found:
            raise InputError("no tick arrived in that time, or retention has deleted them")
    else:
        found = _named(held, asked)
    count = sum(each.end - each.start for each in found.values())
    if count > MAX_COMPARED:
        raise InputError(f"{count} ticks are more than the {MAX_COMPARED} that are compared at once: name a range")
    return found


def _named(held: Mapping[TopicPartition, OffsetRange], ranges: Offsets) -> dict[TopicPartition, OffsetRange]:
    by_number = {tp.partition: tp for tp in held}
    found = {}
    for number, (start, end) in sorted(ranges.items()):
        if number not in by_number or end <= start:
            raise InputError(f"there are no offsets {start} to {end - 1} in partition {number}")
        tp, there = by_number[number], held[by_number[number]]
        if start < there.start or end > there.end:
            raise InputError(
                f"partition {number} of {tp.topic!r} holds offsets {there.start} to {there.end - 1}, "
                f"not all of {start} to {end - 1}"
            )
        found[tp] = OffsetRange(partition=number, start=start, end=end)
    return found
