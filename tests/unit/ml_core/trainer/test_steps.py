"""Steps of an incremental training that harm are taken back."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ml_core.trainer.incremental import go_on
from ml_core.trainer.loop import Hooks, Settings, evaluate
from ml_core.trainer.losses import cross_entropy
from ml_core.trainer.steps import Guard
from ml_core.types import Batch

SETTINGS = Settings(epochs=3, patience=3, learning_rate=0.5, weight_decay=0.0)
POISONED = (2, 3)  # batches of an epoch; a step has two


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def data(count: int, seed: int) -> list[Batch]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 64, 1, 4)).astype(np.float32)
    return [Batch(b, np.digitize(b[:, 0, :1], [-0.5, 0.5]), np.ones(64, np.float32)) for b in x]


class Watched:
    """Goes on from a first training and notes the loss on the slice and the weights after every step."""

    def __init__(self, batches: list[Batch], *, bound: float, settings: Settings = SETTINGS) -> None:
        self.model, self.fixed = net(), data(2, seed=9)
        self.losses: list[float] = []
        self.weights: list[bytes] = []
        self.guard = Guard(self.slice_loss, is_last=lambda batch: batch % 2 == 1, bound=bound)
        self.report = go_on(
            self.model, batches, data(1, seed=8), loss=cross_entropy, settings=settings, seed=0,
            hooks=Hooks(guard=self.guard, cancelled=self.note),
        )  # fmt: skip

    def slice_loss(self) -> float:
        self.losses.append(evaluate(self.model, self.fixed, cross_entropy))
        return self.losses[-1]

    def note(self) -> bool:
        self.weights.append(b"".join(value.numpy().tobytes() for value in self.model.state_dict().values()))
        return False


def poisoned() -> list[Batch]:
    return [Batch(x, 2 - y, w) if i in POISONED else Batch(x, y, w) for i, (x, y, w) in enumerate(data(6, seed=1))]


def test_a_poisoned_step_is_discarded_and_leaves_weights_and_loss_as_they_were():
    watched = Watched(poisoned(), bound=0.001, settings=replace(SETTINGS, epochs=1))
    # asked: 1 validation, 6 steps, 1 validation
    before, within, after = watched.weights[1 + 2], watched.weights[1 + 3], watched.weights[1 + 4]
    assert before == after != within
    start, first, harmed, last = watched.losses
    assert last < first < start
    assert harmed > 1.001 * first
    assert (watched.report.steps, watched.report.steps_discarded) == (3, 1)


def test_training_with_a_discarded_step_ends_where_training_without_its_rows_does():
    clean = [batch for i, batch in enumerate(poisoned()) if i not in POISONED]
    with_poison, without = Watched(poisoned(), bound=0.001), Watched(clean, bound=0.001)
    assert with_poison.report.steps_discarded == 3
    assert without.report.steps_discarded == 0
    for a, b in zip(with_poison.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(a, b)
    states = with_poison.report.optimizer_state, without.report.optimizer_state
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[1])


def test_a_wide_bound_lets_every_step_pass():
    watched = Watched(poisoned(), bound=1.0)
    assert (watched.report.steps, watched.report.steps_discarded) == (9, 0)


def test_the_bound_stands_above_the_lowest_loss_so_that_small_harm_does_not_add_up():
    losses = iter([1.0, 1.009, 0.95, 0.958, 0.9594, 0.9596])
    guard = Guard(lambda: next(losses), is_last=lambda batch: True, bound=0.01)
    model = net()
    watched = type("Run", (), {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=1)})()
    guard.begin(watched)
    taken_back = []
    for batch in range(5):
        before = guard.discarded
        guard.after(batch, watched)
        taken_back.append(guard.discarded > before)
    assert taken_back == [False, False, False, False, True]
