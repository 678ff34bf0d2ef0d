"""A pipeline's whole loop over past ticks in virtual time: rows, scores, outcomes, triggers, training, gate, swap.

    clock   ----|--------------|===training===|----------->     newest event time that is sure, see `triggers`
                first model    trigger        ready: the new version scores from the first tick that is here

Nothing depends on the wall clock, nor on where ticks are cut into batches. Shapes: N rows, O outputs, H horizons.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_io.data_fetcher.port import END_OF_TIME_NS, TickFetcher, cut
from data_io.topics.predictions import PredictionBatch
from ml_core import frames
from ml_core.contract import ModelContract
from ml_core.data_processor import cleaning, features
from ml_core.data_processor.dataset import barriers_of
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.data_processor.scaling_kernel import scale_rows
from ml_core.data_processor.windows import Tail
from ml_core.errors import InputError, ModelRefusedError, NotEnoughDataError, TickwiseError
from ml_core.model.fitted import FittedModel
from ml_core.model.runtime import Scorer
from ml_core.spec import PipelineSpec
from ml_core.types import Bool, Float32, Int64, RowBatch, SymbolTable, TickBatch
from model_ops_manager import scoring
from model_ops_manager.champion import must_fit
from model_ops_manager.matured import Outcomes, without_features
from model_ops_manager.promotion import Decision
from model_ops_manager.scoring import Unscored
from model_ops_manager.triggers import VirtualClock, VirtualTriggers

BATCH_TICKS = 65_536  # that are moved over at once; fewer where windows make many rows of each
_LEAST_BATCH = 1024
# Share of rows that may come late for the clock; where symbols come one after the other all but those of the first do.
_MOST_BEHIND = 0.05
GIVEN = "given"  # what stands for the trigger of a model that is there from the start


class Candidate(NamedTuple):
    """A version that scores, or will; those that were refused or replaced leave memory."""

    number: int
    model: FittedModel
    scorer: Scorer


class Trained(NamedTuple):
    """What a training gives."""

    model: FittedModel
    decision: Decision
    ticks: int
    first_ns: int  # event times of its ticks
    last_ns: int


class Trainer(Protocol):
    """Trains as a job does; `simulated_training.JobTrainer` outside of tests."""

    def __call__(self, ticks: TickBatch, champion: Candidate | None) -> Trained:
        """Return a model of ``ticks`` and whether it takes over from ``champion``.

        Raises:
            TickwiseError: What stood in the way.
        """
        ...


class Sink(Protocol):
    """Where predictions go, in order."""

    def serve(self, version: int) -> None:
        """Take predictions of ``version`` from here on."""
        ...

    def write(self, partition: int, made: PredictionBatch) -> None:
        """Take predictions."""
        ...


@dataclass
class _Version:
    """What a version was made of, and from when to when it scored."""

    number: int
    made: dict[str, Any]  # JSON
    from_ns: int | None = None  # it scores ticks from this virtual time on
    to_ns: int | None = None  # and before this one
    rows: int = 0
    scored: int = 0


class _Kept(Scorer):
    """A scorer that remembers the outputs behind the scores it gave last."""

    y_BO: Float32

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.contract = scorer, scorer.contract

    def scores(self, x_BTF: Float32) -> Float32:
        self.y_BO = self.scorer.outputs(x_BTF)
        return self.scorer.scores_of(self.y_BO)


@dataclass
class _Job:
    """A job under way; it is over at ``over_ns``."""

    over_ns: int
    candidate: Candidate | None  # that takes over then


@dataclass
class Simulation:
    """The loop; give it ticks in the order in which they arrived, then ask for the report."""

    spec: PipelineSpec
    trainer: Trainer | None = None  # None: no trigger starts anything
    training_takes_ns: int = 0
    max_ticks: int = 2_000_000  # the newest ones, that one training reads at most
    sink: Sink | None = None
    tell: Callable[[str], None] = lambda _text: None
    symbols: SymbolTable = field(default_factory=SymbolTable)

    def __post_init__(self) -> None:
        """Begin before the first tick, without a model."""
        spec = self.spec
        plan = FeaturePlan.from_spec(spec)
        self._check = must_fit(plan.hash, spec.features.window)
        self._state = FeatureState(plan, self.symbols)
        self._tail = Tail(spec.features.window, len(plan.names)) if spec.features.window > 1 else None
        self._batch = max(_LEAST_BATCH, BATCH_TICKS // spec.features.window)
        self._clock, self._triggers, self._outcomes = (
            VirtualClock(),
            VirtualTriggers(spec),
            Outcomes(spec, self.symbols),
        )
        self._held: deque[TickBatch] = deque()  # ticks that a training may still ask for
        self._champion: Candidate | None = None
        self._job: _Job | None = None
        self._last: tuple[tuple[bytes, int | None], Trained] | None = None  # what the trainer was asked for, and gave
        self._versions: dict[int, _Version] = {}
        self._failed: list[dict[str, Any]] = []
        self._ticks, self._rows, self._unserved, self._behind = 0, 0, 0, 0
        self._dropped: dict[str, int] = {}
        self._begun_ns = 0
        self.predictions = 0

    def start_with(self, model: FittedModel) -> None:
        """Have ``model`` score from the first tick on, as version 0.

        Raises:
            ModelRefusedError: It does not fit the pipeline, or fails its probe. A retry will not help.
        """
        self._swap(self._candidate(0, model, self._loaded(model), {"trigger": GIVEN}), 0)

    def add(self, ticks: TickBatch) -> None:
        """Go on by ``ticks``, the next ones; their symbols are those of ``symbols``.

        Raises:
            InputError: The ticks are not in the order of time. A retry will not help.
        """
        self._ticks += len(ticks)
        kept, dropped = cleaning.clean(ticks)
        for reason, count in dropped.items():
            self._dropped[reason] = self._dropped.get(reason, 0) + count
        for start in range(0, len(kept), self._batch):
            self._move(cut(kept, start, start + self._batch))

    def report(self) -> dict[str, Any]:
        """Return what happened, JSON; nothing is added behind this.

        Raises:
            NotEnoughDataError: There was no tick whose time is sure, so no time passed. More ticks may help.
        """
        if not self._begun_ns:
            raise NotEnoughDataError(
                f"{self._ticks} ticks gave {self._rows} rows and none whose time is sure: all warm up, stand behind a "
                "gap or outside of the calendar"
            )
        self._outcomes.settle(self._clock.now_ns, last=True)
        waiting = None if self._job is None or self._job.candidate is None else self._job.candidate.number
        return {
            "pipeline": self.spec.name,
            "spec_hash": self.spec.hash,
            "from_ns": self._begun_ns,
            "to_ns": self._clock.now_ns,
            "ticks": self._ticks,
            "ticks_dropped": self._dropped,
            "rows": self._rows,
            "rows_without_model": self._unserved,
            "versions": [self._told(each, is_late=each.number == waiting) for each in self._versions.values()],
            "failed": self._failed,
        }

    def _told(self, version: _Version, *, is_late: bool) -> dict[str, Any]:
        served = None
        if version.from_ns is not None:
            served = {"from_ns": version.from_ns or self._begun_ns, "to_ns": version.to_ns or self._clock.now_ns}
        told = {"version": version.number, **version.made}
        if is_late:
            told["reason"] += "; not ready before the last tick"
        told |= {"served": served, "rows": version.rows, "scored": version.scored}
        return told | self._outcomes.figures(version.number)

    def _move(self, ticks: TickBatch) -> None:
        before_ns = self._clock.now_ns
        rows, lag_N = features.move(ticks, self._state)
        x_NTF, ready_N = self._windows(rows)
        clock_N = self._clock.times(rows)
        self._rows += len(rows)
        self._check_order(rows, clock_N)
        if not self._begun_ns:
            self._begun_ns = int(clock_N[np.searchsorted(clock_N, 0, side="right")]) if self._clock.now_ns else 0
        self._triggers.observe(clock_N)
        self._outcomes.see(ticks, lag_N, rows, clock_N, before_ns)
        done = 0
        for event_ns, trigger in self._events():
            first = int(np.searchsorted(clock_N, event_ns))  # the first row that is made when the clock is there
            if first > done:
                chosen = slice(done, first)
                self._score(rows.select(chosen), x_NTF[chosen], ready_N[chosen], clock_N[chosen])
                done = first
            if trigger is None:
                self._end_job(event_ns)
            elif self.trainer is not None:
                place = int(np.searchsorted(ticks.offset_N, rows.offset_N[first]))
                self._start_job(self.trainer, trigger, event_ns, cut(ticks, 0, place))
        if done < len(rows):
            chosen = slice(done, None)
            self._score(rows.select(chosen) if done else rows, x_NTF[chosen], ready_N[chosen], clock_N[chosen])
        self._hold(ticks)
        self._outcomes.settle(self._clock.now_ns)

    def _windows(self, rows: RowBatch) -> tuple[Float32, Bool]:
        if self._tail is None:
            return rows.x_NF[:, None, :], np.ones(len(rows), np.bool_)
        return self._tail.windows(rows)

    def _check_order(self, rows: RowBatch, clock_N: Int64) -> None:
        in_order_N = (rows.flags_N & scoring.ABSTAIN) == 0
        self._behind += int(np.count_nonzero(in_order_N & (clock_N - rows.ts_ns_N > self.spec.source.lateness)))
        if self._behind > max(_LEAST_BATCH, _MOST_BEHIND * self._rows):
            raise InputError(
                f"{self._behind} of {self._rows} rows lie further behind those of other symbols than source.lateness: "
                "virtual time needs the ticks of all symbols in the order of time, not one symbol or file after another"
            )

    def _events(self) -> Iterator[tuple[int, str | None]]:
        """Yield what happens by the time of the clock, one after the other: triggers by name, None for a job's end."""
        while True:
            event: tuple[int, str | None] | None = None if self.trainer is None else self._triggers.next()
            if self._job is not None and (event is None or self._job.over_ns <= event[0]):
                event = self._job.over_ns, None
            if event is None or event[0] > self._clock.now_ns:
                return
            yield event

    def _start_job(self, trainer: Trainer, trigger: str, now_ns: int, ticks: TickBatch) -> None:
        """Train on the ticks that had come by ``now_ns``, the last of them ``ticks``."""
        over_ns = now_ns + self.training_takes_ns
        self._triggers.started(now_ns, over_ns)
        about: dict[str, Any] = {"trigger": trigger, "started_ns": now_ns, "over_ns": over_ns}
        self._job = _Job(over_ns, None)
        try:
            trained = self._trained(trainer, self._span(ticks, now_ns))
            scorer = self._loaded(trained.model)
        except TickwiseError as error:
            self._failed.append({**about, "error_type": type(error).__name__, "error": str(error)})
            self.tell(f"{utc(now_ns)} {trigger}: training failed: {str(error).splitlines()[0]}")
            return
        number = max(self._versions, default=0) + 1
        candidate = self._candidate(number, trained.model, scorer, {**about, **_about(trained, self._champion)})
        if trained.decision.promote:
            self._job.candidate = candidate
        said = "takes over" if trained.decision.promote else "does not take over"
        self.tell(f"{utc(now_ns)} {trigger}: version {number} {said}: {trained.decision.reason}")

    def _candidate(self, number: int, model: FittedModel, scorer: Scorer, made: dict[str, Any]) -> Candidate:
        self._versions[number] = _Version(number, made)
        self._outcomes.begin(number, model.contract)
        return Candidate(number, model, scorer)

    def _trained(self, trainer: Trainer, ticks: TickBatch) -> Trained:
        """Return what training gives: where no tick has come since the last job, as at night, the same again."""
        rival = None if self._champion is None else self._champion.number
        asked = hashlib.sha256(ticks.offset_N.tobytes()).digest(), rival
        if self._last is None or self._last[0] != asked:
            self._last = asked, trainer(ticks, self._champion)
        return self._last[1]

    def _end_job(self, now_ns: int) -> None:
        if self._job is not None and self._job.candidate is not None:
            self._swap(self._job.candidate, now_ns)
        self._job = None

    def _swap(self, candidate: Candidate, now_ns: int) -> None:
        if self._champion is not None:
            self._versions[self._champion.number].to_ns = now_ns
        self._versions[candidate.number].from_ns = now_ns
        self._champion = candidate
        if self.sink is not None:
            self.sink.serve(candidate.number)

    def _loaded(self, model: FittedModel) -> Scorer:
        """Return the scorer of a model that has passed what a worker asks of it."""
        scorer = Scorer(model.onnx, scale_rows)
        self._check(scorer.contract)
        _must_answer(scorer.contract, self.spec)
        scorer.probe()
        return scorer

    def _score(self, rows: RowBatch, x_NTF: Float32, ready_N: Bool, clock_N: Int64) -> None:
        if self._champion is None:
            self._unserved += len(rows)
            return
        version, keeping = self._versions[self._champion.number], _Kept(self._champion.scorer)
        [made] = scoring.score([Unscored(rows, x_NTF, ready_N)], keeping)
        if self.sink is not None:
            self.sink.write(0, made)
        self.predictions += len(made)
        version.rows += len(made)
        asked_N = ready_N & ((rows.flags_N & scoring.ABSTAIN) == 0)
        finite_N: Bool = np.asarray(np.isfinite(made.score_NH).all(axis=1))
        version.scored += int(np.count_nonzero(finite_N))
        y_NO = keeping.y_BO if finite_N.all() else keeping.y_BO[finite_N[asked_N]]
        rows = without_features(rows).select(finite_N)
        self._outcomes.add(version.number, rows, clock_N[finite_N], made.score_NH[finite_N], y_NO)

    def _hold(self, ticks: TickBatch) -> None:
        """Keep ``ticks`` for trainings, and let go of those that none will read any more."""
        if self.trainer is None or not self._triggers.any:
            return
        self._held.append(ticks)
        oldest_ns = self._clock.now_ns - self.spec.train.span
        held = sum(map(len, self._held))
        while self._held and (held - len(self._held[0]) >= self.max_ticks or self._held[0].ts_ns_N.max() < oldest_ns):
            held -= len(self._held.popleft())

    def _span(self, ticks: TickBatch, now_ns: int) -> TickBatch:
        """Return the ticks that a job at ``now_ns`` reads, where ``ticks`` came last."""
        parts = [*self._held, ticks]
        columns: Any = zip(*(each[:-1] for each in parts), strict=True)
        joined: list[Any] = [*(np.concatenate(values)[-self.max_ticks :] for values in columns), ticks.symbols]
        newest = TickBatch(*joined)
        chosen_N = (newest.ts_ns_N >= now_ns - self.spec.train.span) & (newest.ts_ns_N < now_ns)
        return cleaning.select(newest, chosen_N)


def ticks_of(
    source: TickFetcher, symbols: SymbolTable, start_ns: int = 0, end_ns: int = END_OF_TIME_NS
) -> Iterator[TickBatch]:
    """Yield the ticks of ``source`` in ``[start_ns, end_ns)``, their symbols in one table; raises as its ``fetch``."""
    for chunk in source.chunks(start_ns=start_ns, end_ns=end_ns):
        batch = frames.to_batch(chunk, symbols)
        for start in range(0, len(batch), BATCH_TICKS):
            yield cut(batch, start, start + BATCH_TICKS)


def _must_answer(contract: ModelContract, spec: PipelineSpec) -> None:
    label = spec.label
    pairs = {
        "kind": (contract.label_kind, label.kind),
        "price": (contract.label_price, label.price),
        "horizons": (contract.horizons_ns, label.horizons),
        "delay": (contract.delay_ns, label.delay),
        "barriers": (contract.barriers, barriers_of(spec)),
    }
    for word, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ModelRefusedError(f"label: {word} of the model is {theirs!r}, the pipeline says {ours!r}")


def _about(trained: Trained, champion: Candidate | None) -> dict[str, Any]:
    model, contract = trained.model, trained.model.contract
    return {
        "ticks": trained.ticks,
        "first_tick_ns": trained.first_ns,
        "last_tick_ns": trained.last_ns,
        "parent": contract.parent,
        "rival": None if champion is None else champion.number,
        "dataset_hash": contract.dataset_hash,
        "weights_hash": _hash(model),
        "training": contract.metrics,
        "promoted": trained.decision.promote,
        "reason": trained.decision.reason,
        "evidence": trained.decision.figures,
    }


def _hash(model: FittedModel) -> str:
    digest = hashlib.sha256()
    for name in sorted(model.weights):
        digest.update(name.encode() + np.ascontiguousarray(model.weights[name]).tobytes())
    return digest.hexdigest()


def utc(ns: int) -> str:
    """Return a time as text, to the second.

    >>> utc(1_704_205_800_999_999_999)
    '2024-01-02T14:30:00Z'
    """
    return f"{np.datetime64(ns // 10**9, 's')}Z"
