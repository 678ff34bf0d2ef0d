"""The training loop: batches in, fitted weights and a report out.

Shapes: B samples of a batch, T rows of a window, F features, H horizons.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ml_core.errors import InputError, TrainingCancelledError
from ml_core.trainer.losses import SampleLoss, weighted_mean
from ml_core.trainer.stopping import EarlyStopping
from ml_core.types import Batch


@dataclass(frozen=True)
class Settings:
    """How to train; ``threads`` is how many torch may use while the loop runs."""

    epochs: int
    patience: int
    learning_rate: float
    weight_decay: float
    gradient_limit: float = 1.0
    threads: int = 1


class Progress(NamedTuple):
    """How an epoch went; epoch 0 is the model before training. Losses are weighted means over samples."""

    epoch: int
    epochs: int
    train_loss: float  # while the weights moved; NaN for epoch 0
    validation_loss: float
    best_epoch: int


class TrainReport(NamedTuple):
    """How training went."""

    epochs_run: int
    best_epoch: int
    history: list[Progress]


@dataclass(frozen=True)
class Hooks:
    """What the caller wants to say or hear while training runs."""

    progress: Callable[[Progress], None] | None = None  # after every epoch
    cancelled: Callable[[], bool] | None = None  # before every step
    penalty: Callable[[], Tensor] | None = None  # added to the loss of every step


NO_HOOKS = Hooks()


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    validation: Iterable[Batch],
    *,
    loss: SampleLoss,
    settings: Settings,
    seed: int,
    hooks: Hooks = NO_HOOKS,
) -> TrainReport:
    """Fit ``model`` in place; it ends with the weights of the epoch that did best on ``validation``.

    Weights are a function of the arguments: the global random state is neither used nor changed.

    Args:
        model: Takes rows (B, T, F).
        batches: Each iteration gives one epoch.
        validation: Each iteration gives the whole validation part; never empty.
        loss: Per sample.
        settings: How to train.
        seed: Of what is random inside the model, such as dropout.
        hooks: Progress, cancellation, penalty.

    Raises:
        InputError: A loss or gradient is not finite; the model keeps the weights from before that step.
            A retry will not help.
        TrainingCancelledError: ``hooks.cancelled`` said so.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    stopping = EarlyStopping(settings.patience)
    history: list[Progress] = []
    with _threads(settings.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(settings.epochs + 1):
            train_loss = _run_epoch(model, batches, optimizer, loss, settings, hooks, epoch) if epoch else math.nan
            validation_loss = evaluate(model, validation, loss)
            if not math.isfinite(validation_loss):
                raise InputError(f"training stopped after epoch {epoch}: the validation loss is {validation_loss}")
            enough = stopping.update(epoch, validation_loss, model)
            history.append(Progress(epoch, settings.epochs, train_loss, validation_loss, stopping.best_epoch))
            if hooks.progress is not None:
                hooks.progress(history[-1])
            if enough:
                break
    stopping.restore(model)
    return TrainReport(history[-1].epoch, stopping.best_epoch, history)


def evaluate(model: nn.Module, batches: Iterable[Batch], loss: SampleLoss) -> float:
    """Return the weighted mean loss of ``model`` in inference mode; NaN where the batches weigh nothing."""
    model.eval()
    total = weight = 0.0
    with torch.inference_mode():
        for batch in batches:
            loss_B = loss(model(torch.as_tensor(batch.x_BTF)), torch.as_tensor(batch.y_BH))
            weight_B = torch.as_tensor(batch.weight_B)
            total += float((loss_B * weight_B).sum())
            weight += float(weight_B.sum())
    return total / weight if weight else math.nan


def _run_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    loss: SampleLoss,
    settings: Settings,
    hooks: Hooks,
    epoch: int,
) -> float:
    model.train()
    total = weight = 0.0
    for step, batch in enumerate(batches):
        if hooks.cancelled is not None and hooks.cancelled():
            raise TrainingCancelledError(f"training was cancelled in epoch {epoch}, step {step}")
        weight_B = torch.as_tensor(batch.weight_B)
        loss_B = loss(model(torch.as_tensor(batch.x_BTF)), torch.as_tensor(batch.y_BH))
        data_loss = weighted_mean(loss_B, weight_B)
        objective = data_loss + hooks.penalty() if hooks.penalty is not None else data_loss
        optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        value = float(objective.detach())
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_limit))
        if not (math.isfinite(norm) and math.isfinite(value)):
            where = f"epoch {epoch}, step {step}"
            values = f"loss {value:g}, gradient norm {norm:g}"
            raise InputError(f"training stopped at {where}: {values}; check the input or lower train.learning_rate")
        optimizer.step()
        total += float(data_loss.detach()) * float(weight_B.sum())
        weight += float(weight_B.sum())
    return total / weight if weight else math.nan


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
