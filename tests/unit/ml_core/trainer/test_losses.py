import math

import numpy as np
import pytest
import torch
from torch import nn

from ml_core import spec as pipelines
from ml_core.errors import SpecError, UnknownPartError
from ml_core.sections import Train
from ml_core.trainer.losses import (
    OwnLoss,
    TensorBatch,
    balance,
    choose,
    classified,
    cross_entropy,
    huber,
    per_batch,
    squared_error,
)

LOGITS = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
TARGET = torch.tensor([[1], [2], [0]])


def chosen(label_kind: str = "direction", prior=((0.2, 0.6, 0.2),), **train):
    return choose(Train(**train), nn.Identity(), label_kind=label_kind, prior=prior, folder=None)


def test_the_focal_loss_leaves_samples_that_the_model_is_sure_of_to_themselves():
    plain_B = cross_entropy(LOGITS, TARGET)
    p_B = torch.exp(-plain_B)
    torch.testing.assert_close(classified(gamma=2.0)(LOGITS, TARGET), (1 - p_B) ** 2 * plain_B)
    torch.testing.assert_close(classified()(LOGITS, TARGET), plain_B, rtol=0, atol=0)


def test_the_focal_loss_of_a_certain_sample_has_a_finite_gradient():
    logits = torch.tensor([[0.0, 90.0, 0.0]], requires_grad=True)
    classified(gamma=1.5)(logits, TARGET[:1]).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_balanced_classes_have_an_equal_say():
    weight_HC = balance([(0.1, 0.5, 0.4), (0.2, 0.6, 0.2)])
    loss = classified(weight_HC=weight_HC)
    logits, target = torch.zeros(2, 6), torch.tensor([[0, 1], [2, 0]])
    expected = [(1 / 0.3 + 1 / 1.8) / 2 * math.log(3), (1 / 1.2 + 1 / 0.6) / 2 * math.log(3)]
    np.testing.assert_allclose(loss(logits, target).numpy(), expected, rtol=1e-6)


def test_huber_is_the_squared_error_near_zero_and_a_line_far_away():
    y, target = torch.tensor([[1e-4], [4e-4], [5e-4]]), torch.zeros(3, 1)
    near, far, further = huber([1e-8], delta=2.0)(y, target)
    assert float(near) == pytest.approx(float(squared_error([1e-8])(y, target)[0]))
    assert float(far) == pytest.approx(2 * 2 * (4 - 1))
    assert float(further - far) == pytest.approx(4)


def test_a_loss_is_chosen_by_name_or_by_the_label():
    assert torch.equal(chosen()(LOGITS, TARGET), cross_entropy(LOGITS, TARGET))
    focal = chosen(loss="focal", loss_params={"gamma": 1.0}, class_weights="balanced")
    expected = classified(gamma=1.0, weight_HC=balance([(0.2, 0.6, 0.2)]))
    assert torch.equal(focal(LOGITS, TARGET), expected(LOGITS, TARGET))
    assert not torch.equal(focal(LOGITS, TARGET), classified(gamma=1.0)(LOGITS, TARGET))
    y, target = torch.tensor([[0.5]]), torch.tensor([[0.1]])
    number = {"label_kind": "return", "prior": ((0.0, 0.04),)}
    assert torch.equal(chosen(**number)(y, target), squared_error([0.04])(y, target))
    line = chosen(**number, loss="huber", loss_params={"delta": 0.5})
    assert torch.equal(line(y, target), huber([0.04], delta=0.5)(y, target))


OWN = """
class Mine:
    def __init__(self, model, *, power: float = 1.0):
        self.model, self.power = model, power

    def loss(self, batch):
        return (self.model(batch.x_BTF) - batch.y_BH).abs().mean(dim=1) ** self.power


class Lossless:
    def __init__(self, model):
        pass
"""


def test_an_own_loss_sees_the_batch_and_the_model(tmp_path):
    (tmp_path / "my_losses.py").write_text(OWN)
    train = Train(loss="my_losses:Mine", loss_params={"power": 2})
    loss = choose(train, nn.Flatten(), label_kind="return", prior=((0, 1),), folder=tmp_path)
    assert isinstance(loss, OwnLoss)
    batch = TensorBatch(torch.full((2, 1, 1), 5.0), torch.tensor([[2.0], [4.0]]), torch.ones(2))
    assert per_batch(loss, nn.Flatten())(batch).tolist() == [9.0, 1.0]


@pytest.mark.parametrize(
    ("name", "params", "error", "message"),
    [
        ("my_losses:Min", {}, UnknownPartError, "did you mean 'Mine'"),
        ("my_losses:Lossless", {}, UnknownPartError, r"no method loss\(batch\)"),
        ("my_losses:Mine", {"pwer": 1.0}, SpecError, "unexpected keyword argument 'pwer'"),
    ],
)
def test_an_own_loss_that_cannot_be_used_is_refused(tmp_path, name, params, error, message):
    (tmp_path / "my_losses.py").write_text(OWN)
    train = Train(loss=name, loss_params=params)
    with pytest.raises(error, match=message):
        choose(train, nn.Flatten(), label_kind="return", prior=((0, 1),), folder=tmp_path)


@pytest.mark.parametrize(
    ("train", "label", "message"),
    [
        ({"loss": "hubr"}, "return", r"train.loss: 'hubr' is not known; did you mean 'huber'\?"),
        ({"loss": "huber"}, "direction", "'huber' is no loss of classes; known: cross_entropy, focal"),
        ({"loss": "focal"}, "return", "'focal' is no loss of numbers"),
        ({"class_weights": "balanced"}, "return", "class_weights: 'balanced', and the label is numbers"),
        ({"loss": "focal", "loss_params": {"gama": 2}}, "direction", "did you mean 'gamma'"),
        ({"loss": "focal", "loss_params": {"gamma": 0.5}}, "direction", "0.5 is not within 1 and 10"),
        ({"loss_params": {"gamma": 2}}, "direction", "the default loss takes none"),
        ({"optimizer": "adam"}, "direction", "did you mean 'adamw'"),
        ({"schedule": "cosin"}, "direction", "did you mean 'cosine'"),
        ({"device": "gpu"}, "direction", "train.device: 'gpu' is not known"),
    ],
)
def test_what_a_pipeline_file_says_wrong_about_training_is_said_with_its_place(train, label, message):
    with pytest.raises(SpecError, match=message):
        pipelines.parse({"name": "demo", "label": {"kind": label}, "train": train})
