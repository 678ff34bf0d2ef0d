"""What training makes small: a loss a sample, chosen by the pipeline file.

Shapes: B samples of a batch, T rows of a window, F features, H horizons, O outputs, C classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_core.errors import SpecError, UnknownPartError
from ml_core.parts import find_part, is_part
from ml_core.sections import Train
from ml_core.types import CLASS_LABELS

CLASSES = 3  # down, flat, up


class TensorBatch(NamedTuple):
    """A batch on the device of the model."""

    x_BTF: Tensor  # rows as the trained module takes them
    y_BH: Tensor  # classes 0 down, 1 flat, 2 up, or numbers
    weight_B: Tensor


SampleLoss = Callable[[Tensor, Tensor], Tensor]  # (y_BO of the graph, target_BH) -> loss_B
BatchLoss = Callable[[TensorBatch], Tensor]  # a batch -> loss_B


class OwnLoss(NamedTuple):
    """A user's own way from a batch to its losses."""

    of_batch: BatchLoss


Loss = SampleLoss | OwnLoss


def per_batch(loss: Loss, model: nn.Module) -> BatchLoss:
    """Return the loss of a batch: the own one, or ``loss`` of what ``model`` answers to the rows."""
    if isinstance(loss, OwnLoss):
        return loss.of_batch
    return lambda batch: loss(model(batch.x_BTF), batch.y_BH)


def choose(
    train: Train, model: nn.Module, *, label_kind: str, prior: Sequence[Sequence[float]], folder: Path | None
) -> Loss:
    """Return the loss that ``train`` names, for a model that answers labels of ``label_kind``.

    An own ``module:Class`` is called with the model, which takes scaled rows, and with ``loss_params`` as keywords. Its
    ``loss(batch)`` returns the losses (B,) of a ``TensorBatch``. It holds no state that steps change.

    Args:
        train: The section of the pipeline file.
        model: What is trained.
        label_kind: Kind of label.
        prior: Of the training rows: class shares, or mean and variance, a horizon.
        folder: Where own parts are looked for first.

    Raises:
        UnknownPartError: The own class is not found or has no ``loss``. A retry will not help.
        SpecError: It cannot be made. A retry will not help.
    """
    name = train.loss or default_loss(label_kind)
    if is_part(name):
        return _own(name, model, dict(train.loss_params), folder)
    balance_HC = balance(prior) if train.class_weights == "balanced" else None
    losses: dict[str, Callable[..., SampleLoss]] = {
        "cross_entropy": lambda: classified(weight_HC=balance_HC),
        "focal": lambda gamma=2.0: classified(gamma=gamma, weight_HC=balance_HC),
        "squared_error": lambda: squared_error([variance for _, variance in prior]),
        "huber": lambda delta=1.0: huber([variance for _, variance in prior], delta=delta),
    }
    return losses[name](**train.loss_params)


def default_loss(label_kind: str) -> str:
    """Return the proper loss that the gate judges labels of ``label_kind`` by.

    >>> default_loss("direction"), default_loss("return")
    ('cross_entropy', 'squared_error')
    """
    return "cross_entropy" if label_kind in CLASS_LABELS else "squared_error"


def cross_entropy(y_BO: Tensor, target_BH: Tensor) -> Tensor:
    """Return the log loss of each sample, nats, mean over horizons (B,).

    Args:
        y_BO: Logits (down, flat, up) a horizon, horizon after horizon.
        target_BH: Classes 0, 1, 2.
    """
    return _log_losses(y_BO, target_BH).mean(dim=1)


def classified(*, gamma: float = 0.0, weight_HC: Sequence[Sequence[float]] | None = None) -> SampleLoss:
    """Return a loss of classes: the log loss times ``(1 - p) ** gamma``, p of the true class, and a class's weight.

    ``gamma`` 0 is the log loss; a larger one leaves samples that the model is sure of to themselves.
    Source: Lin, Goyal, Girshick, He and Dollar, 2017, "Focal loss for dense object detection".
    """
    weights = None if weight_HC is None else torch.tensor(weight_HC, dtype=torch.float32)

    def loss(y_BO: Tensor, target_BH: Tensor) -> Tensor:
        loss_BH = _log_losses(y_BO, target_BH)
        factor: Tensor | float = 1.0
        if gamma:
            factor = (-torch.expm1(-loss_BH)) ** gamma
        if weights is not None:
            horizon_H = torch.arange(target_BH.shape[1], device=target_BH.device)
            factor = factor * weights.to(y_BO.device)[horizon_H, target_BH.long()]
        return (factor * loss_BH).mean(dim=1)

    return loss


def balance(prior: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return weights (H, C) that give each class an equal say and the samples of a horizon a mean weight of 1.

    >>> balance([(0.25, 0.5, 0.25)])
    [[1.3333333333333333, 0.6666666666666666, 1.3333333333333333]]
    """
    return [[1.0 / (len(shares) * share) for share in shares] for shares in prior]


def squared_error(variance_H: Sequence[float]) -> SampleLoss:
    """Return a loss: squared error in units of ``variance_H``, the variance of the returns, mean over horizons (B,)."""
    scale_H = torch.tensor([1.0 / variance if variance > 0 else 1.0 for variance in variance_H], dtype=torch.float32)

    def loss(y_BO: Tensor, target_BH: Tensor) -> Tensor:
        return ((y_BO - target_BH) ** 2 * scale_H.to(y_BO.device)).mean(dim=1)

    return loss


def huber(variance_H: Sequence[float], *, delta: float) -> SampleLoss:
    """Return a loss: ``squared_error`` up to ``delta`` standard deviations, from there on a straight line."""
    scale_H = torch.tensor([variance**-0.5 if variance > 0 else 1.0 for variance in variance_H], dtype=torch.float32)

    def loss(y_BO: Tensor, target_BH: Tensor) -> Tensor:
        z_BH = (y_BO - target_BH) * scale_H.to(y_BO.device)
        return 2 * functional.huber_loss(z_BH, torch.zeros_like(z_BH), reduction="none", delta=delta).mean(dim=1)

    return loss


def weighted_mean(loss_B: Tensor, weight_B: Tensor) -> Tensor:
    """Return the mean of ``loss_B`` weighted by ``weight_B``; NaN where all weights are 0."""
    return (loss_B * weight_B).sum() / weight_B.sum()


def _log_losses(y_BO: Tensor, target_BH: Tensor) -> Tensor:
    batch, horizons = target_BH.shape
    logits = y_BO.reshape(batch * horizons, CLASSES)
    loss = functional.cross_entropy(logits, target_BH.reshape(-1).long(), reduction="none")
    return loss.reshape(batch, horizons)


def _own(name: str, model: nn.Module, params: dict[str, Any], folder: Path | None) -> OwnLoss:
    part = find_part(name, folder, key="train.loss")
    if not callable(getattr(part, "loss", None)):
        raise UnknownPartError(f"train.loss: {name!r} has no method loss(batch)")
    try:
        made = part(model, **params)
    except Exception as error:  # a user's own class may fail in any way
        raise SpecError(f"train.loss: {name!r} cannot be made: {type(error).__name__}: {error}") from error
    return OwnLoss(made.loss)
