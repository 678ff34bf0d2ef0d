"""Models that can be evaluated side by side: each learns from the same processed rows and then scores any of them.

Boosting and online models of other libraries are learners like these, made where those libraries may be imported.
Shapes: N samples, I numbers of samples, T rows of a window, F features, H horizons, O outputs.
"""

from collections.abc import Callable

import numpy as np
import torch

from ml_core.data_loader.arrays import Batches, Samples
from ml_core.data_processor.dataset import Processed
from ml_core.data_processor.scaling import scale
from ml_core.evaluation.baselines import choose_ridge, fit_ridge, prior_scores
from ml_core.evaluation.calibration import stray_factors
from ml_core.model.build import build
from ml_core.model.graph import ScoringGraph, output_scale
from ml_core.model.runtime import CHUNK_ROWS, direction_scores
from ml_core.spec import PipelineSpec
from ml_core.trainer.loop import Hooks, Settings, TrainReport, train
from ml_core.trainer.losses import SampleLoss, cross_entropy, squared_error
from ml_core.types import Float32, Float64, Int64

EVALUATION_BATCH = 8192  # no gradients are held, so larger than a training batch

Predict = Callable[[Int64], Float64]  # numbers of samples (I,) -> scores (I, H)
Learner = Callable[[Processed], Predict]
"""Learns from the training rows, may look at the validation rows, and returns what scores any rows."""


def prior(processed: Processed) -> Predict:
    """Learn the prior: every row gets the same score."""
    kind = "direction" if len(processed.prior[0]) == 3 else "return"  # shares of three classes, or mean and variance
    return lambda chosen_I: prior_scores(processed.prior, kind, len(chosen_I))


def zero(processed: Processed) -> Predict:
    """Learn nothing: no move is expected."""
    horizons = processed.dataset.return_NH.shape[1]
    return lambda chosen_I: np.zeros((len(chosen_I), horizons))


def momentum(feature: str) -> Learner:
    """Return the learner whose score is the value of ``feature``, a past return: what moved goes on; NaN as 0."""

    def learn(processed: Processed) -> Predict:
        column, horizons = list(processed.plan.names).index(feature), processed.dataset.return_NH.shape[1]
        return lambda chosen_I: np.tile(np.nan_to_num(last_rows(processed, chosen_I)[:, [column]]), (1, horizons))

    return learn


def ridge(strength: float | None = None) -> Learner:
    """Return the learner of a straight line to the return.

    A strength that is given needs no validation rows, so they are learned from too; None takes the one that does best
    on them.
    """

    def learn(processed: Processed) -> Predict:
        dataset = processed.dataset

        def part(chosen_I: Int64, horizon: int) -> tuple[Float32, Float64, Float32]:
            rows_IF = scale(last_rows(processed, chosen_I), processed.scaler)
            return rows_IF, dataset.return_NH[chosen_I, horizon], dataset.weight_N[chosen_I]

        lines = []
        for h in range(dataset.return_NH.shape[1]):
            if strength is None:
                lines.append(choose_ridge(part(processed.train_I, h), part(processed.validation_I, h)))
            else:
                known_I = np.concatenate([processed.train_I, processed.validation_I])
                lines.append(fit_ridge(*part(known_I, h), strength=strength))
        return lambda chosen_I: np.stack([line.predict(part(chosen_I, 0)[0]) for line in lines], axis=1)

    return learn


def network(spec: PipelineSpec, *, seed: int = 0, threads: int = 1, hooks: Hooks | None = None) -> Learner:
    """Return the learner of the network that ``spec`` asks for; its scores are those of `fit` before the export."""

    def learn(processed: Processed) -> Predict:
        graph, _ = learn_network(processed, spec, seed=seed, threads=threads, hooks=hooks)
        return predict_with(graph, processed, spec.label.kind)

    return learn


def learn_network(
    processed: Processed, spec: PipelineSpec, *, seed: int = 0, threads: int = 1, hooks: Hooks | None = None
) -> tuple[ScoringGraph, TrainReport]:
    """Return the trained and calibrated graph, and how training went."""
    shift_O, scale_O = output_scale(spec.label.kind, processed.prior)
    model = build(spec, features=len(processed.plan.names), outputs=len(shift_O), seed=seed)
    graph = ScoringGraph(model, processed.scaler, shift_O=shift_O, scale_O=scale_O)
    dataset = processed.dataset
    stored = Samples(dataset.x_MF, dataset.idx_NT, dataset.y_NH, dataset.weight_N)
    settings = Settings(
        epochs=spec.train.epochs,
        patience=spec.train.patience,
        learning_rate=spec.train.learning_rate,
        weight_decay=spec.train.weight_decay,
        threads=threads,
    )
    report = train(
        graph,
        Batches(stored, processed.train_I, batch_size=spec.train.batch_size, seed=seed),
        Batches(stored, processed.validation_I, batch_size=EVALUATION_BATCH, shuffle=False),
        loss=loss_of(processed, spec.label.kind),
        settings=settings,
        seed=seed,
        hooks=hooks or Hooks(),
    )
    if spec.label.kind == "direction":
        chosen_I = processed.validation_I
        said_IO = outputs(graph, processed, chosen_I)
        given = (graph.shift.double().numpy(), dataset.y_NH[chosen_I], dataset.weight_N[chosen_I])
        graph.scale.mul_(torch.from_numpy(np.repeat(stray_factors(said_IO, *given), 3).astype(np.float32)))
    return graph, report


def loss_of(processed: Processed, label_kind: str) -> SampleLoss:
    """Return the loss that a network of this label learns by."""
    return cross_entropy if label_kind == "direction" else squared_error([v for _, v in processed.prior])


def predict_with(graph: ScoringGraph, processed: Processed, label_kind: str) -> Predict:
    """Return what scores rows with ``graph``."""

    def predict(chosen_I: Int64) -> Float64:
        y_IO = outputs(graph, processed, chosen_I)
        return np.asarray(direction_scores(y_IO) if label_kind == "direction" else y_IO, dtype=np.float64)

    return predict


def outputs(graph: ScoringGraph, processed: Processed, chosen_I: Int64) -> Float32:
    """Return the outputs (I, O) of ``graph`` in inference mode."""
    dataset = processed.dataset
    graph.eval()
    with torch.no_grad():
        parts = [
            graph(torch.from_numpy(dataset.x_MF[dataset.idx_NT[chosen_I[start : start + CHUNK_ROWS]]])).numpy()
            for start in range(0, len(chosen_I), CHUNK_ROWS)
        ]
    return np.concatenate(parts)


def last_rows(processed: Processed, chosen_I: Int64) -> Float32:
    """Return the samples' own rows (I, F), raw: the last one of each window."""
    dataset = processed.dataset
    x_IF: Float32 = dataset.x_MF[dataset.idx_NT[chosen_I, -1]]
    return x_IF
