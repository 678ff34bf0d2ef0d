"""Optimisers by name, and their state by the names of the weights it belongs to."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

PREFIX = "optimizer."  # of what a fitted model keeps of its optimiser beside its weights


def make_optimizer(
    name: str, model: nn.Module, *, learning_rate: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """Return the optimiser ``name``, ``adamw`` or ``sgd``, of the weights of ``model``."""
    # fused: one pass over each weight; several, as by default, take as long as the backward pass of a small network
    weights = model.parameters()
    if name == "sgd":
        return torch.optim.SGD(weights, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, fused=True)
    return torch.optim.AdamW(weights, lr=learning_rate, weight_decay=weight_decay, fused=True)


def state_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return copies of what ``optimizer`` remembers of each weight: ``AdamW.exp_avg.<name of the weight>``."""
    kind = type(optimizer).__name__
    return {
        f"{kind}.{slot}.{name}": value.detach().clone()
        for name, parameter in model.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def take_up(optimizer: torch.optim.Optimizer, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Let ``optimizer`` remember ``state`` and nothing else; what an optimiser of another kind left is passed over."""
    kind = type(optimizer).__name__
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in state.items():
        owner, slot, name = key.split(".", 2)
        if owner == kind and name in parameters:
            parameter = parameters[name]
            optimizer.state[parameter][slot] = value.detach().clone().to(parameter.device)
