"""A model of your own: any `nn.Module` with `(features, outputs, *, ...)` and `forward(x_BTF)`."""

import torch
from torch import Tensor, nn


class TinyConv(nn.Module):
    """Two convolutions along the window, then the mean over time."""

    def __init__(self, features: int, outputs: int, *, width: int = 16, kernel: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv1d(features, width, kernel, padding=kernel // 2)
        self.second = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.head = nn.Linear(width, outputs)

    def forward(self, x_BTF: Tensor) -> Tensor:
        h = x_BTF.transpose(1, 2)  # a convolution wants channels before time
        h = torch.relu(self.second(torch.relu(self.first(h))))
        return self.head(h.mean(dim=2))
