"""The graph that is trained, exported and served: scaling, the model and the scale of its outputs.

Shapes: B rows of a batch, T rows of a window, F features, X = T x F, O outputs.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ml_core.contract import ModelContract, Places, Scaler
from ml_core.model.encoder import Encoder
from ml_core.types import CLASS_LABELS


class ScoringGraph(nn.Module):
    """Raw feature rows in, contract outputs out; what is trained is what serves.

    Inputs become ``clip((x - median) / iqr, -limit, limit)`` with NaN as 0; an `Encoder`, where there is one, puts its
    own behind them. Outputs become ``shift + scale * model(x)``: a ``direction`` model learns how far its logits stray
    from the log prior, a ``return`` model works in units of the standard deviation of the returns, so both start at the
    prior whatever the market.
    """

    median: Tensor
    iqr: Tensor
    limit: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        model: nn.Module,
        scaler: Scaler,
        *,
        shift_O: Sequence[float],
        scale_O: Sequence[float],
        places: Places | None = None,
    ) -> None:
        """Wrap ``model``, which takes scaled rows (B, T, F) and returns (B, O).

        With ``places`` it takes (B, T, X), the inputs they name.
        """
        super().__init__()
        self.model = model
        is_plain = places is None or not (places.missing_M or places.coded_G)
        self.encoder = None if places is None or is_plain else Encoder(places)
        self.register_buffer("median", torch.tensor(scaler.median, dtype=torch.float32))
        self.register_buffer("iqr", torch.tensor(scaler.iqr, dtype=torch.float32))
        self.register_buffer("limit", torch.tensor(scaler.limit, dtype=torch.float32))
        self.register_buffer("shift", torch.tensor(shift_O, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale_O, dtype=torch.float32))

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Return the outputs (B, O) of raw feature rows (B, T, F)."""
        rows, features = x_BTF.shape[1:]
        # The runtime broadcasts over one long axis faster than over two short ones.
        z_BX = (x_BTF.flatten(1) - self.median.repeat(rows)) / self.iqr.repeat(rows)
        z_BX = torch.minimum(torch.maximum(z_BX, -self.limit), self.limit)
        z_BX = torch.where(torch.isnan(z_BX), 0.0, z_BX)
        z_BTF = z_BX.reshape(-1, rows, features)
        y_BO: Tensor = self.model(z_BTF if self.encoder is None else self.encoder(x_BTF, z_BTF))
        return self.shift + self.scale * y_BO


def graph_of(model: nn.Module, contract: ModelContract) -> ScoringGraph:
    """Return ``model`` between the scaling, encoding and outputs of ``contract``."""
    shift_O, scale_O = output_scale(contract.label_kind, contract.prior, contract.quantiles)
    return ScoringGraph(model, contract.scaler, shift_O=shift_O, scale_O=scale_O, places=contract.places)


def output_scale(
    label_kind: str, prior: Sequence[Sequence[float]], quantiles: Sequence[float] = ()
) -> tuple[list[float], list[float]]:
    """Return (shift_O, scale_O) of a graph whose untrained model should say about what the prior says.

    Args:
        label_kind: Classes (``direction``, ``triple_barrier``) or numbers (``return``, ``volatility``).
        prior: Class shares of each horizon, or mean and variance of its numbers.
        quantiles: Of a number, where the model tells several.

    >>> output_scale("return", [(0.5, 4.0)])
    ([0.5], [2.0])
    """
    if label_kind in CLASS_LABELS:
        shift = [math.log(max(share, 1e-6)) for shares in prior for share in shares]
        return shift, [1.0] * len(shift)
    each = range(len(quantiles) or 1)
    return [mean for mean, _ in prior for _ in each], [
        math.sqrt(variance) or 1.0 for _, variance in prior for _ in each
    ]
