"""Learns a torch network by gradient steps.

Shapes: O outputs, H horizons, I numbers of samples.
"""

import numpy as np
import torch

from ml_core.data_loader.arrays import Batches, Samples
from ml_core.data_processor.dataset import Processed
from ml_core.errors import SchemaMismatchError
from ml_core.evaluation.calibration import stray_factors
from ml_core.learners.port import Learned, Task
from ml_core.model.build import build
from ml_core.model.export import export
from ml_core.model.graph import ScoringGraph, output_scale
from ml_core.model.heads import pinball
from ml_core.model.runtime import CHUNK_ROWS
from ml_core.spec import PipelineSpec
from ml_core.trainer.incremental import go_on
from ml_core.trainer.loop import Settings, TrainReport, train
from ml_core.trainer.losses import SampleLoss, cross_entropy, squared_error
from ml_core.types import CLASS_LABELS

EVALUATION_BATCH = 8192  # no gradients are held, so larger than a training batch


def check(spec: PipelineSpec, *, features: int, outputs: int) -> None:
    """Raise what ``learn`` would raise about the pipeline file itself.

    Raises:
        SpecError, UnknownPartError: As ``ml_core.fit.check``.
    """
    build(spec, features=features, outputs=outputs, seed=0)


def learn(task: Task) -> Learned:
    """Return what was learned; equal tasks give equal weights on equal hardware.

    Raises:
        SchemaMismatchError, InputError, ModelRefusedError, TrainingCancelledError: As ``ml_core.fit.fit``.
    """
    graph = _graph(task)
    report = _train(graph, task)
    factors = _calibrate(graph, task.spec, task.processed)
    file = export(graph, task.contract)
    weights = {name: value.detach().numpy().copy() for name, value in graph.state_dict().items()}
    return Learned(file, weights, report, factors)


def _graph(task: Task) -> ScoringGraph:
    spec, contract, start = task.spec, task.contract, task.start
    model = build(spec, features=len(contract.features), outputs=contract.outputs, seed=task.seed)
    shift_O, scale_O = output_scale(contract.label_kind, contract.prior, contract.quantiles)
    graph = ScoringGraph(model, contract.scaler, shift_O=shift_O, scale_O=scale_O)
    if start is None:
        return graph
    for name in (
        "features",
        "feature_hash",
        "window",
        "label_kind",
        "horizons_ns",
        "quantiles",
        "model_kind",
        "model_params",
    ):
        ours, theirs = getattr(contract, name), getattr(start.contract, name)
        if ours != theirs:
            raise SchemaMismatchError(f"cannot go on: {name} of the model is {theirs!r}, the pipeline says {ours!r}")
    try:
        graph.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in start.weights.items()})
    except RuntimeError as error:  # an own model whose code has changed since
        raise SchemaMismatchError(f"cannot go on: the weights of the model do not fit: {error}") from error
    return graph


def _train(graph: ScoringGraph, task: Task) -> TrainReport:
    spec, processed = task.spec, task.processed
    dataset = processed.dataset
    samples = Samples(dataset.x_MF, dataset.idx_NT, dataset.y_NH, dataset.weight_N)
    batches = Batches(samples, processed.train_I, batch_size=spec.train.batch_size, seed=task.seed)
    validation = Batches(samples, processed.validation_I, batch_size=EVALUATION_BATCH, shuffle=False)
    settings = Settings(
        epochs=spec.train.epochs,
        patience=spec.train.patience,
        learning_rate=spec.train.learning_rate,
        weight_decay=spec.train.weight_decay,
        threads=task.threads,
    )
    loss: SampleLoss = cross_entropy
    if spec.label.kind not in CLASS_LABELS:
        loss = squared_error([variance for _, variance in processed.prior])
    if task.contract.quantiles:
        loss = pinball(task.contract.quantiles, processed.prior)
    run = train if task.start is None else go_on
    return run(graph, batches, validation, loss=loss, settings=settings, seed=task.seed, hooks=task.hooks)


def _calibrate(graph: ScoringGraph, spec: PipelineSpec, processed: Processed) -> list[float]:
    """Let the logits stray from the log prior as far as the validation rows bear out; return the factor a horizon."""
    if spec.label.kind not in CLASS_LABELS:
        return []
    dataset, chosen_I = processed.dataset, processed.validation_I
    graph.eval()
    with torch.no_grad():
        parts = [
            graph(torch.from_numpy(dataset.x_MF[dataset.idx_NT[chosen_I[start : start + CHUNK_ROWS]]])).numpy()
            for start in range(0, len(chosen_I), CHUNK_ROWS)
        ]
        shift_O = graph.shift.double().numpy()
        y_IO = np.concatenate(parts)
        factor_H = stray_factors(y_IO, shift_O, dataset.y_NH[chosen_I], dataset.weight_N[chosen_I])
        graph.scale.mul_(torch.from_numpy(np.repeat(factor_H, 3).astype(np.float32)))
    return [float(factor) for factor in factor_H]
