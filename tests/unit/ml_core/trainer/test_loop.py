from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ml_core.errors import InputError, TrainingCancelledError
from ml_core.trainer.incremental import anchor, go_on
from ml_core.trainer.loop import Hooks, Settings, evaluate, train
from ml_core.trainer.losses import cross_entropy, squared_error, weighted_mean
from ml_core.trainer.stopping import EarlyStopping
from ml_core.types import Batch

SETTINGS = Settings(epochs=8, patience=8, learning_rate=0.02, weight_decay=0.0)


class Net(nn.Module):
    def __init__(self, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 3))

    def forward(self, x_BTF):
        return self.layers(x_BTF[:, -1])


def data(count: int = 6, size: int = 64, seed: int = 0) -> list[Batch]:
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(count):
        x = rng.standard_normal((size, 2, 4)).astype(np.float32)
        y = np.digitize(x[:, -1, 0], [-0.5, 0.5])[:, None]
        batches.append(Batch(x, y, np.ones(size, np.float32)))
    return batches


def weights(model: nn.Module) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


def fit(model: nn.Module, **changes):
    options = {"loss": cross_entropy, "settings": SETTINGS, "seed": 0, **changes}
    return train(model, data(), data(2, seed=9), **options)


def test_training_lowers_the_validation_loss_and_reports_every_epoch():
    heard = []
    report = fit(Net(), hooks=Hooks(progress=heard.append))
    assert heard == report.history
    assert [p.epoch for p in heard] == list(range(9))
    assert np.isnan(heard[0].train_loss)
    assert report.epochs_run == 8
    assert heard[-1].validation_loss < 0.7 * heard[0].validation_loss
    assert heard[-1].train_loss < heard[1].train_loss


def test_equal_seeds_give_equal_weights_and_the_global_generator_is_left_alone():
    first, second, third = Net(dropout=0.3), Net(dropout=0.3), Net(dropout=0.3)
    torch.manual_seed(77)
    expected = torch.rand(1)
    torch.manual_seed(77)
    for model, seed in ((first, 1), (second, 1), (third, 2)):
        fit(model, seed=seed)
    assert torch.rand(1) == expected
    assert weights(first) == weights(second) != weights(third)


def test_the_number_of_threads_is_set_while_training_and_put_back():
    before = torch.get_num_threads()
    seen = []
    fit(
        Net(),
        settings=replace(SETTINGS, threads=before + 1),
        hooks=Hooks(progress=lambda _: seen.append(torch.get_num_threads())),
    )
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_the_best_weights_are_restored():
    model, losses = Net(), []

    class Worsening:
        """Validation that gets worse from epoch 3 on, because its labels are turned round."""

        def __init__(self) -> None:
            self.epoch = -1

        def __iter__(self):
            self.epoch += 1
            turned = self.epoch >= 3
            for x, y, w in data(2, seed=9):
                yield Batch(x, 2 - y if turned else y, w)

    def note(progress) -> None:
        losses.append((progress.validation_loss, weights(model)))

    settings = replace(SETTINGS, patience=2)
    report = train(
        model, data(), Worsening(), loss=cross_entropy, settings=settings, seed=0, hooks=Hooks(progress=note)
    )

    assert (report.best_epoch, report.epochs_run) == (2, 4)
    assert weights(model) == losses[2][1] != losses[4][1]


def test_samples_of_weight_zero_teach_nothing():
    clean, dirty = data(), data()
    noise = np.random.default_rng(5)
    for i, (x, y, w) in enumerate(dirty):
        extra = noise.standard_normal((16, 2, 4)).astype(np.float32)
        dirty[i] = Batch(
            np.concatenate([x, extra]),
            np.concatenate([y, np.zeros((16, 1), int)]),
            np.append(w, np.zeros(16, np.float32)),
        )
    a, b = Net(), Net()
    for model, batches in ((a, clean), (b, dirty)):
        train(model, batches, data(2, seed=9), loss=cross_entropy, settings=SETTINGS, seed=0)
    x = torch.from_numpy(data(1)[0].x_BTF)
    torch.testing.assert_close(a(x), b(x), rtol=1e-3, atol=1e-4)


def test_a_value_that_is_not_finite_stops_training_before_the_weights_move():
    batches = data()
    batches[2].x_BTF[5, 1, 0] = np.nan
    model, seen = Net(), []

    def note() -> bool:
        seen.append(weights(model))
        return False

    with pytest.raises(InputError, match=r"epoch 1, step 2: loss nan"):
        train(
            model, batches, data(2, seed=9), loss=cross_entropy, settings=SETTINGS, seed=0, hooks=Hooks(cancelled=note)
        )
    assert len(seen) == 2 + 3  # two batches of validation first
    assert weights(model) == seen[-1]


def test_a_validation_loss_that_is_not_finite_stops_training():
    broken = data(1)
    broken[0].x_BTF[0] = np.inf
    with pytest.raises(InputError, match="after epoch 0: the validation loss is nan"):
        train(Net(), data(), broken, loss=cross_entropy, settings=SETTINGS, seed=0)


def test_cancelling_ends_training_at_the_next_step_or_batch_of_validation():
    def cancelled() -> bool:
        asked.append(None)
        return len(asked) == when

    when, asked = 2 + 6 + 2 + 3, []  # two batches of validation, six of training
    with pytest.raises(TrainingCancelledError, match="epoch 2, step 2"):
        fit(Net(), hooks=Hooks(cancelled=cancelled))
    when, asked = 2 + 6 + 1, []
    with pytest.raises(TrainingCancelledError, match="validated"):
        fit(Net(), hooks=Hooks(cancelled=cancelled))


def test_gradients_are_limited():
    model, norms = Net(), []

    def note() -> bool:  # asked before a step, when the gradients of the last one are still there
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if gradients:
            norms.append(float(nn.utils.get_total_norm(gradients)))
        return False

    fit(model, settings=replace(SETTINGS, gradient_limit=0.01), hooks=Hooks(cancelled=note))
    assert len(norms) > 40
    assert max(norms) == pytest.approx(0.01, rel=1e-3)


def test_going_on_stays_nearer_to_the_start_than_gentle_training_without_the_anchor():
    def distance(run, settings) -> float:
        model, start = Net(), Net()
        run(model, data(seed=3), data(2, seed=4), loss=cross_entropy, settings=settings, seed=0)
        return sum(
            float(((a - b) ** 2).sum().detach()) for a, b in zip(model.parameters(), start.parameters(), strict=True)
        )

    gentle = replace(SETTINGS, learning_rate=0.1 * SETTINGS.learning_rate)
    assert 0 < distance(go_on, SETTINGS) < 0.98 * distance(train, gentle) < distance(train, SETTINGS)


def test_going_on_keeps_the_start_where_no_epoch_is_better():
    model = Net()
    fit(model)
    start = weights(model)
    turned = [Batch(x, 2 - y, w) for x, y, w in data()]
    report = go_on(model, turned, data(2, seed=9), loss=cross_entropy, settings=replace(SETTINGS, patience=3), seed=0)
    assert (report.best_epoch, report.epochs_run) == (0, 3)
    assert weights(model) == start


def test_the_anchor_is_the_squared_distance_from_where_it_was_set():
    model = Net()
    penalty = anchor(model, strength=0.5)
    assert float(penalty().detach()) == 0
    with torch.no_grad():
        next(model.parameters()).add_(2.0)  # 16 x 4 values
    assert float(penalty().detach()) == pytest.approx(0.5 * 64 * 4)


def test_cross_entropy_is_the_mean_over_horizons_for_each_sample():
    logits = torch.tensor([[0.0, 0.0, 0.0, 9.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0, 0.0, 9.0]])
    loss = cross_entropy(logits, torch.tensor([[1, 2], [1, 2]]))
    sure = float(np.log(1 + 2 * np.exp(-9)))
    np.testing.assert_allclose(loss.numpy(), [(np.log(3) + 9 + sure) / 2, sure], rtol=1e-3)


def test_squared_errors_are_in_units_of_the_variance_of_each_horizon():
    loss = squared_error([4e-8, 0.0])(torch.tensor([[1e-4, 0.5]]), torch.tensor([[3e-4, 0.0]]))
    assert float(loss[0]) == pytest.approx((1.0 + 0.25) / 2)


def test_the_weighted_mean_of_weightless_samples_is_undefined():
    assert torch.isnan(weighted_mean(torch.ones(3), torch.zeros(3)))
    assert float(weighted_mean(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 1.0]))) == 2.0
    assert np.isnan(evaluate(Net(), [], cross_entropy))


def test_early_stopping_waits_for_its_patience_after_the_best_epoch():
    stopping, model = EarlyStopping(2), Net()
    decisions = []
    for epoch, loss in enumerate([1.0, 0.9, 0.95, 0.8, 0.8, 0.9]):
        is_best = stopping.update(epoch, loss, model)
        decisions.append((is_best, stopping.is_enough(epoch)))
    assert [is_best for is_best, _ in decisions] == [True, True, False, True, False, False]
    assert [is_enough for _, is_enough in decisions] == [False, False, False, False, False, True]
    assert (stopping.best_epoch, stopping.best_loss) == (3, 0.8)
