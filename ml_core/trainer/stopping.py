"""When training has gone on for long enough, and which weights are kept."""

import math
from collections.abc import Mapping

from torch import Tensor, nn


class EarlyStopping:
    """Keeps the weights of the epoch with the lowest loss; stops after ``patience`` epochs without a better one."""

    def __init__(self, patience: int) -> None:
        """Wait for ``patience`` epochs, at least 1."""
        self._patience = patience
        self.best_epoch = 0
        self.best_loss = math.inf
        self.weights: dict[str, Tensor] = {}
        self.optimizer_state: Mapping[str, Tensor] = {}  # of the best epoch

    def update(self, epoch: int, loss: float, model: nn.Module) -> bool:
        """Take note of an epoch's validation loss and return True where it is the lowest so far."""
        if not loss < self.best_loss:
            return False
        self.best_epoch, self.best_loss = epoch, loss
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return True

    def is_enough(self, epoch: int) -> bool:
        """Return True where training should stop after ``epoch``."""
        return epoch - self.best_epoch >= self._patience

    def restore(self, model: nn.Module) -> None:
        """Give ``model`` the weights of the best epoch."""
        model.load_state_dict(self.weights)
