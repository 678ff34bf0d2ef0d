"""Searches the space that a pipeline file declares: a study asked trial by trial, rebuilt from finished trials.

A study holds nothing but its trials: trial n is a function of the pipeline and of the trials before it, so a study that
was interrupted goes on as if it had not been.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ml_core import spec as pipelines
from ml_core.errors import InputError, SetupError, SpecError, TrainingCancelledError
from ml_core.fit import Progress, check
from ml_core.quantities import Range, parse_range
from ml_core.spec import PipelineSpec

try:
    import optuna
except ModuleNotFoundError as error:
    raise SetupError("a study needs Optuna, which is not installed: pip install 'tickwise[tune]'") from error

STARTUP_TRIALS = 8  # drawn at random before the sampler learns from trials, and before any is pruned
WARM_UP_EPOCHS = 2  # of a trial that are never pruned


class Trial(NamedTuple):
    """A finished trial."""

    number: int
    values: dict[str, Any]  # key of the pipeline file -> value
    state: str  # complete, pruned, failed
    losses: list[float]  # of validation, epoch 0 first
    error: str | None = None  # of a failed trial

    @property
    def loss(self) -> float:
        """The lowest validation loss; infinite without any."""
        return min(self.losses, default=math.inf)


FitOnce = Callable[[PipelineSpec, Callable[[Progress], None], Callable[[], bool]], object]


def check_space(spec: PipelineSpec) -> None:
    """Raise what is wrong with the space of ``spec``, before anything is computed: each end of each range is tried.

    Raises:
        SpecError: There is no space, or a value is none that the pipeline file takes. A retry will not help.
        UnknownPartError: As ``ml_core.fit.check``.
    """
    if not spec.tune.space:
        raise SpecError("tune.space is empty; say what to search, such as 'train.learning_rate' = 'float 1e-4..1e-2'")
    for name, text in spec.tune.space.items():
        for value in parse_range(text).ends:
            try:
                check(applied(spec, {name: value}))
            except SpecError as error:
                raise SpecError(f"tune.space: {name} = {value!r}: {error}") from error


def applied(spec: PipelineSpec, values: dict[str, Any]) -> PipelineSpec:
    """Return ``spec`` with ``values`` in place of what it says.

    Raises:
        SpecError: A value is none that the pipeline file takes. A retry will not help.
    """
    data = spec.model_dump(mode="json", exclude_defaults=True)
    for name, value in values.items():
        *sections, key = name.split(".")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return pipelines.parse(data, folder=spec.folder, name=spec.name)


def search(
    spec: PipelineSpec,
    fit_once: FitOnce,
    *,
    finished: Sequence[Trial] = (),
    told: Callable[[Trial], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Trial]:
    """Return the trials of the study of ``spec``, in order; ``finished`` ones are not run again.

    A trial that cannot learn (a loss that is not finite, a value that the model refuses) is ``failed`` and the study
    goes on; an error of another kind ends it.

    Args:
        spec: The pipeline.
        fit_once: Fits a pipeline: takes it, what is told every epoch, and what is asked before every step.
        finished: Trials of this study that ended before, in order.
        told: Called with each trial that ends.
        cancelled: Asked before every step; True ends the study.

    Raises:
        SpecError, UnknownPartError: As ``check_space``.
        TrainingCancelledError: ``cancelled`` said so.
    """
    check_space(spec)
    trials = list(finished)
    while len(trials) < spec.tune.trials:
        trials.append(_run(spec, trials, fit_once, cancelled))
        if told is not None:
            told(trials[-1])
    return trials


def best(trials: Sequence[Trial]) -> Trial:
    """Return the completed trial of the lowest loss, the first of equal ones.

    Raises:
        InputError: None was completed. A retry will not help.
    """
    completed = [trial for trial in trials if trial.state == "complete"]
    if not completed:
        reasons = sorted({trial.error for trial in trials if trial.error})
        raise InputError(f"no trial was completed: {'; '.join(reasons) or 'all were pruned'}")
    return min(completed, key=lambda trial: trial.loss)


def _run(spec: PipelineSpec, trials: Sequence[Trial], fit_once: FitOnce, cancelled: Callable[[], bool] | None) -> Trial:
    ranges = {name: parse_range(text) for name, text in spec.tune.space.items()}
    asked = _ask(spec, ranges, trials)
    values = {name: _value(ranges[name], found) for name, found in asked.params.items()}
    losses: list[float] = []
    is_pruned = False

    def note(progress: Progress) -> None:
        nonlocal is_pruned
        losses.append(progress.validation_loss)
        asked.report(min(losses), progress.epoch)
        is_pruned = spec.tune.prune and asked.should_prune()

    def ended() -> bool:
        return is_pruned or (cancelled is not None and cancelled())

    def trial(state: str, error: str | None = None) -> Trial:
        return Trial(len(trials), values, state, losses, error)

    try:
        fit_once(applied(spec, values), note, ended)
    except TrainingCancelledError:
        if not is_pruned:
            raise
        return trial("pruned")
    except InputError as error:
        return trial("failed", str(error))
    return trial("complete")


def _ask(spec: PipelineSpec, ranges: dict[str, Range], trials: Sequence[Trial]) -> optuna.Trial:
    """Return the next trial of a study rebuilt from ``trials``."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    text = json.dumps([spec.tune.seed, len(trials)])
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=WARM_UP_EPOCHS)
    study = optuna.create_study(sampler=sampler, pruner=pruner)
    distributions = {name: _distribution(each) for name, each in ranges.items()}
    states = optuna.trial.TrialState
    for trial in trials:
        state = {"complete": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[trial.state]
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=trial.loss if state is not states.FAIL else None,
                params={name: _stored(ranges[name], value) for name, value in trial.values.items()},
                distributions=distributions,
                intermediate_values={epoch: min(trial.losses[: epoch + 1]) for epoch in range(len(trial.losses))},
            )
        )
    return study.ask(distributions)


def _distribution(found: Range) -> optuna.distributions.BaseDistribution:
    if found.kind == "choice":
        return optuna.distributions.CategoricalDistribution([json.dumps(value) for value in found.choices])
    if found.kind == "int":
        return optuna.distributions.IntDistribution(int(found.low), int(found.high), log=found.log)
    return optuna.distributions.FloatDistribution(found.low, found.high, log=found.log)


def _stored(found: Range, value: Any) -> Any:
    return json.dumps(value) if found.kind == "choice" else value


def _value(found: Range, stored: Any) -> Any:
    return json.loads(stored) if found.kind == "choice" else stored
