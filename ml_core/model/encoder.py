"""What a model sees of raw rows besides scaled numbers, as a part of its graph.

Shapes: B rows of a batch, T rows of a window, F features, X inputs; see `ml_core.contract.Places`.
"""

import torch
from torch import Tensor, nn

from ml_core.contract import Places


class Encoder(nn.Module):
    """Puts inputs of missing values and of codes behind those of scaled numbers; it has nothing to learn."""

    number: Tensor
    missing: Tensor
    source: Tensor
    code: Tensor
    group_CG: Tensor
    coded: Tensor

    def __init__(self, places: Places) -> None:
        """Read the inputs from ``places`` of a row."""
        super().__init__()
        self.places = places
        indices = {
            "number": places.number_N, "missing": places.missing_M, "source": places.source_C, "coded": places.coded_G,
        }  # fmt: skip
        for name, values in indices.items():
            self._hold(name, torch.tensor(values, dtype=torch.int64))
        self._hold("code", torch.tensor(places.code_C, dtype=torch.float32))
        group_CG = torch.zeros(len(places.code_C), len(places.coded_G))
        group_CG[torch.arange(len(places.code_C)), torch.tensor(places.group_C, dtype=torch.int64)] = 1.0
        self._hold("group_CG", group_CG)

    def forward(self, x_BTF: Tensor, z_BTF: Tensor) -> Tensor:
        """Return the inputs (B, T, X) of raw rows and of the same rows scaled."""
        parts = [torch.index_select(z_BTF, 2, self.number)] if self.places.number_N else []
        if self.places.missing_M:
            parts.append(torch.isnan(torch.index_select(x_BTF, 2, self.missing)).to(torch.float32))
        if self.places.coded_G:
            code_BTC = (torch.index_select(x_BTF, 2, self.source) == self.code).to(torch.float32)
            known_BTG = 1.0 - torch.isnan(torch.index_select(x_BTF, 2, self.coded)).to(torch.float32)
            # sums of noughts and ones: exact in any order
            parts += [code_BTC, known_BTG - code_BTC @ self.group_CG]
        return torch.cat(parts, dim=2)

    def _hold(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values, persistent=False)  # the contract keeps them, they are no weights
