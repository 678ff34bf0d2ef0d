"""The five stages joined: a frame of ticks and a pipeline file in, a fitted model with its figures out.

Runs in a notebook: no Kafka, no MLflow. Shapes: N samples, H horizons, O outputs, I indices of samples.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ml_core.contract import ModelContract, code_version, outputs_of
from ml_core.data_loader import on_disk
from ml_core.data_processor.audit import refuse_leaks
from ml_core.data_processor.dataset import Processed, barriers_of, process
from ml_core.data_processor.features import FeaturePlan
from ml_core.data_processor.gap_marks import GapMark
from ml_core.data_processor.splits import Cut
from ml_core.errors import NotEnoughDataError
from ml_core.evaluation import bootstrap, coverage
from ml_core.evaluation import metrics as measure
from ml_core.evaluation.bootstrap import Interval, Statistic
from ml_core.learners import boosting, network
from ml_core.learners.port import Learned, Task
from ml_core.model.export import restated
from ml_core.model.fitted import FittedModel
from ml_core.model.graph import output_scale
from ml_core.model.runtime import CHUNK_ROWS, Scorer
from ml_core.model.trial import trial_export
from ml_core.parts import is_part
from ml_core.spec import PipelineSpec, format_duration
from ml_core.trainer.checkpoint import CheckpointStore
from ml_core.trainer.loop import Hooks, Progress, TrainReport
from ml_core.types import CLASS_LABELS, Float32, Float64, Int64

__all__ = [
    "Cut",
    "Fit",
    "FittedModel",
    "Progress",
    "check",
    "contract_of",
    "fit",
    "learner_of",
    "losses",
    "prepare",
    "prior_losses",
    "try_out",
]

MAPPED_BYTES = 1 << 30  # of rows and windows; from there on they are mapped where nothing else is asked for
_LEARNERS = {boosting.KIND: boosting}  # every other model is a network


class Fit(NamedTuple):
    """A fitted model with what it was fitted on and how well it does on the hold-out part.

    ``metrics`` are those of the contract: ``train_rows``, ``validation_rows``, ``holdout_rows``, ``epochs_run``,
    ``best_epoch`` (0: no epoch was better than the start), ``holdout_ic`` (Spearman), ``holdout_auc`` (of the sign),
    ``holdout_net_edge_bps``, and for classes ``holdout_log_loss``, ``prior_log_loss``, ``holdout_accuracy``, for
    numbers ``holdout_squared_error``, ``prior_squared_error``; with quantiles ``holdout_pinball``, in the unit of the
    label, and ``holdout_coverage_0.1`` and so on, the share of outcomes at or below each. A volatility has no sign: its
    ``holdout_ic`` is with the volatility that came, and it has neither auc nor edge. Means over horizons; with several
    horizons also one a horizon, as in ``holdout_ic_10s``. A metric that is undefined on these rows is absent. A model
    that went on from another has ``new_rows`` and ``new_train_rows``: rows of all parts and of training that the other
    had not seen.
    """

    model: FittedModel
    processed: Processed
    metrics: dict[str, float]
    intervals: dict[str, Interval]  # of the ``holdout_`` metrics but ``holdout_rows``, from blocks of time


def check(spec: PipelineSpec) -> None:
    """Raise what ``fit`` would raise about the pipeline file itself, before anything is read or computed.

    Raises:
        SpecError: A feature or a parameter of the model is unknown or wrong. A retry will not help.
        UnknownPartError: A named part cannot be found or used. A retry will not help.
        InvalidSettingsError: ``train.device`` is not here. A retry will not help.
        ModelRefusedError: An own model cannot be exported, or would fail its probe. A retry will not help.
    """
    features, outputs = len(FeaturePlan.from_spec(spec).names), _outputs(spec)
    learner_of(spec).check(spec, features=features, outputs=outputs)
    if is_part(spec.model.kind):
        trial_export(spec, features=features)


def fit(  # noqa: PLR0913  # all but the first two have a default
    frame: pd.DataFrame,
    spec: PipelineSpec,
    *,
    start: FittedModel | None = None,
    cut: Cut | None = None,
    marks: Sequence[GapMark] = (),
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    checkpoint: CheckpointStore | None = None,
) -> Fit:
    """Return a model of ``spec`` fitted on ``frame``; equal arguments give equal weights on equal hardware.

    Args:
        frame: Ticks in arrival order, columns of ``ml_core.frames.TICK_COLUMNS``.
        spec: The pipeline.
        start: Go on from this model's weights, with its scaler and dead zone, instead of starting afresh.
        cut: Event times that part the samples; None: as ``[train]`` says.
        marks: What is known to be missing of the ticks; no sample reaches across.
        seed: Of first weights, order of batches and dropout.
        threads: How many torch may use.
        progress: Called after every epoch.
        cancelled: Asked before every step; True ends the training.
        checkpoint: Where the training leaves its place every ``train.checkpoint_steps`` and goes on from, if equal
            arguments left one there; the result is the one of an undisturbed training.

    Raises:
        SpecError, UnknownPartError, InvalidSettingsError: As ``check``.
        SchemaMismatchError: The frame lacks columns, or ``start`` was made for other features, labels or parameters.
            A retry will not help.
        NotEnoughDataError: Too few labelled rows in a part, or none that is new to ``start``. A retry with more ticks
            may help.
        InputError: A loss is not finite.
        LeakError: The data set tells what a model must not know. A retry will not help.
        ModelRefusedError: The fitted model cannot be exported or fails its probe. A retry will not help.
        TrainingCancelledError: ``cancelled`` said so.
    """
    check(spec)
    if start is not None:
        start.contract.must_have(model_kind=spec.model.kind)  # before any row is made
    processed = prepare(frame, spec, start=start, cut=cut, marks=marks)
    contract = contract_of(spec, processed, seed=seed)
    if start is not None:  # its rows are known to the weights that go on
        first_ns, last_ns = start.contract.trained_from_ns, start.contract.trained_to_ns
        contract = contract.model_copy(
            update={
                "trained_from_ns": min(first_ns, contract.trained_from_ns),
                "trained_to_ns": max(last_ns, contract.trained_to_ns),
            }
        )
    hooks = Hooks(progress, cancelled)
    learned = learner_of(spec).learn(Task(spec, contract, processed, start, seed, threads, hooks, checkpoint))
    scorer = Scorer(learned.onnx)
    figures, intervals = _figures(scorer, spec, processed, learned.report)
    report = _report(processed, learned) | {"intervals": {name: each._asdict() for name, each in intervals.items()}}
    model = FittedModel(scorer.contract, learned.onnx, learned.weights, report)
    return Fit(restated(model, metrics=figures), processed, figures, intervals)


def prepare(
    frame: pd.DataFrame,
    spec: PipelineSpec,
    *,
    start: FittedModel | None = None,
    cut: Cut | None = None,
    marks: Sequence[GapMark] = (),
) -> Processed:
    """Return the data set that ``fit`` learns from, checked as there; nothing in it depends on model and optimiser.

    Raises:
        SpecError, UnknownPartError, SchemaMismatchError, NotEnoughDataError, LeakError: As ``fit``.
    """
    processed = process(frame, spec, fixed=start.contract if start else None, cut=cut, marks=marks)
    _check_parts(processed)
    refuse_leaks(processed, spec, start.contract if start else None)
    return _mapped(processed) if _is_mapped(spec, processed) else processed


def try_out(
    processed: Processed,
    spec: PipelineSpec,
    *,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> TrainReport:
    """Train from scratch as ``fit`` does, and keep nothing: no model is exported, no hold-out row is scored.

    Args:
        processed: What ``prepare`` made of the ticks; ``spec`` may differ from its pipeline in ``[model]`` and
            ``[train]``, as far as they say nothing of rows.
        spec: The pipeline.
        seed: As ``fit``.
        threads: As ``fit``.
        progress: As ``fit``.
        cancelled: As ``fit``.

    Raises:
        SpecError, UnknownPartError, InvalidSettingsError, InputError, TrainingCancelledError: As ``fit``.
    """
    task = Task(
        spec, contract_of(spec, processed, seed=seed), processed, None, seed, threads, Hooks(progress, cancelled)
    )
    report: TrainReport = learner_of(spec).try_out(task)
    return report


def losses(model: FittedModel | Scorer, processed: Processed, indices_I: Int64) -> Float64:
    """Return the loss of each sample, mean over horizons (I,): log loss in nats, or squared error of the return."""
    scorer = model.scorer() if isinstance(model, FittedModel) else model
    y_IO = _outputs_of(scorer, processed, indices_I)
    y_IH = processed.dataset.y_NH[indices_I]
    is_direction = scorer.contract.label_kind in CLASS_LABELS
    return measure.log_losses(y_IO, y_IH) if is_direction else measure.squared_errors(scorer.scores_of(y_IO), y_IH)


def prior_losses(processed: Processed, indices_I: Int64, label_kind: str) -> Float64:
    """Return the losses (I,), as ``losses`` does, of always answering the prior of the training rows."""
    shift_O, _ = output_scale(label_kind, processed.prior)
    y_IO = np.broadcast_to(np.array(shift_O, dtype=np.float32), (len(indices_I), len(shift_O)))
    y_IH = processed.dataset.y_NH[indices_I]
    return measure.log_losses(y_IO, y_IH) if label_kind in CLASS_LABELS else measure.squared_errors(y_IO, y_IH)


def learner_of(spec: PipelineSpec) -> ModuleType:
    """Return the module of `ml_core.learners` that learns the model of ``spec``."""
    return _LEARNERS.get(spec.model.kind, network)


def _is_mapped(spec: PipelineSpec, processed: Processed) -> bool:
    dataset = processed.dataset
    is_large = dataset.x_MF.nbytes + dataset.idx_NT.nbytes > MAPPED_BYTES
    return spec.load.mapped == "always" or (spec.load.mapped == "auto" and is_large)


def _mapped(processed: Processed) -> Processed:
    """Return the data set with its rows and windows on disk; the arrays in memory go with ``processed``."""
    dataset = processed.dataset
    on = dataset._replace(x_MF=on_disk.moved(dataset.x_MF), idx_NT=on_disk.moved(dataset.idx_NT))
    return processed._replace(dataset=on, rows=None)


def contract_of(spec: PipelineSpec, processed: Processed, *, seed: int) -> ModelContract:
    """Return what a model of ``spec`` that learns from ``processed`` promises."""
    dataset, seen_I = processed.dataset, np.concatenate([processed.train_I, processed.validation_I])
    return ModelContract(
        pipeline=spec.name,
        spec_hash=spec.hash,
        model_kind=spec.model.kind,
        model_params=spec.model.params,
        features=tuple(processed.plan.names),
        feature_hash=processed.plan.hash,
        window=spec.features.window,
        label_kind=spec.label.kind,
        label_price=spec.label.price,
        horizons_ns=spec.label.horizons,
        delay_ns=spec.label.delay,
        quantiles=spec.model.quantiles,
        dead_zone=processed.dead_zone,
        barriers=barriers_of(spec),
        prior=processed.prior,
        scaler=processed.scaler,
        encoding=processed.encoding,
        trained_from_ns=int(dataset.ts_ns_N[seen_I].min()),
        trained_to_ns=int(dataset.end_ns_NH[seen_I].max()),
        dataset_hash=processed.hash,
        seed=seed,
        code_version=code_version(),
    )


def _outputs(spec: PipelineSpec) -> int:
    return len(spec.label.horizons) * outputs_of(spec.label.kind, spec.model.quantiles)


def _check_parts(processed: Processed) -> None:
    for name in ("train", "validation", "holdout"):
        if not len(getattr(processed, f"{name}_I")):
            raise NotEnoughDataError(f"the {name} part has no rows; give more ticks, or larger shares in [train]")


def _outputs_of(scorer: Scorer, processed: Processed, indices_I: Int64) -> Float32:
    dataset = processed.dataset
    parts = [
        scorer.outputs(dataset.x_MF[dataset.idx_NT[indices_I[start : start + CHUNK_ROWS]]])
        for start in range(0, len(indices_I), CHUNK_ROWS)
    ]
    return np.concatenate(parts) if parts else np.empty((0, scorer.contract.outputs), dtype=np.float32)


def _figures(
    scorer: Scorer, spec: PipelineSpec, processed: Processed, report: TrainReport
) -> tuple[dict[str, float], dict[str, Interval]]:
    holdout_I, kind = processed.holdout_I, spec.label.kind
    y_IO, y_IH = _outputs_of(scorer, processed, holdout_I), processed.dataset.y_NH[holdout_I]
    figures: dict[str, float] = {
        "train_rows": float(len(processed.train_I)),
        "validation_rows": float(len(processed.validation_I)),
        "holdout_rows": float(len(holdout_I)),
        "epochs_run": float(report.epochs_run),
        "best_epoch": float(report.best_epoch),
        **{name: float(processed.report[name]) for name in ("new_rows", "new_train_rows") if name in processed.report},
    }
    look_ahead_ns = spec.label.delay + max(spec.label.horizons)  # of several horizons the longest: figures are means
    block_I = bootstrap.time_blocks(processed.dataset.ts_ns_N[holdout_I], look_ahead_ns)
    blocks = bootstrap.blocks_of(block_I)
    loss_name, loss_I = "log_loss" if kind in CLASS_LABELS else "squared_error", losses(scorer, processed, holdout_I)
    figures[f"holdout_{loss_name}"] = float(loss_I.mean())
    figures[f"prior_{loss_name}"] = float(prior_losses(processed, holdout_I, kind).mean())
    statistics = {f"holdout_{loss_name}": [bootstrap.mean_of(loss_I, block_I, blocks)]}
    if kind in CLASS_LABELS:
        figures["holdout_accuracy"] = measure.accuracy(y_IO, y_IH)
        is_right_I = (y_IO.reshape(*y_IH.shape, 3).argmax(axis=2) == y_IH).mean(axis=1)
        statistics["holdout_accuracy"] = [bootstrap.mean_of(is_right_I, block_I, blocks)]
    quantiles = spec.model.quantiles
    of_quantiles = _quantile_figures(y_IO, y_IH, quantiles, block_I) if quantiles else ()
    of_scores = _score_figures(scorer.scores_of(y_IO), processed, spec, block_I)
    for name, values, of_values in chain(of_quantiles, of_scores):
        figures[name], statistics[name] = float(np.mean(values)), of_values
        if len(values) > 1:
            words = [f"{name}_{format_duration(horizon)}" for horizon in spec.label.horizons]
            figures |= dict(zip(words, values, strict=True))
            statistics |= {word: [each] for word, each in zip(words, of_values, strict=True)}
    figures = {name: value for name, value in figures.items() if math.isfinite(value)}
    return figures, {name: bootstrap.interval(each, blocks) for name, each in statistics.items() if name in figures}


def _score_figures(
    score_IH: Float32, processed: Processed, spec: PipelineSpec, block_I: Int64
) -> Iterator[tuple[str, list[float], list[Statistic]]]:
    """Yield the name of a figure of scores, its value a horizon and the statistic a horizon that is drawn from."""
    dataset, holdout_I = processed.dataset, processed.holdout_I
    is_signed = spec.label.kind != "volatility"  # which has no sign, so there is nothing to trade on
    target_IH: Float64 = (dataset.return_NH if is_signed else dataset.y_NH)[holdout_I].astype(np.float64)
    pairs = list(zip(score_IH.T, target_IH.T, strict=True))
    ics = [measure.information_coefficient(*pair) for pair in pairs]
    yield "holdout_ic", ics, [bootstrap.correlation_of(*pair, block_I) for pair in pairs]
    if not is_signed:
        return
    aucs = [measure.sign_auc(*pair) for pair in pairs]
    yield "holdout_auc", aucs, [bootstrap.sign_auc_of(*pair, block_I) for pair in pairs]
    cost_I, blocks = dataset.cost_bps_N[holdout_I], bootstrap.blocks_of(block_I)
    edges, statistics = [], []
    for score_I, return_I in pairs:
        taken_I = score_I != 0
        edges.append(_net_edge_bps(score_I, return_I, cost_I))
        gain_I = np.sign(score_I) * return_I * 1e4 - 2 * cost_I
        statistics.append(bootstrap.mean_of(gain_I[taken_I], block_I[taken_I], blocks))
    yield "holdout_net_edge_bps", edges, statistics


def _quantile_figures(
    y_IO: Float32, y_IH: Float32, quantiles: Sequence[float], block_I: Int64
) -> Iterator[tuple[str, list[float], list[Statistic]]]:
    """Yield, as `_score_figures`, the loss of the quantiles and how many outcomes lie at or below each."""
    quantile_HIQ = y_IO.astype(np.float64).reshape(*y_IH.shape, len(quantiles)).swapaxes(0, 1)
    pairs, blocks = list(zip(quantile_HIQ, y_IH.T.astype(np.float64), strict=True)), bootstrap.blocks_of(block_I)
    of_rows: dict[str, list[Any]] = {"holdout_pinball": [coverage.pinball(*pair, quantiles) for pair in pairs]}
    is_below_HIQ = [coverage.is_below(*pair) for pair in pairs]
    for q, quantile in enumerate(quantiles):
        of_rows[f"holdout_coverage_{quantile:g}"] = [is_below_IQ[:, q] for is_below_IQ in is_below_HIQ]
    for name, of_horizons in of_rows.items():
        means = [float(value_I.mean()) for value_I in of_horizons]
        yield name, means, [bootstrap.mean_of(value_I, block_I, blocks) for value_I in of_horizons]


def _net_edge_bps(score_I: Float32, return_I: Float64, cost_I: Float64) -> float:
    taken_I = score_I != 0
    return measure.net_edge_bps(score_I, return_I, float(cost_I[taken_I].mean()) if taken_I.any() else 0.0)


def _report(processed: Processed, learned: Learned) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None  # JSON has no NaN

    epochs: Sequence[dict[str, Any]] = [
        {"epoch": p.epoch, "train_loss": number(p.train_loss), "validation_loss": number(p.validation_loss)}
        for p in learned.report.history
    ]
    steps = {"judged": learned.report.steps, "discarded": learned.report.steps_discarded}  # of an incremental training
    return {"epochs": epochs, "steps": steps, "calibration": learned.calibration, "processing": processed.report}
