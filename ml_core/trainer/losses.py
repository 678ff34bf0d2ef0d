"""What training makes small: one proper loss a sample.

Shapes: B samples of a batch, H horizons, O outputs.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

SampleLoss = Callable[[Tensor, Tensor], Tensor]  # (y_BO of the graph, target_BH) -> loss_B


def cross_entropy(y_BO: Tensor, target_BH: Tensor) -> Tensor:
    """Return the log loss of each sample, nats, mean over horizons (B,).

    Args:
        y_BO: Logits (down, flat, up) a horizon, horizon after horizon.
        target_BH: Classes 0, 1, 2.
    """
    batch, horizons = target_BH.shape
    logits = y_BO.reshape(batch * horizons, 3)
    loss = functional.cross_entropy(logits, target_BH.reshape(-1).long(), reduction="none")
    return loss.reshape(batch, horizons).mean(dim=1)


def squared_error(variance_H: Sequence[float]) -> SampleLoss:
    """Return a loss: squared error in units of ``variance_H``, the variance of the returns, mean over horizons (B,)."""
    scale_H = torch.tensor([1.0 / variance if variance > 0 else 1.0 for variance in variance_H], dtype=torch.float32)

    def loss(y_BO: Tensor, target_BH: Tensor) -> Tensor:
        return ((y_BO - target_BH) ** 2 * scale_H).mean(dim=1)

    return loss


def weighted_mean(loss_B: Tensor, weight_B: Tensor) -> Tensor:
    """Return the mean of ``loss_B`` weighted by ``weight_B``; NaN where all weights are 0."""
    return (loss_B * weight_B).sum() / weight_B.sum()
