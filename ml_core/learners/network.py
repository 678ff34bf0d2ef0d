"""Learns a torch network by gradient steps.

Shapes: O outputs, H horizons, I numbers of samples.
"""

import hashlib
import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ml_core.contract import Places, Scaler
from ml_core.data_loader import on_disk
from ml_core.data_loader.arrays import Augment, Batches, Samples
from ml_core.data_loader.augment import asked_for
from ml_core.data_processor.catalogue import CATALOGUE, mirrored
from ml_core.data_processor.dataset import Processed
from ml_core.errors import SchemaMismatchError, SpecError
from ml_core.evaluation.calibration import stray_factors
from ml_core.learners.port import Learned, Task
from ml_core.learners.replay import StepBatches, reservoir
from ml_core.model.build import build
from ml_core.model.export import export
from ml_core.model.fitted import FittedModel
from ml_core.model.graph import ScoringGraph, graph_of
from ml_core.model.heads import pinball
from ml_core.model.runtime import CHUNK_ROWS
from ml_core.parts import files_of
from ml_core.quantities import parse_augment
from ml_core.spec import PipelineSpec
from ml_core.trainer.checkpoint import Checkpoints
from ml_core.trainer.device import choose_device
from ml_core.trainer.incremental import go_on
from ml_core.trainer.loop import Settings, TrainReport, evaluate, train
from ml_core.trainer.losses import OwnLoss, SampleLoss, TensorBatch, choose
from ml_core.trainer.optimisers import PREFIX
from ml_core.trainer.steps import Guard
from ml_core.types import CLASS_LABELS, Float32

GUARD_ROWS = 4096  # of the validation part, evenly spaced: they are read after every step
TRIAL_ROWS = 8  # on which an own loss is tried
EVALUATION_BATCH = 8192  # no gradients are held, so larger than a training batch


def check(spec: PipelineSpec, *, features: int, outputs: int) -> None:
    """Raise what ``learn`` would raise about the pipeline file itself; an own loss is tried on a batch of noise.

    Raises:
        SpecError, UnknownPartError, InvalidSettingsError: As ``ml_core.fit.check``.
    """
    own = [text for text in spec.features.use if text.partition(":")[0].strip() not in CATALOGUE]
    if own and any(parse_augment(text)[0] == "mirror" for text in spec.train.augment):
        raise SpecError(f"train.augment: nobody says what a mirror makes of the own feature {own[0]!r}")
    model = build(spec, features=features, outputs=outputs, seed=0)
    prior = [(1 / 3, 1 / 3, 1 / 3) if spec.label.kind in CLASS_LABELS else (0.0, 1.0)] * len(spec.label.horizons)
    loss = choose(spec.train, model, label_kind=spec.label.kind, prior=prior, folder=spec.folder)
    if isinstance(loss, OwnLoss):
        _try_loss(loss, spec, model, features)
    choose_device(spec.train.device)


def learn(task: Task) -> Learned:
    """Return what was learned; equal tasks give equal weights on equal hardware.

    Raises:
        SchemaMismatchError, InputError, ModelRefusedError, TrainingCancelledError: As ``ml_core.fit.fit``.
    """
    graph, report, factors = trained(task)
    file = export(graph, task.contract)
    weights = {name: value.detach().numpy().copy() for name, value in graph.state_dict().items()}
    weights |= {PREFIX + name: value for name, value in report.optimizer_state.items()}
    return Learned(file, weights, report, factors)


def try_out(task: Task) -> TrainReport:
    """Train as ``learn`` does and return how it went; raises as there."""
    return _train(_graph(task), task)


def _try_loss(loss: OwnLoss, spec: PipelineSpec, model: nn.Module, features: int) -> None:
    noise, horizons = torch.Generator().manual_seed(0), len(spec.label.horizons)
    x_BTF = torch.randn(TRIAL_ROWS, spec.features.window, features, generator=noise)
    y_BH = torch.randn(TRIAL_ROWS, horizons, generator=noise)
    if spec.label.kind in CLASS_LABELS:
        y_BH = torch.randint(0, 3, (TRIAL_ROWS, horizons), generator=noise)
    said = f"train.loss: {spec.train.loss!r}"
    try:
        loss_B = loss.of_batch(TensorBatch(x_BTF, y_BH, torch.ones(TRIAL_ROWS)))
        shape = tuple(loss_B.shape)
        loss_B.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it so
    except Exception as error:  # a user's own class may fail in any way
        raise SpecError(f"{said} fails on a batch: {type(error).__name__}: {error}") from error
    if shape != (TRIAL_ROWS,):
        raise SpecError(f"{said} returns shape {shape} for {TRIAL_ROWS} samples, it must return ({TRIAL_ROWS},)")
    if all(parameter.grad is None for parameter in model.parameters()):
        raise SpecError(f"{said} does not depend on what the model answers")


def trained(task: Task) -> tuple[ScoringGraph, TrainReport, list[float]]:
    """Return the graph that ``learn`` exports, how training went, and the factors of its calibration.

    Raises:
        SchemaMismatchError, InputError, TrainingCancelledError: As ``ml_core.fit.fit``.
    """
    graph = _graph(task)
    report = _train(graph, task)
    return graph, report, _calibrate(graph, task.spec, task.processed)


class BehindScaling(nn.Module):
    """A graph without its scaling: takes rows as ``scaled_rows`` makes them, and shares the graph's weights."""

    shift: Tensor
    scale: Tensor

    def __init__(self, graph: ScoringGraph) -> None:
        """Stand for ``graph``."""
        super().__init__()
        self.model = graph.model
        self.register_buffer("shift", graph.shift)
        self.register_buffer("scale", graph.scale)

    def forward(self, z_BTF: Tensor) -> Tensor:
        """Return the outputs (B, O) of scaled rows (B, T, F)."""
        y_BO: Tensor = self.shift + self.scale * self.model(z_BTF)
        return y_BO


def scaled_rows(x_MF: Float32, scaler: Scaler, places: Places | None = None) -> Float32:
    """Return what the scaling of a graph, and its encoding, make of each row, to the bit; of mapped rows, on disk."""
    # a graph that answers its rows
    scaling = ScoringGraph(nn.Flatten(), scaler, shift_O=[0.0], scale_O=[1.0], places=places)
    shape = len(x_MF), places.width if places else x_MF.shape[1]
    z_MF = on_disk.empty(shape, np.float32) if isinstance(x_MF, np.memmap) else np.empty(shape, np.float32)
    with torch.no_grad():
        for start in range(0, len(x_MF), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            z_MF[chunk] = scaling(torch.from_numpy(np.ascontiguousarray(x_MF[chunk, None]))).numpy()
    return z_MF


def _graph(task: Task) -> ScoringGraph:
    spec, contract, start = task.spec, task.contract, task.start
    graph = graph_of(build(spec, features=contract.places.width, outputs=contract.outputs, seed=task.seed), contract)
    if start is None:
        return graph
    start.contract.must_lead_to(contract, "model_params")
    try:
        graph.load_state_dict(_tensors(start.weights, optimizer=False))
    except RuntimeError as error:  # an own model whose code has changed since
        raise SchemaMismatchError(f"cannot go on: the weights of the model do not fit: {error}") from error
    return graph


def _tensors(stored: dict[str, npt.NDArray[Any]], *, optimizer: bool) -> dict[str, Tensor]:
    """Return the weights that a model is stored with, or what its optimiser remembers."""
    return {
        name.removeprefix(PREFIX): torch.from_numpy(value.copy())
        for name, value in stored.items()
        if name.startswith(PREFIX) == optimizer
    }


def _train(graph: ScoringGraph, task: Task) -> TrainReport:
    spec, processed, device = task.spec, task.processed, choose_device(task.spec.train.device)
    dataset = processed.dataset
    changes = _augment(task)
    # what changes rows tells missing values from neutral ones: such rows are scaled batch by batch
    is_raw = changes is not None
    model = (graph if is_raw else BehindScaling(graph)).to(device)
    x_MF = dataset.x_MF if is_raw else scaled_rows(dataset.x_MF, task.contract.scaler, task.contract.places)
    samples = Samples(x_MF, dataset.idx_NT, dataset.y_NH, dataset.weight_N)
    options: dict[str, Any] = {
        "loss": loss_of(task, model),
        "settings": _settings(spec, task.threads),
        "seed": task.seed,
        "hooks": task.hooks,
        "checkpoints": _checkpoints(task, device),
    }
    validation = Batches(samples, processed.validation_I, batch_size=EVALUATION_BATCH, shuffle=False)
    try:
        if task.start is not None:
            return _go_on(model, samples, validation, task.start, task, options)
        batches = Batches(
            samples,
            processed.train_I,
            batch_size=spec.train.batch_size,
            seed=task.seed,
            augment=changes,
        )
        return train(model, batches, validation, **options)
    finally:
        model.cpu()


def loss_of(task: Task, model: nn.Module) -> SampleLoss | OwnLoss:
    """Return what ``task`` makes small while it trains ``model``."""
    spec, prior = task.spec, task.processed.prior
    if task.contract.quantiles:
        return pinball(task.contract.quantiles, prior)
    return choose(spec.train, model, label_kind=spec.label.kind, prior=prior, folder=spec.folder)


def _augment(task: Task) -> Augment | None:
    """Return the changes of training batches that the pipeline asks for, in the units of raw rows."""
    scaler = task.contract.scaler
    center_F, spread_F = (np.array(values, np.float32) for values in (scaler.median, scaler.iqr))
    sign_F = mirrored(task.contract.features)
    return asked_for(task.spec.train.augment, center_F=center_F, spread_F=spread_F, sign_F=sign_F)


def _go_on(
    model: nn.Module, samples: Samples, validation: Batches, start: FittedModel, task: Task, options: dict[str, Any]
) -> TrainReport:
    """Learn the rows that are new to ``start``, with some of those that are not mixed in."""
    spec, processed, ts_ns_N = task.spec, task.processed, task.processed.dataset.ts_ns_N
    is_new_I = ts_ns_N[processed.train_I] > start.contract.trained_to_ns
    new_I, old_I = processed.train_I[is_new_I], processed.train_I[~is_new_I]
    if not len(new_I):  # the new ones are too few to reach into this part, and ``new_train_rows`` says 0
        new_I, old_I = old_I, new_I
    batches = StepBatches(
        samples,
        new_I[np.argsort(ts_ns_N[new_I], kind="stable")],
        reservoir(old_I, ts_ns_N, rows=spec.incremental.reservoir, seed=task.seed),
        step_rows=spec.incremental.step_rows,
        batch_size=spec.train.batch_size,
        seed=task.seed,
    )
    count = len(processed.validation_I)
    slice_I = processed.validation_I[np.unique(np.linspace(0, count - 1, min(count, GUARD_ROWS)).astype(np.int64))]
    fixed = Batches(samples, slice_I, batch_size=EVALUATION_BATCH, shuffle=False)
    guard = Guard(
        lambda: evaluate(model, fixed, options["loss"]),
        is_last=batches.ends_step,
        bound=spec.incremental.harm_bound,
    )
    return go_on(
        model,
        batches,
        validation,
        **{**options, "hooks": replace(task.hooks, guard=guard)},
        optimizer_state=_tensors(start.weights, optimizer=True),
    )


def _settings(spec: PipelineSpec, threads: int) -> Settings:
    names = {field.name for field in fields(Settings)} - {"threads", "anchor"}
    shared = {name: getattr(spec.train, name) for name in names}
    return Settings(**shared, threads=threads, anchor=spec.incremental.anchor)


def _checkpoints(task: Task, device: torch.device) -> Checkpoints | None:
    if task.checkpoint is None:
        return None
    return Checkpoints(task.checkpoint, task=_hash(task, device), every_steps=task.spec.train.checkpoint_steps)


def _hash(task: Task, device: torch.device) -> str:
    """Return the hash of all that the trained weights depend on."""
    dataset, processed = task.processed.dataset, task.processed
    own = files_of((task.spec.model.kind, task.spec.train.loss or ""), task.spec.folder)
    facts = [task.contract.model_dump_json(), own, task.threads, torch.__version__, device.type]
    digest = hashlib.sha256(json.dumps(facts).encode())
    arrays = [dataset.x_MF, dataset.idx_NT, dataset.y_NH, dataset.weight_N, processed.train_I, processed.validation_I]
    for array in [*arrays, *(task.start.weights.values() if task.start is not None else ())]:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


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
