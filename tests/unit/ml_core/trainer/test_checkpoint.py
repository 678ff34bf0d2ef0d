"""A training that was interrupted ends with the bits of an undisturbed one."""

import json
import logging

import numpy as np
import pytest
import torch
from torch import nn

from ml_core.data_loader.arrays import Batches, Samples
from ml_core.errors import TrainingCancelledError
from ml_core.trainer.checkpoint import FORMAT, Checkpoints, pack, unpack
from ml_core.trainer.incremental import go_on
from ml_core.trainer.loop import Hooks, Settings, evaluate, train
from ml_core.trainer.losses import cross_entropy
from ml_core.trainer.steps import Guard

EPOCHS, STEPS, BATCH = 5, 7, 32  # 7 batches an epoch, the last one short


class Memory:
    """A store that forgets all but the last checkpoint."""

    def __init__(self, data: bytes | None = None) -> None:
        self.data, self.saved = data, 0

    def load(self) -> bytes | None:
        return self.data

    def save(self, data: bytes) -> None:
        self.data, self.saved = data, self.saved + 1


def samples() -> Samples:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((300, 4)).astype(np.float32)
    y = np.digitize(x[:, 0] + rng.standard_normal(300), [-0.5, 0.5])[:, None]
    return Samples(x, np.arange(300, dtype=np.int32)[:, None], y, np.ones(300, np.float32))


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def outcome(settings: Settings, *, store: Memory, killed_at: int | None = None, every: int = 1, task: str = "a", **how):
    """Return bits of the weights, bits of the optimiser and the history; None where the training was killed."""
    model, data, asked = net(), samples(), []
    batches = Batches(data, np.arange(STEPS * BATCH - 5), batch_size=BATCH, seed=1)
    validation = Batches(data, np.arange(230, 300), batch_size=70, shuffle=False)

    def killed() -> bool:
        asked.append(None)
        return len(asked) == killed_at

    hooks = Hooks(cancelled=killed)
    run = go_on if how.get("guarded") else train
    if how.get("guarded"):
        fixed = Batches(data, np.arange(230, 260), batch_size=30, shuffle=False)
        guard = Guard(lambda: evaluate(model, fixed, cross_entropy), is_last=lambda b: b in (2, 6), bound=1e-4)
        hooks = Hooks(cancelled=killed, guard=guard)
    checkpoints = Checkpoints(store, task=task, every_steps=every)
    try:
        report = run(
            model, batches, validation, loss=cross_entropy, settings=settings, seed=5, hooks=hooks,
            checkpoints=checkpoints,
        )  # fmt: skip
    except TrainingCancelledError:
        return None
    weights = [value.numpy().tobytes() for value in model.state_dict().values()]
    optimizer = {name: value.tobytes() for name, value in report.optimizer_state.items()}
    return weights, optimizer, json.dumps(report.history), report.best_epoch, report.steps, report.steps_discarded


HOW = {
    "adamw, constant": {},
    "cosine, warm-up": {"schedule": "cosine", "warm_up_steps": 9},
    "sgd, one cycle": {"optimizer": "sgd", "schedule": "one_cycle", "learning_rate": 0.1},
    "plateau": {"schedule": "plateau", "learning_rate": 0.5},
}


@pytest.mark.parametrize("how", HOW)
def test_a_training_killed_at_any_place_goes_on_to_the_identical_result(how):
    settings = Settings(**{"epochs": EPOCHS, "patience": 5, "learning_rate": 0.02, "weight_decay": 0.01, **HOW[how]})
    undisturbed = outcome(settings, store=Memory())
    assert undisturbed is not None
    everything = 1 + EPOCHS * (STEPS + 1)  # steps and batches of validation
    for place in np.linspace(2, everything, 10).astype(int):
        store = Memory()
        assert outcome(settings, store=store, killed_at=place) is None
        assert outcome(settings, store=store) == undisturbed, f"killed at {place}"


def test_a_training_killed_again_and_again_between_its_checkpoints_ends_as_well():
    settings = Settings(epochs=EPOCHS, patience=5, learning_rate=0.02, weight_decay=0.01)
    undisturbed, store = outcome(settings, store=Memory()), Memory()
    for _ in range(5):
        assert outcome(settings, store=store, killed_at=9, every=4) is None
    assert outcome(settings, store=store, every=4) == undisturbed


def test_early_stopping_counts_its_patience_across_an_interruption():
    settings = Settings(epochs=40, patience=2, learning_rate=0.5, weight_decay=0.0)
    undisturbed, store = outcome(settings, store=Memory()), Memory()
    epochs = len(json.loads(undisturbed[2]))
    assert epochs < 40
    assert outcome(settings, store=store, killed_at=(epochs - 1) * (STEPS + 1) - 3) is None
    assert outcome(settings, store=store) == undisturbed


def test_a_guarded_training_goes_on_with_what_it_has_taken_back():
    settings = Settings(epochs=EPOCHS, patience=5, learning_rate=2.0, weight_decay=0.0)
    undisturbed = outcome(settings, store=Memory(), guarded=True)
    assert 0 < undisturbed[5] < undisturbed[4]
    for place in (6, 13, 21, 30):
        store = Memory()
        assert outcome(settings, store=store, killed_at=place, guarded=True) is None
        assert outcome(settings, store=store, guarded=True) == undisturbed, f"killed at {place}"


def test_checkpoints_are_counted_in_steps():
    settings, store = Settings(epochs=2, patience=5, learning_rate=0.02, weight_decay=0.0), Memory()
    outcome(settings, store=store, every=5)
    assert store.saved == 2 * STEPS // 5


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[: len(data) // 2], "damaged"),
        (lambda data: data[:900] + bytes([data[900] ^ 1]) + data[901:], "damaged"),
        (lambda data: b"no archive", "damaged"),
        (lambda data: data, "another task"),
    ],
)
def test_a_checkpoint_that_is_damaged_or_of_another_task_is_passed_over(spoil, message, caplog):
    settings = Settings(epochs=2, patience=5, learning_rate=0.02, weight_decay=0.0)
    undisturbed, store = outcome(settings, store=Memory(), task="b"), Memory()
    outcome(settings, store=store, killed_at=12, task="a" if message == "another task" else "b")
    store.data = spoil(store.data)
    with caplog.at_level(logging.WARNING):
        assert outcome(settings, store=store, task="b") == undisturbed
    assert message in caplog.text


def test_no_single_bit_on_disk_keeps_a_training_from_starting():
    whole = pack({"model/w": np.arange(3.0)}, {"format": FORMAT, "task": "t", "step": 3})
    for place in range(len(whole)):
        store = Memory()
        store.data = whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :]
        Checkpoints(store, task="t", every_steps=1).load()
    store.data = pack({}, {"format": FORMAT})
    assert Checkpoints(store, task="t", every_steps=1).load() is None


def test_a_checkpoint_is_read_without_pickle():
    arrays = {"a/x": np.arange(3), "b/scalar": np.array(2.5)}
    facts = {"loss": float("inf"), "history": [[0, 1.1]]}
    found, said = unpack(pack(arrays, facts))
    assert said == facts
    assert {name: value.tolist() for name, value in found.items()} == {"a/x": [0, 1, 2], "b/scalar": 2.5}
    with pytest.raises(ValueError, match="Object arrays"):
        pack({"a/x": np.array([object()])}, {})
