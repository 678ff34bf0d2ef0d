"""The training loop: batches in, fitted weights and a report out.

Shapes: B samples of a batch, T rows of a window, F features, H horizons.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt
import torch
from torch import Tensor, nn

from ml_core.errors import InputError, TrainingCancelledError
from ml_core.trainer.checkpoint import Checkpoints
from ml_core.trainer.device import repeatable
from ml_core.trainer.losses import BatchLoss, Loss, TensorBatch, per_batch
from ml_core.trainer.optimisers import take_up
from ml_core.trainer.schedules import rate_factor
from ml_core.trainer.state import Progress, Run, Settings
from ml_core.trainer.steps import Guard
from ml_core.types import Batch

__all__ = ["Hooks", "Progress", "Settings", "TrainReport", "TrainingBatches", "clip_gradients", "evaluate", "train"]


class TrainingBatches(Protocol):
    """Batches of an epoch, which an iteration gives; ``state`` and ``restore`` are asked for by checkpoints alone."""

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """Yield what is left of the epoch."""
        ...


class TrainReport(NamedTuple):
    """How training went."""

    epochs_run: int
    best_epoch: int
    history: list[Progress]
    optimizer_state: Mapping[str, npt.NDArray[Any]] = MappingProxyType({})  # of the best epoch
    steps: int = 0  # that a guard has judged, and how many of them it took back
    steps_discarded: int = 0


@dataclass(frozen=True)
class Hooks:
    """What the caller wants to say or hear while training runs."""

    progress: Callable[[Progress], None] | None = None  # after every epoch
    cancelled: Callable[[], bool] | None = None  # before every step, and before every batch of validation
    penalty: Callable[[], Tensor] | None = None  # added to the loss of every step
    guard: Guard | None = None  # takes harmful steps back


NO_HOOKS = Hooks()


def train(
    model: nn.Module,
    batches: TrainingBatches,
    validation: Iterable[Batch],
    *,
    loss: Loss,
    settings: Settings,
    seed: int,
    hooks: Hooks = NO_HOOKS,
    checkpoints: Checkpoints | None = None,
    optimizer_state: Mapping[str, Tensor] | None = None,
) -> TrainReport:
    """Fit ``model`` in place; it ends with the weights of the epoch that did best on ``validation``.

    Weights are a function of the arguments, checkpoints aside: a training that was interrupted and goes on from its
    last one ends with the same bits. The global random state is neither used nor changed.

    Args:
        model: Takes rows (B, T, F); it trains on the device where it is.
        batches: Each iteration gives one epoch.
        validation: Each iteration gives the whole validation part; never empty.
        loss: Per sample.
        settings: How to train.
        seed: Of what is random inside the model, such as dropout.
        hooks: Progress, cancellation, penalty, guard.
        checkpoints: Where to go on from, if there is one, and where to leave some; ``batches`` then has ``state`` and
            ``restore``.
        optimizer_state: What the optimiser remembers from an earlier training.

    Raises:
        InputError: A loss or gradient is not finite; the model keeps the weights from before that step.
            A retry will not help.
        TrainingCancelledError: ``hooks.cancelled`` said so.
    """
    run = Run(model, settings)
    with repeatable(run.device, seed=seed, threads=settings.threads):
        if optimizer_state is not None:
            take_up(run.optimizer, model, optimizer_state)
        loop = _Loop(run, batches, validation, per_batch(loss, model), settings, hooks, checkpoints)
        loop.start()
        while run.epoch <= settings.epochs and not run.stopping.is_enough(run.epoch - 1):
            loop.one_epoch()
    run.stopping.restore(model)
    state = {name: value.cpu().numpy() for name, value in run.stopping.optimizer_state.items()}
    counts = (hooks.guard.steps, hooks.guard.discarded) if hooks.guard is not None else (0, 0)
    return TrainReport(run.epoch - 1, run.stopping.best_epoch, run.history, state, *counts)


def evaluate(
    model: nn.Module, batches: Iterable[Batch], loss: Loss, cancelled: Callable[[], bool] | None = None
) -> float:
    """Return the weighted mean loss of ``model`` in inference mode; NaN where the batches weigh nothing.

    Raises:
        TrainingCancelledError: ``cancelled`` said so.
    """
    return _evaluate(model, batches, per_batch(loss, model), cancelled)


def _evaluate(
    model: nn.Module, batches: Iterable[Batch], of_batch: BatchLoss, cancelled: Callable[[], bool] | None
) -> float:
    device = next(model.parameters()).device
    model.eval()
    total = weight = 0.0
    with torch.inference_mode():
        for batch in batches:
            if cancelled is not None and cancelled():
                raise TrainingCancelledError("training was cancelled while the model was validated")
            tensors = _tensors(batch, device)
            total += float((of_batch(tensors) * tensors.weight_B).sum())
            weight += float(tensors.weight_B.sum())
    return total / weight if weight else math.nan


@dataclass
class _Loop:
    run: Run
    batches: TrainingBatches
    validation: Iterable[Batch]
    of_batch: BatchLoss
    settings: Settings
    hooks: Hooks
    checkpoints: Checkpoints | None

    def start(self) -> None:
        """Go to the last checkpoint, or judge the model as it came."""
        found = self.checkpoints.load() if self.checkpoints is not None else None
        guarded = None
        if found is None:
            self._judge(math.nan)
        else:
            arrays, facts = found
            self.run.restore(arrays, facts)
            self.batches.restore(facts["batches"])  # type: ignore[attr-defined]  # said of checkpoints
            guarded = facts["guard"]
        if self.hooks.guard is not None:
            self.hooks.guard.begin(self.run, guarded)

    def one_epoch(self) -> None:
        """Take the steps that are left of the epoch, and judge it."""
        run = self.run
        parameters = list(run.model.parameters())
        rate = math.nan
        steps = self.settings.epochs * len(self.batches)
        losses = [progress.validation_loss for progress in run.history]
        run.model.train()
        for batch in self.batches:
            if self.hooks.cancelled is not None and self.hooks.cancelled():
                raise TrainingCancelledError(f"training was cancelled in epoch {run.epoch}, step {run.batch}")
            now = self.settings.learning_rate * rate_factor(
                self.settings.schedule,
                run.step,
                steps,
                warm_up_steps=self.settings.warm_up_steps,
                validation_losses=losses,
            )
            if now != rate:
                rate = now
                for group in run.optimizer.param_groups:
                    group["lr"] = rate
            self._step(_tensors(batch, run.device), parameters)
            self._after_step()
        self._judge(run.total / run.weight if run.weight else math.nan)

    def _step(self, batch: TensorBatch, parameters: list[nn.Parameter]) -> None:
        run = self.run
        for parameter in parameters:
            parameter.grad = None
        objective, data_loss, weight = self._forward(batch)
        objective.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        value, norm = objective.item(), clip_gradients(parameters, self.settings.gradient_limit)
        if not (math.isfinite(norm) and math.isfinite(value)):
            where = f"epoch {run.epoch}, step {run.batch}"
            values = f"loss {value:g}, gradient norm {norm:g}"
            raise InputError(f"training stopped at {where}: {values}; check the input or lower train.learning_rate")
        run.optimizer.step()
        weight_value = weight.item()
        run.total += (value if objective is data_loss else data_loss.item()) * weight_value
        run.weight += weight_value

    def _forward(self, batch: TensorBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the step makes smaller, the mean loss in it, and the sum of the weights."""
        weight = batch.weight_B.sum()
        data_loss = (self.of_batch(batch) * batch.weight_B).sum() / weight
        penalty = self.hooks.penalty
        return data_loss if penalty is None else data_loss + penalty(), data_loss, weight

    def _after_step(self) -> None:
        run, guard = self.run, self.hooks.guard
        # within a step that may still be taken back there is no place to go on from
        is_settled = guard is None or guard.after(run.batch, run)
        if guard is not None and is_settled:
            run.model.train()
        run.batch += 1
        run.step += 1
        if is_settled and self.checkpoints is not None and self.checkpoints.is_due(run.step):
            place = self.batches.state()  # type: ignore[attr-defined]  # said of checkpoints
            facts = {**run.facts(), "batches": place, "guard": guard and guard.facts()}
            self.checkpoints.save(run.arrays(), facts)

    def _judge(self, train_loss: float) -> None:
        run = self.run
        validation_loss = _evaluate(run.model, self.validation, self.of_batch, self.hooks.cancelled)
        if not math.isfinite(validation_loss):
            raise InputError(f"training stopped after epoch {run.epoch}: the validation loss is {validation_loss}")
        run.judged(Progress(run.epoch, self.settings.epochs, train_loss, validation_loss, 0))
        if self.hooks.progress is not None:
            self.hooks.progress(run.history[-1])


def clip_gradients(parameters: list[nn.Parameter], limit: float) -> float:
    """Scale the gradients so that they are no longer than ``limit`` together, and return how long they were."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.cat([each.flatten() for each in gradients])))
    if norm > limit:
        for each in gradients:
            each.mul_(limit / norm)
    return norm


def _tensors(batch: Batch, device: torch.device) -> TensorBatch:
    x, y, weight = torch.from_numpy(batch.x_BTF), torch.from_numpy(batch.y_BH), torch.from_numpy(batch.weight_B)
    if device.type == "cpu":
        return TensorBatch(x, y, weight)
    return TensorBatch(x.to(device), y.to(device), weight.to(device))
