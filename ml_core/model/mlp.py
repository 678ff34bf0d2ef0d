"""A multi-layer perceptron on one row, or on all rows of a window at once.

Shapes: B rows of a batch, T rows of a window, F features, O outputs.
"""

import itertools

from torch import Tensor, nn


class MLP(nn.Module):
    """Dense layers with ReLU between them; a window is read as one long row."""

    def __init__(
        self, features: int, outputs: int, *, window: int = 1, hidden: tuple[int, ...] = (64, 32), dropout: float = 0.0
    ) -> None:
        """Build the layers.

        Args:
            features: F.
            outputs: O.
            window: T; given by the pipeline file.
            hidden: Widths of the hidden layers; empty makes a linear model.
            dropout: Share of hidden units that a training step leaves out, in [0, 1).
        """
        super().__init__()
        widths = (window * features, *hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Return the outputs (B, O) of scaled rows (B, T, F)."""
        y_BO: Tensor = self.layers(x_BTF)
        return y_BO
