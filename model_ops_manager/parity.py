"""Are the rows and predictions that stand in their topics the ones that their ticks give? Recomputes and compares.

Shapes: N rows, F features.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from data_io import log_reader
from data_io.topics import admin, predictions, rows
from data_io.topics.predictions import PredictionEncoder
from data_io.topics.ticks import TickDecoder
from ml_core.data_processor import features
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.data_processor.windows import Tail
from ml_core.errors import InputError, ModelNotFoundError, ModelRefusedError
from ml_core.spec import PipelineSpec
from ml_core.types import Bool, OffsetRange, RowBatch, RowFlag, SymbolTable
from model_ops_manager import scoring
from model_ops_manager.champion import ModelReader, Serving, load_serving, must_fit
from model_ops_manager.scoring import Unscored

MAX_COMPARED = 2_000_000  # rows in memory at once
Name = tuple[int, int]  # offset and index of the tick


@dataclass
class Compared:
    """How what stands in one topic compares with what its ticks give."""

    compared: int = 0
    mismatches: Counter[str] = field(default_factory=Counter)  # by feature or field
    missing: int = 0  # recomputed, and not in the topic
    unexpected: int = 0  # in the topic, and not recomputed
    repeated: int = 0  # names that stand in the topic more than once, with equal values
    conflicting: int = 0  # and with other values
    unchecked: Counter[str] = field(default_factory=Counter)  # and why
    first: dict[str, Any] | None = None  # the first difference

    @property
    def is_equal(self) -> bool:
        """True where nothing differs, is missing or too much."""
        return not (self.mismatches or self.missing or self.unexpected or self.conflicting)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {**vars(self), "mismatches": dict(self.mismatches), "unchecked": dict(self.unchecked)}

    def differs(self, what: str, partition: int, name: Name, found: object, expected: object) -> None:
        """Count one difference."""
        self.mismatches[what] += 1
        self.note(what, partition, name, found, expected)

    def note(self, what: str, partition: int, name: Name, found: object, expected: object) -> None:
        """Remember a difference where it is the first."""
        if self.first is None:
            place = {"partition": partition, "offset": name[0], "index": name[1]}
            self.first = {"what": what, **place, "found": found, "expected": expected}


@dataclass
class Parity:
    """What ``verify`` found."""

    pipeline: str
    ranges: list[OffsetRange]
    state_from: dict[int, int]  # partition -> the first tick there is; state before it cannot be known
    rows: Compared
    predictions: Compared

    @property
    def is_equal(self) -> bool:
        """True where rows and predictions are what they must be."""
        return self.rows.is_equal and self.predictions.is_equal

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "pipeline": self.pipeline,
            "is_equal": self.is_equal,
            "ranges": [each.model_dump() for each in self.ranges],
            "state_from": self.state_from,
            "rows": self.rows.as_dict(),
            "predictions": self.predictions.as_dict(),
        }


class _Row(NamedTuple):
    symbol: str
    values: bytes  # time, mid, spread, flags and features, as they are


async def verify(
    bootstrap: str, spec: PipelineSpec, models: ModelReader, ranges: Mapping[int, tuple[int, int]] | None = None
) -> Parity:
    """Recompute rows and predictions of ``spec`` from its ticks and compare them, to the bit, with what is out.

    State begins with the first tick that Kafka still has. Where older ones were deleted, what looks back further than
    that can differ, and ``state_from`` says so.

    Args:
        bootstrap: Kafka.
        spec: The pipeline.
        models: Where the versions that scored are.
        ranges: Partition -> first and last offset (exclusive) of the ticks to compare; None: as far as outputs reach.

    Raises:
        InputError: A range is not there, or holds more than MAX_COMPARED ticks. A retry will not help.
        NotFoundError: The topic of ticks, rows or predictions is not there.
        KafkaUnavailableError, ModelStoreUnavailableError: A retry is safe.
    """
    topic = spec.source.topic
    info = await admin.describe(bootstrap, topic)
    for output in (rows.name(spec.feature_set), predictions.name(spec.name)):
        await admin.describe(bootstrap, output)  # a worker creates both before its first tick
    tps = [TopicPartition(topic, number) for number in range(info.partitions)]
    report = Parity(spec.name, [], {}, Compared(), Compared())
    async with log_reader.consumer(bootstrap) as consumer:
        held = await log_reader.held(consumer, tps)
        wanted = _wanted(held, ranges)
        for tp, each in wanted.items():
            check = _Check(spec, tp.partition, info.topic_id, each, report, models, is_cut=held[tp].start > 0)
            await check.read_outputs(consumer)
            if ranges is None:
                check.leave_what_is_under_way()
            report.ranges.append(check.asked)
            report.state_from[tp.partition] = held[tp].start
            state_and_all = OffsetRange(partition=tp.partition, start=held[tp].start, end=check.asked.end)
            async for _, records in log_reader.read(consumer, {tp: state_and_all}):
                check.recompute(records)
            check.end()
    return report


def _wanted(
    held: Mapping[TopicPartition, OffsetRange], ranges: Mapping[int, tuple[int, int]] | None
) -> dict[TopicPartition, OffsetRange]:
    found = {}
    known = {tp.partition for tp in held}
    for number, (start, end) in (ranges or {}).items():
        if number not in known or end <= start:
            raise InputError(f"there are no offsets {start} to {end - 1} in partition {number}")
    for tp, each in held.items():
        start, end = (each.start, each.end) if ranges is None else ranges.get(tp.partition, (0, 0))
        if end > start:
            if start < each.start or end > each.end:
                raise InputError(
                    f"partition {tp.partition} of {tp.topic!r} holds offsets {each.start} to {each.end - 1}, "
                    f"not all of {start} to {end - 1}"
                )
            found[tp] = OffsetRange(partition=tp.partition, start=start, end=end)
    count = sum(each.end - each.start for each in found.values())
    if count > MAX_COMPARED:
        raise InputError(f"{count} ticks are more than the {MAX_COMPARED} that are compared at once: name a range")
    return found


class _Check:
    """One partition: what is out in a range, and what its ticks give."""

    def __init__(
        self,
        spec: PipelineSpec,
        partition: int,
        topic_id: str,
        asked: OffsetRange,
        report: Parity,
        models: ModelReader,
        *,
        is_cut: bool,
    ) -> None:
        self._is_cut = is_cut  # older ticks were deleted, and so may rows be
        self._spec, self._partition, self._topic_id, self.asked = spec, partition, topic_id, asked
        self._report, self._models = report, models
        self._rows: dict[Name, _Row] = {}
        self._predictions: dict[Name, dict[str, Any]] = {}
        self._plan = FeaturePlan.from_spec(spec)
        self._decoder = TickDecoder(spec.source.map)
        self._state = FeatureState(self._plan, SymbolTable())
        window = spec.features.window
        self._tail = Tail(window, len(self._plan.names)) if window > 1 else None
        self._first_row = self._first_prediction = asked.end
        self._other: set[Name] = set()  # rows of other features
        self._served: dict[int, tuple[Serving, PredictionEncoder] | str] = {}

    async def read_outputs(self, consumer: AIOKafkaConsumer) -> None:
        """Take what is out in the range."""
        report = self._report
        async for record in self._all(consumer, rows.name(self._spec.feature_set)):
            found = rows.decode(record.value)
            self._first_row = min(self._first_row, int(found.rows.offset_N.min(initial=self._first_row)))
            if found.hash != self._plan.hash:
                self._other.update(name for name, _ in self._inside(found.rows))
                continue
            for name, row in self._inside(found.rows):
                self._add(report.rows, self._rows, name, row)
        async for record in self._all(consumer, predictions.name(self._spec.name)):
            for each in predictions.decode(record.value, record.headers):
                topic_id, _, offset, index = each["id"].rsplit("-", 3)
                name = int(offset), int(index)
                if topic_id == self._topic_id:
                    self._first_prediction = min(self._first_prediction, name[0])
                    if self.asked.start <= name[0] < self.asked.end:
                        self._add(report.predictions, self._predictions, name, each)

    def leave_what_is_under_way(self) -> None:
        """End the range where the shorter of both topics ends."""
        ends = [max(offset for offset, _ in known) + 1 for known in (self._rows, self._predictions) if known]
        end = max(min(ends, default=self.asked.start), self.asked.start)
        self.asked = self.asked.model_copy(update={"end": end})
        for known in (self._rows, self._predictions):
            for name in [name for name in known if name[0] >= end]:
                del known[name]

    def recompute(self, records: list[ConsumerRecord]) -> None:
        """Move over ``records`` of the ticks and compare what they give, as far as it lies in the range."""
        ticks, _ = self._decoder.decode(log_reader.columns(records), self._state.symbols)
        made = features.step(ticks, self._state)
        if self._tail is None:
            x_NTF, ready_N = made.x_NF[:, None, :], np.ones(len(made), np.bool_)
        else:
            x_NTF, ready_N = self._tail.windows(made)
        inside_N = made.offset_N >= self.asked.start
        if self._is_cut:
            inside_N &= ~self._unknown(made)
        made = made.select(inside_N)
        if len(made):
            self._compare_rows(made)
            self._compare_predictions(Unscored(made, x_NTF[inside_N], ready_N[inside_N]))

    def _unknown(self, made: RowBatch) -> Bool:
        """Return which rows look back to before the first tick there is; they are counted and not compared."""
        unknown_N: Bool = (made.flags_N & np.uint8(RowFlag.WARM_UP)) != 0
        for name in _names(made.select(unknown_N & (made.offset_N >= self.asked.start))):
            for compared, known in ((self._report.rows, self._rows), (self._report.predictions, self._predictions)):
                compared.unchecked["looks back to before the first tick"] += known.pop(name, None) is not None
        return unknown_N

    def end(self) -> None:
        """Count what is out and was not recomputed."""
        for compared, left in ((self._report.rows, self._rows), (self._report.predictions, self._predictions)):
            compared.unexpected += len(left)
            for name in left:
                compared.note("unexpected", self._partition, name, "there", "nothing")
                break

    async def _all(self, consumer: AIOKafkaConsumer, topic: str) -> AsyncIterator[ConsumerRecord]:
        held = await log_reader.held(consumer, [TopicPartition(topic, self._partition)])
        async for _, records in log_reader.read(consumer, held):
            for record in records:
                yield record

    def _inside(self, found: RowBatch) -> list[tuple[Name, _Row]]:
        inside_N = (found.offset_N >= self.asked.start) & (found.offset_N < self.asked.end)
        return _named(found.select(inside_N))

    def _add(self, compared: Compared, known: dict[Name, Any], name: Name, found: Any) -> None:
        before = known.setdefault(name, found)
        if before is found:
            return
        if before == found:
            compared.repeated += 1
        else:
            compared.conflicting += 1
            compared.note("conflicting", self._partition, name, str(found), str(before))

    def _compare_rows(self, made: RowBatch) -> None:
        compared = self._report.rows
        for name, expected in _named(made):
            found = self._rows.pop(name, None)
            if name in self._other and found is None:
                compared.unchecked["rows of other features"] += 1
                continue
            if found is None and self._is_cut and name[0] < self._first_row:
                compared.unchecked["rows that retention has deleted"] += 1
                continue
            if found is None:
                compared.missing += 1
                compared.note("missing", self._partition, name, "nothing", expected.symbol)
                continue
            compared.compared += 1
            if found != expected:
                for what, there, wanted in _differences(found, expected, self._plan.names):
                    compared.differs(what, self._partition, name, there, wanted)

    def _compare_predictions(self, unscored: Unscored) -> None:
        compared = self._report.predictions
        names = _names(unscored.rows)
        found = [self._predictions.pop(name, None) for name in names]
        version_N = np.array([-1 if each is None else each["version"] for each in found])
        for version in np.unique(version_N).tolist():
            here = np.flatnonzero(version_N == version)
            if version < 0:
                before = int((unscored.rows.offset_N[here] < self._first_prediction).sum())
                compared.unchecked["rows before the first prediction"] += before
                if before < len(here):
                    compared.missing += len(here) - before
                    compared.note("missing", self._partition, names[here[before]], "nothing", "a prediction")
                continue
            served = self._serving(version)
            if isinstance(served, str):
                compared.unchecked[served] += len(here)
                continue
            serving, encoder = served
            part = Unscored(unscored.rows.select(here), unscored.x_NTF[here], unscored.ready_N[here])
            [scored] = scoring.score([part], serving.scorer)
            for place, (_, value) in zip(here.tolist(), encoder.values(scored), strict=True):
                expected, there = json.loads(value), found[place] or {}
                compared.compared += 1
                for what in expected.keys() | there.keys():
                    if expected.get(what) != there.get(what):
                        compared.differs(what, self._partition, names[place], there.get(what), expected.get(what))

    def _serving(self, version: int) -> tuple[Serving, PredictionEncoder] | str:
        """Return what scored with ``version``, or why that cannot be had."""
        if version not in self._served:
            try:
                fits = must_fit(self._plan.hash, self._spec.features.window)
                serving = load_serving(self._models, self._spec.name, version, fits)
            except (ModelNotFoundError, ModelRefusedError) as error:
                self._served[version] = str(error)
            else:
                encoder = PredictionEncoder(
                    topic_id=self._topic_id,
                    partition=self._partition,
                    horizons_ns=serving.scorer.contract.horizons_ns,
                    model=self._spec.name,
                    version=version,
                )
                self._served[version] = serving, encoder
        return self._served[version]


_HEAD = np.dtype([("ts_ns", np.int64), ("mid", np.float64), ("spread", np.float64), ("flags", np.uint8)])


def _names(made: RowBatch) -> list[Name]:
    return list(zip(made.offset_N.tolist(), made.index_N.tolist(), strict=True))


def _named(made: RowBatch) -> list[tuple[Name, _Row]]:
    head_N = np.empty(len(made), _HEAD)
    for name, column in zip(_HEAD.names or (), (made.ts_ns_N, made.mid_N, made.spread_N, made.flags_N), strict=True):
        head_N[name] = column
    head, x = head_N.tobytes(), np.ascontiguousarray(made.x_NF).tobytes()
    wide, features_wide = _HEAD.itemsize, made.x_NF.shape[1] * 4
    return [
        (
            name,
            _Row(
                made.symbols[symbol], head[n * wide : (n + 1) * wide] + x[n * features_wide : (n + 1) * features_wide]
            ),
        )
        for n, (name, symbol) in enumerate(zip(_names(made), made.symbol_N.tolist(), strict=True))
    ]


def _differences(found: _Row, expected: _Row, names: tuple[str, ...]) -> list[tuple[str, Any, Any]]:
    different = [] if found.symbol == expected.symbol else [("symbol", found.symbol, expected.symbol)]
    heads = [np.frombuffer(row.values[: _HEAD.itemsize], _HEAD)[0] for row in (found, expected)]
    xs = [np.frombuffer(row.values[_HEAD.itemsize :], np.float32) for row in (found, expected)]
    pairs = [(name, *(head[name] for head in heads)) for name in _HEAD.names or ()]
    pairs += [(name, *(x[f] for x in xs)) for f, name in enumerate(names)]
    different += [(name, a.item(), b.item()) for name, a, b in pairs if a.tobytes() != b.tobytes()]
    return different
