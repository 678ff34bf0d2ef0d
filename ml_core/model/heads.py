"""What stands on a network that tells quantiles of a number, and what such a network makes small.

Shapes: B samples of a batch, T rows of a window, F features, H horizons, Q quantiles, O = H x Q outputs.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Quantiles(nn.Module):
    """Makes the outputs of a network, Q a horizon, quantiles that never cross.

    One output is the median; each other one is the step, made positive, to the quantile that is nearer to the median.
    """

    def __init__(self, network: nn.Module, quantiles: Sequence[float]) -> None:
        """Stand on ``network``; one of the rising ``quantiles`` is 0.5."""
        super().__init__()
        self.network = network
        self.count, self.median = len(quantiles), list(quantiles).index(0.5)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Return the quantiles (B, O) of scaled rows (B, T, F)."""
        y_BHQ = self.network(x_BTF).reshape(x_BTF.shape[0], -1, self.count)
        median_BH1 = y_BHQ[:, :, self.median : self.median + 1]
        down, up = y_BHQ[:, :, : self.median], y_BHQ[:, :, self.median + 1 :]
        parts = [median_BH1]
        if self.median:
            parts.insert(0, median_BH1 - functional.softplus(down).flip(2).cumsum(2).flip(2))
        if self.median + 1 < self.count:
            parts.append(median_BH1 + functional.softplus(up).cumsum(2))
        return torch.cat(parts, 2).flatten(1)


def pinball(quantiles: Sequence[float], prior: Sequence[Sequence[float]]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss (y_BO, target_BH) -> (B,): of each quantile, in standard deviations of ``prior``, mean over all.

    Source: Koenker and Bassett, 1978, "Regression quantiles".

    Args:
        quantiles: Q of them.
        prior: Mean and variance of the training rows, a horizon.
    """
    quantile_Q = torch.tensor(quantiles, dtype=torch.float32)
    deviation_H = torch.tensor([variance**0.5 or 1.0 for _, variance in prior], dtype=torch.float32)

    def loss(y_BO: Tensor, target_BH: Tensor) -> Tensor:
        share_Q, unit_H = quantile_Q.to(y_BO.device), deviation_H.to(y_BO.device)
        miss_BHQ = target_BH.unsqueeze(2) - y_BO.reshape(*target_BH.shape, len(quantiles))
        lost_BHQ = torch.maximum(share_Q * miss_BHQ, (share_Q - 1) * miss_BHQ)
        return (lost_BHQ / unit_H.unsqueeze(1)).mean(dim=(1, 2))

    return loss
