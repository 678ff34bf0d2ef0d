import numpy as np
import pytest
import torch
from torch import nn

from ml_core import spec as pipelines
from ml_core.errors import SpecError
from ml_core.learners import network
from ml_core.model.heads import Quantiles, pinball
from ml_core.model.runtime import Scorer
from tests.unit.ml_core.learners.test_boosting import held_out, spec_of, task

QUANTILES = (0.1, 0.5, 0.9)


@pytest.mark.parametrize("quantiles", [QUANTILES, (0.5,), (0.5, 0.9), (0.05, 0.25, 0.5, 0.75)])
def test_quantiles_never_cross_and_the_median_is_free(quantiles):
    torch.manual_seed(0)
    given = 20 * torch.randn(500, 2 * len(quantiles))
    y_BHQ = Quantiles(nn.Identity(), quantiles)(given).reshape(500, 2, -1)
    median = quantiles.index(0.5)
    assert (y_BHQ.diff(dim=2) >= 0).all()
    assert torch.equal(y_BHQ[:, :, median], given.reshape(500, 2, -1)[:, :, median])


def test_the_loss_is_least_at_the_quantile():
    target_B1 = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    loss = pinball(QUANTILES, [(0.0, 1.0)])

    def of(*quantiles: float) -> float:
        return float(loss(torch.tensor([quantiles]).expand(20_000, 3), target_B1).mean())

    best = of(-1.2816, 0.0, 1.2816)
    assert all(of(-1.2816 + step, step, 1.2816 - step) > best + 1e-4 for step in (-0.2, 0.2))
    doubled = pinball(QUANTILES, [(0.0, 4.0)])
    assert float(doubled(torch.zeros(1, 3), target_B1[:1])) == pytest.approx(
        float(loss(torch.zeros(1, 3), target_B1[:1])) / 2
    )


@pytest.fixture(scope="module")
def learned() -> Scorer:
    """A network of quantiles; its export has agreed with torch, or it would have been refused."""
    model = {"kind": "linear", "quantiles": list(QUANTILES)}
    train = {"epochs": 40, "patience": 40, "batch_size": 100, "learning_rate": 0.01}
    label = {"kind": "return", "horizons": ["1s", "2s"]}
    spec = pipelines.parse({"name": "demo", "label": label, "model": model, "train": train})
    return Scorer(network.learn(task(spec)).onnx)


def test_served_quantiles_never_fall_and_the_median_is_the_score(learned):
    x_BTF = np.random.default_rng(0).standard_normal((40, 1, 4)).astype(np.float32)
    y_BO = learned.outputs(x_BTF)
    assert (np.diff(y_BO.reshape(40, 2, 3), axis=2) >= 0).all()
    assert learned.scores(x_BTF).tobytes() == np.ascontiguousarray(y_BO[:, 1::3]).tobytes()


def test_a_network_learns_quantiles_that_cover_their_shares(learned):
    x_BTF, y_BH = held_out(task(spec_of("return")))
    y_BHQ = learned.outputs(x_BTF).reshape(-1, 2, 3)
    assert (y_BH[:, :, None] < y_BHQ).mean(axis=0) == pytest.approx(np.tile(QUANTILES, (2, 1)), abs=0.06)
    assert np.corrcoef(y_BHQ[:, 0, 1], y_BH[:, 0])[0, 1] > 0.5


@pytest.mark.parametrize(
    ("quantiles", "kind", "message"),
    [
        ([0.1, 0.9], "return", "0.5 be one of them"),
        ([0.5, 0.1], "return", "must rise"),
        ([0.5, 0.5], "return", "must rise"),
        ([0.5, 1.0], "return", "model.quantiles.1: "),
        ([0.1, 0.5, 0.9], "direction", "has classes; a number has quantiles"),
    ],
)
def test_quantiles_that_cannot_be_told_are_refused(quantiles, kind, message):
    with pytest.raises(SpecError, match=message):
        spec_of(kind, quantiles)
