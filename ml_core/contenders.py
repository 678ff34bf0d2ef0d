"""Models that can be evaluated side by side: each learns from the same processed rows and then scores any of them.

Online models of other libraries are learners like these, made where those libraries may be imported.
Shapes: N samples, I numbers of samples, F features, H horizons.
"""

from collections.abc import Callable

import numpy as np
import torch

from ml_core.data_processor.catalogue import mirrored
from ml_core.data_processor.dataset import Processed
from ml_core.data_processor.encoding import encode
from ml_core.evaluation.baselines import choose_ridge, fit_ridge, prior_scores
from ml_core.fit import contract_of, learner_of
from ml_core.learners import network
from ml_core.learners.port import Task
from ml_core.model.graph import ScoringGraph
from ml_core.model.runtime import CHUNK_ROWS, Scorer, scores_of
from ml_core.spec import PipelineSpec
from ml_core.trainer.loop import NO_HOOKS, Hooks
from ml_core.types import Float32, Float64, Int64

Predict = Callable[[Int64], Float64]  # numbers of samples (I,) -> scores (I, H)
Learner = Callable[[Processed], Predict]
"""Learns from the training rows, may look at the validation rows, and returns what scores any rows."""


def prior(processed: Processed) -> Predict:
    """Learn the prior: every row gets the same score."""
    return lambda chosen_I: prior_scores(processed.prior, len(chosen_I))


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


def ridge(strength: float | None = None, *, mirror: bool = False) -> Learner:
    """Return the learner of a straight line to the return.

    A strength that is given needs no validation rows, so they are learned from too; None takes the one that does best
    on them. With ``mirror`` every row is learned from in both directions.
    """

    def learn(processed: Processed) -> Predict:
        dataset, places = processed.dataset, processed.encoding.places(processed.plan.names)
        sign_F = mirrored(processed.plan.names)

        def part(chosen_I: Int64, horizon: int) -> tuple[Float32, Float64, Float32]:
            rows_IX = encode(last_rows(processed, chosen_I), processed.scaler, places)
            return rows_IX, dataset.return_NH[chosen_I, horizon], dataset.weight_N[chosen_I]

        def known(chosen_I: Int64, horizon: int) -> tuple[Float32, Float64, Float32]:
            rows_IX, return_I, weight_I = part(chosen_I, horizon)
            if not mirror:
                return rows_IX, return_I, weight_I
            other_IX = encode(sign_F * last_rows(processed, chosen_I), processed.scaler, places)
            returns_I = np.concatenate([return_I, -return_I])
            return np.concatenate([rows_IX, other_IX]), returns_I, np.concatenate([weight_I, weight_I])

        lines = []
        for h in range(dataset.return_NH.shape[1]):
            if strength is None:
                lines.append(choose_ridge(known(processed.train_I, h), part(processed.validation_I, h)))
            else:
                seen_I = np.concatenate([processed.train_I, processed.validation_I])
                lines.append(fit_ridge(*known(seen_I, h), strength=strength))
        return lambda chosen_I: np.stack([line.predict(part(chosen_I, 0)[0]) for line in lines], axis=1)

    return learn


def model(spec: PipelineSpec, *, seed: int = 0, threads: int = 1, hooks: Hooks = NO_HOOKS) -> Learner:
    """Return the learner of the model that ``spec`` asks for; it scores as what `fit` gives."""

    def learn(processed: Processed) -> Predict:
        asked, dataset = task(processed, spec, seed=seed, threads=threads, hooks=hooks), processed.dataset
        module = learner_of(spec)
        if module is network:  # the graph that is exported; the export itself takes longer than many trainings
            return predict_with(network.trained(asked)[0], asked)
        scorer = Scorer(module.learn(asked).onnx)
        return lambda chosen_I: scorer.scores(dataset.x_MF[dataset.idx_NT[chosen_I]]).astype(np.float64)

    return learn


def task(processed: Processed, spec: PipelineSpec, *, seed: int = 0, threads: int = 1, hooks: Hooks = NO_HOOKS) -> Task:
    """Return what a learner of `ml_core.learners` is given to learn ``spec`` from scratch."""
    return Task(spec, contract_of(spec, processed, seed=seed), processed, None, seed, threads, hooks)


def predict_with(graph: ScoringGraph, task: Task) -> Predict:
    """Return what scores rows with ``graph``, a network of ``task``."""
    dataset, kind, quantiles = task.processed.dataset, task.contract.label_kind, task.contract.quantiles

    def predict(chosen_I: Int64) -> Float64:
        graph.eval()
        with torch.no_grad():
            parts = [
                graph(torch.from_numpy(dataset.x_MF[dataset.idx_NT[chosen_I[start : start + CHUNK_ROWS]]])).numpy()
                for start in range(0, len(chosen_I), CHUNK_ROWS)
            ]
        return scores_of(np.concatenate(parts), kind, quantiles).astype(np.float64)

    return predict


def last_rows(processed: Processed, chosen_I: Int64) -> Float32:
    """Return the samples' own rows (I, F), raw: the last one of each window."""
    dataset = processed.dataset
    x_IF: Float32 = dataset.x_MF[dataset.idx_NT[chosen_I, -1]]
    return x_IF
