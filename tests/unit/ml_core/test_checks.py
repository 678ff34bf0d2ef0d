import re

import pytest

from data_io.data_fetcher.sources import open_source
from ml_core import fit as learning
from ml_core import spec as pipelines
from ml_core.checks import run_checks
from ml_core.errors import ModelRefusedError, TickwiseError
from ml_core.model import trial
from ml_core.types import TickBatch

OWN = """
import numpy as np
import torch
from torch import nn

class Fine(nn.Module):
    def __init__(self, features: int, outputs: int):
        super().__init__()
        self.head = nn.Linear(features, outputs)

    def forward(self, x_BTF):
        return self.head(x_BTF[:, -1])

class Unexportable(Fine):
    def forward(self, x_BTF):
        return super().forward(x_BTF) * (1.0 if float(x_BTF.sum()) > 0 else 2.0)

class Mixes(Fine):
    def forward(self, x_BTF):
        return super().forward(x_BTF - x_BTF.mean(dim=0))

class Loss:
    def __init__(self, model):
        self.model = model

    def loss(self, batch):
        return (self.model(batch.x_BTF)[:, 0] - batch.y_BH[:, 0]).abs()

class Misnamed(Loss):
    def loss(self, batch):
        return self.model(batch.rows)

class Mean(Loss):
    def loss(self, batch):
        return super().loss(batch).mean()

class Aside(Loss):
    def loss(self, batch):
        return batch.x_BTF.mean(dim=(1, 2)).requires_grad_()

class Centred:
    width = 0

    def update(self, ticks, state_SK):
        price_N = np.nan_to_num(ticks.price_N)
        return np.convolve(price_N, np.ones(3), "same")[: len(ticks)]
"""


@pytest.fixture(scope="module")
def ticks() -> TickBatch:
    batch = next(open_source("synthetic:symbols=2,ticks=600,rate=50").stream(600))
    assert batch is not None
    return batch


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "own.py").write_text(OWN)

    def make(kind, *use, **parts):
        features = {"use": ["queue_imbalance", *use], "window": 2}
        params = {"rounds": 5} if kind == "boosting" else {}
        model = {"kind": kind, "params": params, **parts.pop("model", {})}
        return pipelines.parse({"name": "demo", "features": features, "model": model, **parts}, folder=tmp_path)

    return make


def results(findings) -> dict[str, bool | None]:
    return {each.check: each.passed for each in findings}


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("own:Fine", {"train": {"loss": "own:Loss"}}),
        ("boosting", {}),
        ("boosting", {"label": {"kind": "return"}, "model": {"quantiles": [0.1, 0.5, 0.9]}}),
    ],
)
def test_a_sound_pipeline_passes_every_check(spec, ticks, kind, parts):
    findings = run_checks(spec(kind, **parts), ticks)
    names = ("builds", "exports", "batch", "saves", "look_ahead", "latency")
    assert results(findings) == dict.fromkeys(names, True)
    assert set(findings[-1].figures) == {"p50_ms", "p99_ms", "rows_s"}
    assert ", 0 scored" not in findings[-2].detail


def test_a_part_that_cannot_be_exported_fails_there_and_before_training(spec, ticks):
    found = results(run_checks(spec("own:Unexportable"), ticks))
    assert found == {"builds": True, "exports": False, "look_ahead": True}
    with pytest.raises(ModelRefusedError, match=r"^export: "):
        learning.check(spec("own:Unexportable"))


def test_a_model_that_mixes_rows_fails_the_check_of_batches(spec, ticks):
    found = results(run_checks(spec("own:Mixes"), ticks))
    assert (found["exports"], found["batch"]) == (True, False)


def test_a_feature_that_knows_the_next_tick_is_named(spec, ticks):
    found = {each.check: each for each in run_checks(spec("boosting", "own:Centred"), ticks)}
    assert found["look_ahead"].passed is False
    assert "own:Centred" in found["look_ahead"].detail


def test_what_cannot_be_built_is_all_that_is_said(spec, ticks):
    [finding] = run_checks(spec("own:Fien"), ticks)
    assert (finding.check, finding.passed) == ("builds", False)
    assert "did you mean 'Fine'" in finding.detail


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("own:Lost", "did you mean 'Loss'"),
        ("own:Misnamed", "train.loss: 'own:Misnamed' fails on a batch: AttributeError: .*'rows'"),
        ("own:Mean", r"train.loss: 'own:Mean' returns shape \(\) for 8 samples, it must return \(8,\)"),
        ("own:Aside", "train.loss: 'own:Aside' does not depend on what the model answers"),
    ],
)
def test_an_own_loss_that_cannot_be_learned_by_says_so_before_training(spec, ticks, loss, message):
    one = spec("mlp", train={"loss": loss})
    [finding] = run_checks(one, ticks)
    assert (finding.check, finding.passed) == ("builds", False)
    assert re.search(message, finding.detail)
    with pytest.raises(TickwiseError, match=message):
        learning.check(one)


def test_the_trial_export_is_made_once_for_equal_code_and_parameters(spec, monkeypatch):
    calls = []
    monkeypatch.setattr(trial, "export", lambda *given: calls.append(given))
    for _ in range(2):
        learning.check(spec("own:Fine"))
    learning.check(spec("own:Fine", "return:1s"))
    assert len(calls) == 2
