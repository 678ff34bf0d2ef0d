"""Learns boosted trees with LightGBM.

Trees are grown on rows as the contract scales them, from what the prior says (or the model gone on from), in units of
the contract's ``scale``: what holds for the outputs of a network holds for theirs. All horizons and quantiles grow side
by side, and the round that does best on the validation rows, mean over them, is kept.

Shapes: I samples, B rows of a batch, T rows of a window, F features, X = T x F, O outputs, C outputs of a goal.
"""

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from ml_core.contract import ModelContract
from ml_core.data_processor.encoding import encode
from ml_core.errors import InputError, SchemaMismatchError, SpecError, TrainingCancelledError, UnknownPartError, nearest
from ml_core.evaluation.calibration import stray_factors
from ml_core.learners.port import Learned, Task
from ml_core.model.export import check_parity, with_block
from ml_core.model.graph import output_scale
from ml_core.model.trees import lightgbm_trees
from ml_core.model.trees_onnx import Voice, onnx_of
from ml_core.sections import Section
from ml_core.spec import PipelineSpec
from ml_core.trainer.incremental import LEARNING_RATE_SHARE
from ml_core.trainer.loop import Progress, TrainReport
from ml_core.trainer.losses import default_loss
from ml_core.types import CLASS_LABELS, Float32, Float64, Int64

if TYPE_CHECKING:
    from types import ModuleType

    from lightgbm import Booster, Dataset

KIND = "boosting"
MAX_TREES = 20_000  # every incremental job adds some, and a row walks through all of them


class Boosting(Section):
    """What ``[model] params`` may say; names are LightGBM's where it has one. ``[train]`` sets nothing but the rows."""

    rounds: int = Field(default=500, ge=1, le=10_000)
    patience: int = Field(default=30, ge=1, description="rounds without a better one on the validation rows")
    learning_rate: float = Field(default=0.05, gt=0, le=1)
    num_leaves: int = Field(default=15, ge=2, le=1024)
    min_data_in_leaf: int = Field(default=100, ge=1)
    lambda_l2: float = Field(default=1.0, ge=0)
    feature_fraction: float = Field(default=1.0, gt=0, le=1, description="of the inputs that a tree may use")
    bagging_fraction: float = Field(default=1.0, gt=0, le=1, description="of the rows that a tree is grown on")
    max_bin: int = Field(default=255, ge=2, le=65_535)


class Goal(NamedTuple):
    """What one booster learns: the outputs ``[first, first + width)``, of one horizon."""

    horizon: int
    first: int
    width: int
    options: dict[str, Any]  # of LightGBM: objective and metric


class Stage(NamedTuple):
    """Trees of one job, as LightGBM's text a goal; a later job adds a stage and leaves earlier ones as they are."""

    texts: list[str]  # empty: no tree
    scale_O: Float64


class _Part(NamedTuple):
    """Samples to learn or to judge by."""

    z_IX: Float32
    y_IH: npt.NDArray[Any]
    start_IO: Float64  # what is said of them before
    weight_I: Float32


def check(spec: PipelineSpec, *, features: int, outputs: int) -> None:
    """Raise what ``learn`` would raise about the pipeline file itself.

    Raises:
        SpecError: A parameter is unknown or out of range, or ``[train]`` asks for what trees do not do. A retry will
            not help.
        UnknownPartError: LightGBM is not installed. A retry will not help.
    """
    _params(spec)
    train, usual = spec.train, default_loss(spec.label.kind)
    if train.loss not in (None, usual):
        raise SpecError(f"train.loss: boosting makes the {usual} small, or of quantiles the pinball loss")
    for name, is_asked in (("class_weights", train.class_weights != "none"), ("augment", bool(train.augment))):
        if is_asked:
            raise SpecError(f"train.{name}: boosting has none")
    _lightgbm()


def learn(task: Task) -> Learned:
    """Return what was learned; equal tasks give equal trees on equal hardware.

    A task that goes on grows further trees on top of those there are, at a tenth of the rate; where none makes the
    validation loss lower, the model keeps the trees it came with.

    Raises:
        SchemaMismatchError, InputError, ModelRefusedError, TrainingCancelledError: As ``ml_core.fit.fit``.
    """
    contract, params, goals = task.contract, _params(task.spec), _goals(task.contract)
    stages, shift_O, scale_O = _before(task, len(goals))
    train, validation = _parts(task, stages, goals, shift_O)
    boosters = _boosters(task, params, goals, (train, validation), scale_O)
    report, kept = _grow(task, params, boosters)
    if report.best_epoch:
        texts = [each.model_to_string(num_iteration=count) for each, count in zip(boosters, kept, strict=True)]
        stages.append(Stage(texts, scale_O))
    factors = _calibrate(contract, stages, goals, shift_O, validation)
    voices = list(_voices(stages, goals))
    if len(voices) > MAX_TREES:
        raise InputError(f"the model has {len(voices)} trees, at most {MAX_TREES} are served; train it from scratch")
    file = onnx_of(voices, shift_O.tolist(), contract)
    check_parity(lambda x_BTF: _said(stages, goals, shift_O, _scaled(x_BTF, contract), contract), file, "LightGBM")
    return Learned(with_block(file), _weights(stages, shift_O), report, factors)


def try_out(task: Task) -> TrainReport:
    """Grow the trees of ``learn`` and return how it went; raises as there."""
    params, goals = _params(task.spec), _goals(task.contract)
    stages, shift_O, scale_O = _before(task, len(goals))
    train, validation = _parts(task, stages, goals, shift_O)
    report, _ = _grow(task, params, _boosters(task, params, goals, (train, validation), scale_O))
    return report


def _goals(contract: ModelContract) -> list[Goal]:
    """Return what is to be learned: a classifier a horizon, or a regression a horizon, or one a quantile of it."""
    horizons = range(len(contract.horizons_ns))
    if contract.label_kind in CLASS_LABELS:
        options = {"objective": "multiclass", "num_class": 3, "metric": "multi_logloss"}
        return [Goal(horizon, 3 * horizon, 3, options) for horizon in horizons]
    if not contract.quantiles:
        return [Goal(horizon, horizon, 1, {"objective": "regression", "metric": "l2"}) for horizon in horizons]
    count = len(contract.quantiles)
    return [
        Goal(horizon, horizon * count + q, 1, {"objective": "quantile", "metric": "quantile", "alpha": quantile})
        for horizon in horizons
        for q, quantile in enumerate(contract.quantiles)
    ]


def _params(spec: PipelineSpec) -> Boosting:
    try:
        return Boosting.model_validate(spec.model.params)
    except ValidationError as error:
        detail = error.errors()[0]
        name = str(detail["loc"][0])
        if detail["type"] == "extra_forbidden":
            raise SpecError(f"model.params.{name}: unknown parameter{nearest(name, Boosting.model_fields)}") from error
        raise SpecError(f"model.params.{name}: {detail['input']!r} does not fit: {detail['msg']}") from error


def _lightgbm() -> "ModuleType":
    try:
        import lightgbm
    except ModuleNotFoundError as error:
        raise UnknownPartError(
            "model.kind: 'boosting' needs lightgbm, which is not installed: pip install 'tickwise[train]'"
        ) from error
    return lightgbm  # type: ignore[no-any-return]  # it ships no types


def _before(task: Task, goals: int) -> tuple[list[Stage], Float64, Float64]:
    """Return the trees to go on from, and shift and scale of those to come."""
    contract, start = task.contract, task.start
    shift_O, scale_O = map(np.array, output_scale(contract.label_kind, contract.prior, contract.quantiles))
    if contract.quantiles:  # of a normal distribution with the prior's mean and variance
        usual_Q = [NormalDist().inv_cdf(quantile) for quantile in contract.quantiles]
        shift_O = shift_O + scale_O * np.tile(usual_Q, len(contract.horizons_ns))
    if start is None:
        return [], shift_O, scale_O
    start.contract.must_lead_to(contract)
    try:
        stages = [
            _stage(start.weights, number, goals)
            for number in range(len(start.weights))
            if f"scale.{number}" in start.weights
        ]
        return stages, start.weights["shift"].astype(np.float64), scale_O
    except KeyError as error:
        raise SchemaMismatchError(f"cannot go on: the model has no {error} among its weights") from error


def _stage(weights: dict[str, npt.NDArray[Any]], number: int, goals: int) -> Stage:
    texts = [weights[f"trees.{number}.{goal}"].tobytes().decode() for goal in range(goals)]
    return Stage(texts, weights[f"scale.{number}"].astype(np.float64))


def _weights(stages: list[Stage], shift_O: Float64) -> dict[str, npt.NDArray[Any]]:
    weights: dict[str, npt.NDArray[Any]] = {"shift": shift_O}
    for number, stage in enumerate(stages):
        weights[f"scale.{number}"] = stage.scale_O
        for goal, text in enumerate(stage.texts):
            weights[f"trees.{number}.{goal}"] = np.frombuffer(text.encode(), np.uint8)
    return weights


def _parts(task: Task, stages: list[Stage], goals: list[Goal], shift_O: Float64) -> tuple[_Part, _Part]:
    """Return the rows to learn from and those to stop by."""
    chosen = task.processed.train_I, task.processed.validation_I
    train, validation = (_part(task, chosen_I, stages, goals, shift_O) for chosen_I in chosen)
    return train, validation


def _part(task: Task, chosen_I: Int64, stages: list[Stage], goals: list[Goal], shift_O: Float64) -> _Part:
    dataset = task.processed.dataset
    z_IX = _scaled(dataset.x_MF[dataset.idx_NT[chosen_I]], task.contract)
    return _Part(z_IX, dataset.y_NH[chosen_I], _sums(stages, goals, shift_O, z_IX), dataset.weight_N[chosen_I])


def _scaled(x_BTF: Float32, contract: ModelContract) -> Float32:
    """Return the inputs (B, X) of the trees."""
    z_NX = encode(x_BTF.reshape(-1, x_BTF.shape[2]), contract.scaler, contract.places)
    return z_NX.reshape(len(x_BTF), -1)


def _boosters(
    task: Task, params: Boosting, goals: list[Goal], parts: tuple[_Part, _Part], scale_O: Float64
) -> "list[Booster]":
    library = _lightgbm()
    options = {
        **params.model_dump(exclude={"rounds", "patience"}),
        "learning_rate": params.learning_rate * (1.0 if task.start is None else LEARNING_RATE_SHARE),
        "bagging_freq": int(params.bagging_fraction < 1),
        "boost_from_average": False,  # the prior is where they start
        "use_missing": False,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": task.threads,
        "seed": task.seed,
        "verbosity": -1,
    }
    sets: list[Dataset] = []
    boosters = []
    for goal in goals:
        for part in parts:
            target_I, start_I = _target(goal, part, scale_O)
            if not np.isfinite(target_I).all():  # LightGBM would take the largest number instead
                raise InputError("a label is not finite; check the input")
            given = {"label": target_I, "weight": part.weight_I, "init_score": start_I, "params": options}
            sets.append(library.Dataset(part.z_IX, reference=sets[-1] if part is parts[1] else None, **given))
        booster = library.Booster({**options, **goal.options}, sets[-2])
        booster.add_valid(sets[-1], "validation")
        boosters.append(booster)
    return boosters


def _target(goal: Goal, part: _Part, scale_O: Float64) -> tuple[npt.NDArray[Any], Float64]:
    """Return what is to be learned (I,) and the scores to start from, (I, 3) or (I,)."""
    y_I = part.y_IH[:, goal.horizon]
    if goal.width > 1:
        return y_I, part.start_IO[:, goal.first : goal.first + goal.width]
    return (y_I - part.start_IO[:, goal.first]) / scale_O[goal.first], np.zeros(len(y_I))


def _grow(task: Task, params: Boosting, boosters: "list[Booster]") -> tuple[TrainReport, list[int]]:
    """Grow tree after tree until the validation loss has not been lower for ``patience`` rounds.

    Returns:
        How it went, and the rounds that each booster has trees of at the best one: where it cannot split it gets none.
    """
    history: list[Progress] = []
    is_drawn = (
        params.bagging_fraction < 1 or params.feature_fraction < 1
    )  # then a later draw may split where one did not
    best, best_round, kept = math.inf, 0, [0] * len(boosters)
    for number in range(params.rounds + 1):
        grew = [_update(booster, task.hooks.cancelled, number) for booster in boosters] if number else [True]
        loss = _mean_loss(boosters, "eval_valid")
        if not math.isfinite(loss):
            raise InputError(f"training stopped after round {number}: the validation loss is {loss}")
        if loss < best:
            best, best_round, kept = loss, number, [each.current_iteration() for each in boosters]
        train_loss = _mean_loss(boosters, "eval_train") if number else math.nan
        history.append(Progress(number, params.rounds, train_loss, loss, best_round))
        if task.hooks.progress is not None:
            task.hooks.progress(history[-1])
        if number - best_round >= params.patience or not (any(grew) or is_drawn):
            break
    return TrainReport(history[-1].epoch, best_round, history), kept


def _update(booster: "Booster", cancelled: Callable[[], bool] | None, number: int) -> bool:
    """Add a round and return True where a tree could still split; raises TrainingCancelledError where asked to."""
    if cancelled is not None and cancelled():
        raise TrainingCancelledError(f"training was cancelled in round {number}")
    return not booster.update()


def _mean_loss(boosters: "list[Booster]", which: str) -> float:
    return float(np.mean([getattr(booster, which)()[0][2] for booster in boosters]))


def _sums(stages: list[Stage], goals: list[Goal], shift_O: Float64, z_BX: Float32) -> Float64:
    """Return what the trees add up to (B, O); quantiles among them may cross, and further trees are added to these."""
    library = _lightgbm()
    y_BO = np.tile(shift_O, (len(z_BX), 1))
    for stage in stages:
        for goal, text in zip(goals, stage.texts, strict=True):
            here = slice(goal.first, goal.first + goal.width)
            raw = library.Booster(model_str=text).predict(z_BX, raw_score=True)
            y_BO[:, here] += stage.scale_O[here] * raw.reshape(len(z_BX), goal.width)
    return y_BO


def _said(stages: list[Stage], goals: list[Goal], shift_O: Float64, z_BX: Float32, contract: ModelContract) -> Float32:
    """Return the outputs (B, O) as LightGBM computes them."""
    y_BO = _sums(stages, goals, shift_O, z_BX)
    if contract.quantiles:
        y_BO = np.sort(y_BO.reshape(len(y_BO), -1, len(contract.quantiles)), axis=2).reshape(y_BO.shape)
    return y_BO.astype(np.float32)


def _calibrate(
    contract: ModelContract, stages: list[Stage], goals: list[Goal], shift_O: Float64, validation: _Part
) -> list[float]:
    """Let the logits stray from the log prior as far as the validation rows bear out; return the factor a horizon."""
    if contract.label_kind not in CLASS_LABELS:
        return []
    y_IO = _said(stages, goals, shift_O, validation.z_IX, contract)
    factor_H = stray_factors(y_IO, shift_O, validation.y_IH, validation.weight_I)
    for stage in stages:
        stage.scale_O[:] *= np.repeat(factor_H, 3)
    return [float(factor) for factor in factor_H]


def _voices(stages: list[Stage], goals: list[Goal]) -> Iterator[Voice]:
    library = _lightgbm()
    for stage in stages:
        for goal, text in zip(goals, stage.texts, strict=True):
            for number, tree in enumerate(lightgbm_trees(library.Booster(model_str=text).dump_model())):
                output = goal.first + number % goal.width
                yield Voice(output, float(stage.scale_O[output]), tree)
