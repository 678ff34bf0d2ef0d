"""One partition: what is out in a range of ticks, and what the ticks give when they are computed again.

Shapes: N rows, T rows of a window, F features.
"""

import json
from collections import Counter
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
from ml_core.errors import InputError, ModelNotFoundError, ModelRefusedError
from ml_core.spec import PipelineSpec
from ml_core.types import RowBatch, SymbolTable
from model_ops_manager import scoring
from model_ops_manager.bar_check import BarCheck
from model_ops_manager.champion import Serving
from model_ops_manager.compared import MAX_COMPARED, Compared, Difference, Name, Row, differences, named, names_of
from model_ops_manager.first_warm_up import FirstWarmUp, Known
from model_ops_manager.scoring import Unscored
from model_ops_manager.subject import Subject

Load = Callable[[int], Serving]  # of a version; raises ModelNotFoundError or ModelRefusedError

BEFORE_FIRST = "rows before the first prediction"
_BEFORE, _DECAYS = "looks back to before the first tick", "holds what has not decayed of ticks that are gone"
_OTHER = "rows of other features"
_SCORES = {"score", "scores"}


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

    def __init__(
        self, subject: Subject, start: Start, load: Load, findings: Findings, *, is_trimmed: bool = False
    ) -> None:
        """Compare ``subject`` from ``start`` on, which is moved; ``findings`` are added to.

        ``is_trimmed``: the oldest rows were deleted.
        """
        self._spec, self._topic_id, self.asked, self._shed, self._committed = subject
        self._start, self._load, self._findings = start, load, findings
        self._is_trimmed = is_trimmed or start.is_cut
        self._first_warm_up = FirstWarmUp(start.features.plan.look_back_ns, self._spec.features.window)
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
        if self._committed.serves_from is not None:
            self._first_prediction = min(self._first_prediction, self._committed.serves_from)
        self._other: set[Name] = set()  # rows of other features
        self._settled = 0  # end of the rows that nothing belonging to them is under way of
        self._served: dict[int, tuple[Serving, PredictionEncoder] | str] = {}
        self._decays: set[Name] = set()  # rows at hand whose features may hold something of ticks that are gone

    def add_rows(self, value: bytes | None, headers: Sequence[Header] = (), *, is_settled: bool = False) -> None:
        """Take a record of rows, as far as they lie in the range; ``is_settled``: what is beside them must be out.

        Those that name another topic of ticks are passed over; before there were names, all were of this one.

        Raises:
            InputError: There are more than MAX_COMPARED. A retry will not help.
        """
        if dict(headers).get(rows.TOPIC_HEADER, self._topic_id.encode()) != self._topic_id.encode():
            return
        found = rows.decode(value)
        if is_settled:
            self._settled = max(self._settled, int(found.rows.offset_N.max(initial=-1)) + 1)
        self._first_row = min(self._first_row, int(found.rows.offset_N.min(initial=self._first_row)))
        if found.hash != self._plan.hash:
            self._other.update(name for name, _ in self._inside(found.rows))
        else:
            for name, row in self._inside(found.rows):
                self._add(self._findings.rows, self._rows, name, row)
        _must_fit_memory("rows", len(self._rows) + len(self._other))

    def add_predictions(self, value: bytes | None, headers: Sequence[Header]) -> None:
        """Take a record of predictions, as far as they lie in the range.

        Raises:
            InputError: There are more than MAX_COMPARED. A retry will not help.
        """
        for each in predictions.decode(value, headers):
            topic_id, _, offset, index = each["id"].rsplit("-", 3)
            name = int(offset), int(index)
            if topic_id == self._topic_id:
                self._first_prediction = min(self._first_prediction, name[0])
                if self.asked.start <= name[0] < self.asked.end:
                    self._add(self._findings.predictions, self._predictions, name, each)
        _must_fit_memory("predictions", len(self._predictions))

    def add_bars(self, value: bytes | None) -> None:
        """Take a record of bars, as far as it lies in the range."""
        if self._bars is not None:
            self._bars.add(value)

    def leave_what_is_under_way(self) -> None:
        """End the range where the shorter of rows and predictions ends, but not before what is settled or committed.

        Bars go out beside them, and may end before.
        """
        start, places = self.asked.start, [name[0] for name in (*self._rows, *self._other)]
        ends = [max(places) + 1] if places else []
        if self._first_prediction < self.asked.end:  # else there is no model, and rows stand alone
            ends.append(max((offset + 1 for offset, _ in self._predictions), default=start))
        settled = min(max(self._settled, self._committed.position), self.asked.end)
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
        known = self._first_warm_up.known(made) if start.is_cut else Known(*np.ones((3, len(made)), np.bool_))
        inside_N = made.offset_N >= self.asked.start
        self._pass_over(made.select(inside_N & ~known.row_N), self._findings.rows, self._rows)
        self._pass_over(made.select(inside_N & ~known.window_N), self._findings.predictions, self._predictions)
        row_N, window_N = inside_N & known.row_N, inside_N & known.window_N
        self._decays = set(names_of(made.select(row_N & ~known.exact_N)))
        if row_N.any():
            self._compare_rows(made.select(row_N))
        if window_N.any():
            self._compare_predictions(Unscored(made.select(window_N), x_NTF[window_N], ready_N[window_N]))

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

    def _pass_over(self, unknown: RowBatch, compared: Compared, known: dict[Name, Any]) -> None:
        """Count what is out of rows that look back to before the first tick there is, and do not compare it."""
        for name in names_of(unknown):
            compared.unchecked[_BEFORE] += known.pop(name, None) is not None

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
                compared.unchecked[_OTHER] += 1
                continue
            if found is None and self._is_trimmed and name[0] < self._first_row:
                compared.unchecked["rows that retention has deleted"] += 1
                continue
            if found is None and self._shed.holds(name[0]):
                compared.shed += 1
                continue
            if found is None:
                compared.missing += 1
                compared.note(self._partition, name, ("missing", "nothing", expected.symbol))
                continue
            different = [] if found == expected else differences(found, expected, self._plan.names)
            self._judge(compared, name, different, set(self._plan.names))

    def _judge(self, compared: Compared, name: Name, different: list[Difference], decays: set[str]) -> None:
        """Count one that was compared; of ``decays`` something of ticks that are gone may be left."""
        if different and name in self._decays and all(what in decays for what, _, _ in different):
            compared.unchecked[_DECAYS] += 1
            return
        compared.compared += 1
        if different:
            compared.differs(self._partition, name, different)

    def _compare_predictions(self, unscored: Unscored) -> None:
        names = names_of(unscored.rows)
        found = [self._predictions.pop(name, None) for name in names]
        by_version: dict[Any, list[int]] = {}
        for place, each in enumerate(found):
            if each is None:
                self._without_prediction(names[place])
            else:
                by_version.setdefault(_version(each), []).append(place)
        for version, here in by_version.items():
            served = self._serving(version)
            if isinstance(served, str):
                self._cannot_score([names[place] for place in here], served)
                continue
            serving, encoder = served
            part = Unscored(unscored.rows.select(np.array(here)), unscored.x_NTF[here], unscored.ready_N[here])
            [scored] = scoring.score([part], serving.scorer)
            for place, (_, value) in zip(here, encoder.values(scored), strict=True):
                expected, there = json.loads(value), found[place] or {}
                different = [
                    (what, there.get(what), expected.get(what))
                    for what in expected.keys() | there.keys()
                    if there.get(what) != expected.get(what)
                ]
                self._judge(self._findings.predictions, names[place], different, _SCORES)

    def _without_prediction(self, name: Name) -> None:
        compared = self._findings.predictions
        if self._shed.holds(name[0]):
            compared.shed += 1
        elif name[0] < self._first_prediction:
            compared.unchecked[BEFORE_FIRST] += 1
        else:
            compared.missing += 1
            compared.note(self._partition, name, ("missing", "nothing", "a prediction"))

    def _cannot_score(self, names: Sequence[Name], why: str) -> None:
        """Count predictions whose version cannot be had; beside rows of other features none of ours can."""
        compared, of_other = self._findings.predictions, sum(name in self._other for name in names)
        compared.unchecked += Counter({_OTHER: of_other, why: len(names) - of_other})
        compared.unproven += Counter({why: len(names) - of_other})

    def _serving(self, version: int | str) -> tuple[Serving, PredictionEncoder] | str:
        """Return what scored with ``version``, or why that cannot be had."""
        if isinstance(version, str):
            return version
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


def _version(prediction: dict[str, Any]) -> int | str:
    """Return the version that a prediction names, or what is wrong with it."""
    version = prediction.get("version")
    if isinstance(version, int) and not isinstance(version, bool) and version > 0:
        return version
    return f"version {version!r} is none"


def _must_fit_memory(what: str, count: int) -> None:
    if count > MAX_COMPARED:
        raise InputError(f"there are more than the {MAX_COMPARED} {what} that are compared at once: name a range")
