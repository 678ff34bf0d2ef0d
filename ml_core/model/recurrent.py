"""Recurrent networks on windows.

Shapes: B rows of a batch, T rows of a window, F features, W width, O outputs.
"""

from torch import Tensor, nn


class _Recurrent(nn.Module):
    def __init__(self, cells: nn.LSTM | nn.GRU, outputs: int, dropout: float) -> None:
        super().__init__()
        self.cells = cells
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(cells.hidden_size, outputs)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Return the outputs (B, O) of scaled rows (B, T, F)."""
        h_BTW, _ = self.cells(x_BTF)
        y_BO: Tensor = self.head(self.dropout(h_BTW[:, -1, :]))
        return y_BO


class LSTM(_Recurrent):
    """An LSTM that reads a window from its oldest row to its newest and answers from the last state."""

    def __init__(self, features: int, outputs: int, *, width: int = 32, layers: int = 1, dropout: float = 0.0) -> None:
        """Build the cells.

        Args:
            features: F.
            outputs: O.
            width: Size of the hidden state.
            layers: LSTM layers on top of each other.
            dropout: Share of the last state that a training step leaves out, in [0, 1).
        """
        super().__init__(nn.LSTM(features, width, num_layers=layers, batch_first=True), outputs, dropout)


class GRU(_Recurrent):
    """A GRU that reads a window as the LSTM does, with three quarters of its weights."""

    def __init__(self, features: int, outputs: int, *, width: int = 32, layers: int = 1, dropout: float = 0.0) -> None:
        """Build the cells.

        Args:
            features: F.
            outputs: O.
            width: Size of the hidden state.
            layers: GRU layers on top of each other.
            dropout: Share of the last state that a training step leaves out, in [0, 1).
        """
        super().__init__(nn.GRU(features, width, num_layers=layers, batch_first=True), outputs, dropout)
