"""One partition: what is out in a range of ticks, and what the ticks give when they are computed again.

Shapes: N rows, T rows of a window, F features.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiokafka import ConsumerRecord

from data_io import log_reader
from data_io.topics import predictions, rows
from data_io.topics.predictions import PredictionEncoder
from data_io.topics.records import Header
from data_io.topics.ticks import TickDecoder
from ml_core.data_processor import features
from ml_core.data_processor.bars import BarPlan, BarState
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.data_processor.windows import Tail
from ml_core.errors import ModelNotFoundError, ModelRefusedError
from ml_core.spec import PipelineSpec
from ml_core.types import Bool, RowBatch, RowFlag, SymbolTable
from model_ops_manager import scoring
from model_ops_manager.bar_check import BarCheck
from model_ops_manager.champion import Serving
from model_ops_manager.compared import Compared, Name, Row, differences, named, names_of
from model_ops_manager.scoring import Unscored
from model_ops_manager.subject import Subject

Load = Callable[[int], Serving]  # of a version; raises ModelNotFoundError or ModelRefusedError


@dataclass
class Findings:
    """All kinds of outputs, compared."""

    rows: Compared = field(default_factory=Compared)
    predictions: Compared = field(default_factory=Compared)
    bars: Compared = field(default_factory=Compared)


@dataclass
class Start:
    """From what the ticks are computed on."""

    features: FeatureState
    tail: Tail | None  # of the window of the pipeline, where it is more than a row
    bars: BarState | None = None  # where bars are compared
    begin: int = 0  # offset of the first tick that is not in it
    is_cut: bool = False  # older ticks and rows were deleted: what looks back further is not known
    is_served: bool = False  # a model scored from the first tick on

    @classmethod
    def empty(cls, spec: PipelineSpec, plan: FeaturePlan, begin: int = 0, *, is_cut: bool = False) -> "Start":
        """Return the state before the tick ``begin``, the first there is."""
        window, symbols, bar_plan = spec.features.window, SymbolTable(), BarPlan.from_spec(spec)
        tail = Tail(window, len(plan.names)) if window > 1 else None
        bar_state = None if bar_plan is None else BarState(bar_plan, symbols)
        return cls(FeatureState(plan, symbols), tail, bar_state, begin, is_cut=is_cut)


class Check:
    """Takes what is out, then the ticks in order, and counts what is not as it must be."""

    def __init__(self, subject: Subject, start: Start, load: Load, findings: Findings) -> None:
        """Compare ``subject`` from ``start`` on, which is moved; ``findings`` are added to."""
        self._spec, self._topic_id, self.asked, self._shed = subject
        self._start, self._load, self._findings = start, load, findings
        self._partition, self._position = self.asked.partition, start.begin  # behind it state may have to start empty
        self._rows: dict[Name, Row] = {}
        self._predictions: dict[Name, dict[str, Any]] = {}
        self._bars: BarCheck | None = None
        if start.bars is not None:
            self._bars = BarCheck(subject, start.bars.plan, findings.bars, is_cut=start.is_cut)
        self._plan = start.features.plan
        self._decoder = TickDecoder(self._spec.source.map)
        self._first_row = self.asked.end
        self._first_prediction = self.asked.start if start.is_served else self.asked.end
        self._other: set[Name] = set()  # rows of other features
        self._settled = 0  # end of the rows that nothing belonging to them is under way of
        self._served: dict[int, tuple[Serving, PredictionEncoder] | str] = {}

    def add_rows(self, value: bytes | None, *, is_settled: bool = False) -> None:
        """Take a record of rows, as far as they lie in the range; ``is_settled``: what is beside them must be out."""
        found = rows.decode(value)
        if is_settled:
            self._settled = max(self._settled, int(found.rows.offset_N.max(initial=-1)) + 1)
        self._first_row = min(self._first_row, int(found.rows.offset_N.min(initial=self._first_row)))
        if found.hash != self._plan.hash:
            self._other.update(name for name, _ in self._inside(found.rows))
            return
        for name, row in self._inside(found.rows):
            self._add(self._findings.rows, self._rows, name, row)

    def add_predictions(self, value: bytes | None, headers: Sequence[Header]) -> None:
        """Take a record of predictions, as far as they lie in the range."""
        for each in predictions.decode(value, headers):
            topic_id, _, offset, index = each["id"].rsplit("-", 3)
            name = int(offset), int(index)
            if topic_id == self._topic_id:
                self._first_prediction = min(self._first_prediction, name[0])
                if self.asked.start <= name[0] < self.asked.end:
                    self._add(self._findings.predictions, self._predictions, name, each)

    def add_bars(self, value: bytes | None) -> None:
        """Take a record of bars, as far as it lies in the range."""
        if self._bars is not None:
            self._bars.add(value)

    def leave_what_is_under_way(self) -> None:
        """End the range where the shorter of rows and predictions ends, but not before the end of settled rows.

        Bars go out beside them, and may end before.
        """
        start, places = self.asked.start, [name[0] for name in (*self._rows, *self._other)]
        ends = [max(places) + 1] if places else []
        if self._first_prediction < self.asked.end:  # none at all: no model, and rows stand alone
            ends.append(max((offset + 1 for offset, _ in self._predictions), default=start))
        settled = min(self._settled, self.asked.end)
        end = max(min(ends, default=start), settled, start)
        self.asked = self.asked.model_copy(update={"end": end})
        for known in (self._rows, self._predictions):
            for name in [name for name in known if name[0] >= end]:
                del known[name]
        if self._bars is not None:
            self._bars.end_at(end, settled)

    def recompute(self, records: Sequence[ConsumerRecord]) -> None:
        """Move over ``records`` of the ticks and compare what they give, as far as it lies in the range."""
        for at in self._shed.starts(self._position):
            before = [record for record in records if record.offset < at]
            if len(before) == len(records):
                break
            self._move(before)
            self._start, self._position, records = Start.empty(self._spec, self._plan), at, records[len(before) :]
            self._served = {}  # encoders know the symbols of the state before
        self._move(records)

    def _move(self, records: Sequence[ConsumerRecord]) -> None:
        if not records:
            return
        start = self._start
        ticks, _ = self._decoder.decode(log_reader.columns(records), start.features.symbols)
        if self._bars is not None and start.bars is not None:
            self._bars.recompute(ticks, start.bars)
        made = features.step(ticks, start.features)
        if start.tail is None:
            x_NTF, ready_N = made.x_NF[:, None, :], np.ones(len(made), np.bool_)
        else:
            x_NTF, ready_N = start.tail.windows(made)
        inside_N = made.offset_N >= self.asked.start
        if start.is_cut:
            inside_N &= ~self._unknown(made)
        made = made.select(inside_N)
        if len(made):
            self._compare_rows(made)
            self._compare_predictions(Unscored(made, x_NTF[inside_N], ready_N[inside_N]))

    def end(self) -> None:
        """Count what is out and was not recomputed."""
        for compared, left in self._kinds:
            compared.unexpected += len(left)
            for name in left:
                compared.note(self._partition, name, ("unexpected", "there", "nothing"))
                break
        if self._bars is not None:
            self._bars.end()

    @property
    def _kinds(self) -> tuple[tuple[Compared, dict[Name, Any]], ...]:
        return (self._findings.rows, self._rows), (self._findings.predictions, self._predictions)

    def _unknown(self, made: RowBatch) -> Bool:
        """Return which rows look back to before the first tick there is; they are counted and not compared."""
        unknown_N: Bool = (made.flags_N & np.uint8(RowFlag.WARM_UP)) != 0
        for name in names_of(made.select(unknown_N & (made.offset_N >= self.asked.start))):
            for compared, known in self._kinds:
                compared.unchecked["looks back to before the first tick"] += known.pop(name, None) is not None
        return unknown_N

    def _inside(self, found: RowBatch) -> list[tuple[Name, Row]]:
        inside_N = (found.offset_N >= self.asked.start) & (found.offset_N < self.asked.end)
        return named(found.select(inside_N))

    def _add(self, compared: Compared, known: dict[Name, Any], name: Name, found: Any) -> None:
        before = known.setdefault(name, found)
        if before is found:
            return
        if before == found:
            compared.repeated += 1
        else:
            compared.conflicting += 1
            compared.note(self._partition, name, ("conflicting", str(found), str(before)))

    def _compare_rows(self, made: RowBatch) -> None:
        compared = self._findings.rows
        for name, expected in named(made):
            found = self._rows.pop(name, None)
            if name in self._other and found is None:
                compared.unchecked["rows of other features"] += 1
                continue
            if found is None and self._start.is_cut and name[0] < self._first_row:
                compared.unchecked["rows that retention has deleted"] += 1
                continue
            if found is None and self._shed.holds(name[0]):
                compared.shed += 1
                continue
            if found is None:
                compared.missing += 1
                compared.note(self._partition, name, ("missing", "nothing", expected.symbol))
                continue
            compared.compared += 1
            if found != expected:
                compared.differs(self._partition, name, differences(found, expected, self._plan.names))

    def _compare_predictions(self, unscored: Unscored) -> None:
        compared = self._findings.predictions
        names = names_of(unscored.rows)
        found = [self._predictions.pop(name, None) for name in names]
        version_N = np.array([-1 if each is None else each["version"] for each in found])
        for version in np.unique(version_N).tolist():
            here = np.flatnonzero(version_N == version)
            if version < 0:
                is_shed = np.array([self._shed.holds(names[place][0]) for place in here.tolist()])
                compared.shed += int(is_shed.sum())
                here = here[~is_shed]
                before = int((unscored.rows.offset_N[here] < self._first_prediction).sum())
                compared.unchecked["rows before the first prediction"] += before
                if before < len(here):
                    compared.missing += len(here) - before
                    compared.note(self._partition, names[here[before]], ("missing", "nothing", "a prediction"))
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
                different = [
                    (what, there.get(what), expected.get(what))
                    for what in expected.keys() | there.keys()
                    if there.get(what) != expected.get(what)
                ]
                if different:
                    compared.differs(self._partition, names[place], different)

    def _serving(self, version: int) -> tuple[Serving, PredictionEncoder] | str:
        """Return what scored with ``version``, or why that cannot be had."""
        if version not in self._served:
            try:
                serving = self._load(version)
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
