"""A linear model of one row, or of all rows of a window at once.

Shapes: B rows of a batch, T rows of a window, F features, O outputs.
"""

from torch import Tensor, nn


class Linear(nn.Module):
    """One affine map; a window is read as one long row."""

    def __init__(self, features: int, outputs: int, *, window: int = 1) -> None:
        """Build the map.

        Args:
            features: F.
            outputs: O.
            window: T; given by the pipeline file.
        """
        super().__init__()
        self.flatten = nn.Flatten()
        self.head = nn.Linear(window * features, outputs)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Return the outputs (B, O) of scaled rows (B, T, F)."""
        y_BO: Tensor = self.head(self.flatten(x_BTF))
        return y_BO
