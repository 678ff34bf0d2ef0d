"""All that changes while a network is trained, as arrays and JSON: what a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ml_core.trainer.device import random_state, set_random_state
from ml_core.trainer.optimisers import make_optimizer, state_of, take_up
from ml_core.trainer.stopping import EarlyStopping

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Settings:
    """How to train; the keys are those of ``[train]``, but for two."""

    epochs: int
    patience: int
    learning_rate: float
    weight_decay: float
    gradient_limit: float = 1.0
    optimizer: str = "adamw"
    momentum: float = 0.9
    schedule: str = "constant"
    warm_up_steps: int = 0
    threads: int = 1  # that torch may use while the loop runs
    anchor: float = 0.1  # how strongly weights that training goes on from hold it


class Progress(NamedTuple):
    """How an epoch went; epoch 0 is the model before training. Losses are weighted means over samples."""

    epoch: int
    epochs: int
    train_loss: float  # while the weights moved; NaN for epoch 0
    validation_loss: float
    best_epoch: int


class Run:
    """A training in progress: the model, its optimiser, and how far both have come."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        """Start before epoch 0 with the weights that ``model`` has."""
        self.model = model
        self.optimizer = make_optimizer(
            settings.optimizer,
            model,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
        )
        self.stopping = EarlyStopping(settings.patience)
        self.history: list[Progress] = []
        self.step = 0  # of all epochs
        self.batch = 0  # of this epoch
        self.total = self.weight = 0.0  # sums over this epoch's samples
        self.device = next(model.parameters()).device

    @property
    def epoch(self) -> int:
        """The epoch in progress, or the next one."""
        return len(self.history)

    def judged(self, progress: Progress) -> None:
        """Take note of a finished epoch and start the next one."""
        if self.stopping.update(progress.epoch, progress.validation_loss, self.model):
            self.stopping.optimizer_state = state_of(self.optimizer, self.model)
        self.history.append(progress._replace(best_epoch=self.stopping.best_epoch))
        self.batch, self.total, self.weight = 0, 0.0, 0.0

    def arrays(self) -> Arrays:
        """Return weights, optimiser and random state, now and of the best epoch."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            "optimizer": state_of(self.optimizer, self.model),
            "best": self.stopping.weights,
            "best_optimizer": self.stopping.optimizer_state,
            "random": random_state(self.device),
        }
        return {f"{part}/{name}": value.cpu().numpy() for part, named in parts.items() for name, value in named.items()}

    def facts(self) -> dict[str, Any]:
        """Return everything else; JSON but for NaN."""
        return {
            "history": [list(progress) for progress in self.history],
            "step": self.step,
            "batch": self.batch,
            "total": self.total,
            "weight": self.weight,
            "best_epoch": self.stopping.best_epoch,
            "best_loss": self.stopping.best_loss,
        }

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], facts: Mapping[str, Any]) -> None:
        """Go on from where ``arrays`` and ``facts`` were taken."""
        parts: dict[str, dict[str, Tensor]] = {
            name: {} for name in ("model", "optimizer", "best", "best_optimizer", "random")
        }
        for key, value in arrays.items():
            part, _, name = key.partition("/")
            parts[part][name] = torch.from_numpy(np.array(value))
        self.model.load_state_dict(parts["model"])
        take_up(self.optimizer, self.model, parts["optimizer"])
        set_random_state(parts["random"])
        self.stopping.weights, self.stopping.optimizer_state = parts["best"], parts["best_optimizer"]
        self.stopping.best_epoch, self.stopping.best_loss = facts["best_epoch"], facts["best_loss"]
        self.history = [Progress(*values) for values in facts["history"]]
        self.step, self.batch = facts["step"], facts["batch"]
        self.total, self.weight = facts["total"], facts["weight"]
