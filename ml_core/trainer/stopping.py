"""When training has gone on for long enough, and which weights are kept."""

import math

from torch import Tensor, nn


class EarlyStopping:
    """Keeps the weights of the epoch with the lowest loss; stops after ``patience`` epochs without a better one."""

    def __init__(self, patience: int) -> None:
        """Wait for ``patience`` epochs, at least 1."""
        self._patience = patience
        self.best_epoch = 0
        self.best_loss = math.inf
        self._weights: dict[str, Tensor] = {}

    def update(self, epoch: int, loss: float, model: nn.Module) -> bool:
        """Take note of an epoch's validation loss and return True where training should stop."""
        if loss < self.best_loss:
            self.best_epoch, self.best_loss = epoch, loss
            self._weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return epoch - self.best_epoch >= self._patience

    def restore(self, model: nn.Module) -> None:
        """Give ``model`` the weights of the best epoch."""
        model.load_state_dict(self._weights)
