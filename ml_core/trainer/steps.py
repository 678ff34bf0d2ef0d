"""Steps of training that are taken back where they harm.

step 1          step 2          step 3
batch batch | batch batch  |  batch batch |
^ loss on a fixed slice: accept    ^ too high: weights and optimiser as before the step
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ml_core.trainer.optimisers import state_of, take_up
from ml_core.trainer.state import Run


class Guard:
    """Watches the loss on a fixed slice: a step that lifts it past a bound leaves no trace."""

    def __init__(self, slice_loss: Callable[[], float], *, is_last: Callable[[int], bool], bound: float) -> None:
        """Begin before the first step.

        Args:
            slice_loss: Loss of the model, as it is, on the slice.
            is_last: Whether a batch, counted from 0 in its epoch, is the last one of its step.
            bound: How far the loss may lie above the lowest one of all accepted steps, as a share of it.
        """
        self._slice_loss, self._is_last, self._bound = slice_loss, is_last, bound
        self._lowest = 0.0
        self._weights: dict[str, Tensor] = {}
        self._optimizer_state: dict[str, Tensor] = {}
        self.steps = self.discarded = 0

    def begin(self, run: Run, facts: dict[str, Any] | None = None) -> None:
        """Take the state of ``run`` as accepted; with ``facts``, go on from where they were taken."""
        self._keep(run)
        if facts is None:
            self._lowest = self._slice_loss()
        else:
            self._lowest, self.steps, self.discarded = facts["lowest"], facts["steps"], facts["discarded"]

    def after(self, batch: int, run: Run) -> bool:
        """Judge the step that ``batch`` ends and return True; False within a step."""
        if not self._is_last(batch):
            return False
        loss = self._slice_loss()
        self.steps += 1
        if loss <= self._lowest + self._bound * abs(self._lowest):  # a loss that is not a number is no smaller
            self._lowest = min(loss, self._lowest)
            self._keep(run)
        else:
            self.discarded += 1
            run.model.load_state_dict(self._weights)
            take_up(run.optimizer, run.model, self._optimizer_state)
        return True

    def facts(self) -> dict[str, Any]:
        """Return what ``begin`` takes; JSON."""
        return {"lowest": self._lowest, "steps": self.steps, "discarded": self.discarded}

    def _keep(self, run: Run) -> None:
        self._weights = {name: value.detach().clone() for name, value in run.model.state_dict().items()}
        self._optimizer_state = state_of(run.optimizer, run.model)
