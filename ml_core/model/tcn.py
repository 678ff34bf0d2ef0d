"""A causal temporal convolution on windows.

Shapes: B rows of a batch, T rows of a window, F features, W width, O outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class TCN(nn.Module):
    """Residual blocks of dilated convolutions that see only rows up to their own; answers from the newest row.

    Block l looks ``(kernel - 1) * 2**l`` rows back, so all of them ``1 + (kernel - 1) * (2**blocks - 1)`` rows.

    Source: Bai, Kolter and Koltun, 2018, "An empirical evaluation of generic convolutional and recurrent networks for
    sequence modeling"; without weight normalisation, and with one convolution a block.
    """

    def __init__(
        self, features: int, outputs: int, *, width: int = 16, kernel: int = 3, blocks: int = 3, dropout: float = 0.0
    ) -> None:
        """Build the blocks.

        Args:
            features: F.
            outputs: O.
            width: Channels of every block.
            kernel: Rows that one convolution joins.
            blocks: How many; each doubles the distance of those rows.
            dropout: Share of a block's channels that a training step leaves out, in [0, 1).
        """
        super().__init__()
        self.lift = nn.Linear(features, width)
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, kernel, dilation=2**block) for block in range(blocks))
        self.reach = [(kernel - 1) * 2**block for block in range(blocks)]
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)

    def states(self, x_BTF: Tensor) -> Tensor:
        """Return the last block's state (B, W, T) at every row of scaled rows (B, T, F)."""
        h_BWT: Tensor = self.lift(x_BTF).transpose(1, 2)
        for convolve, reach in zip(self.blocks, self.reach, strict=True):
            seen = functional.pad(h_BWT, (reach, 0))  # left alone, so that no row sees a later one
            h_BWT = h_BWT + self.dropout(torch.relu(convolve(seen)))
        return h_BWT

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Return the outputs (B, O) of scaled rows (B, T, F)."""
        y_BO: Tensor = self.head(self.states(x_BTF)[:, :, -1])
        return y_BO
