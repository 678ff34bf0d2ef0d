"""Bad input, case by case: a clear error before compute is spent, and nothing is left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from data_io.data_fetcher.sources import open_source
from ml_core import spec as pipelines
from ml_core.contract import ModelContract
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import (
    InputError,
    ModelRefusedError,
    NotEnoughDataError,
    SchemaMismatchError,
    SpecError,
    TickwiseError,
    UnknownPartError,
)
from ml_core.fit import FittedModel, fit
from ml_core.model.trial import trial_contract
from ml_core.spec import PipelineSpec

OWN = {
    "broken": "1 / 0\n",
    "needy": "import no_such_package_at_all\n",
    "own": """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, features: int, outputs: int):
        super().__init__()
        self.head = nn.Linear(features, outputs)

    def forward(self, x_BTF):
        return self.head(x_BTF[:, -1]) * (1.0 if float(x_BTF.sum()) > 0 else 2.0)

class NoNumber:
    def __init__(self, model):
        self.model = model

    def loss(self, batch):
        return self.model(batch.x_BTF).sum(dim=1) * (float("nan") if self.model.training else 1.0)
""",
}


class Case(NamedTuple):
    error: type[TickwiseError]
    said: str  # what the message must tell
    parts: dict[str, Any] = {}  # noqa: RUF012  # of the pipeline file; never changed
    ticks: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame


def constant(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(
        bid=np.where(frame["type"] == "quote", 99.0, np.nan), ask=np.where(frame["type"] == "quote", 101.0, np.nan),
        price=np.where(frame["type"] == "trade", 100.0, np.nan),
    )  # fmt: skip


def rising(frame: pd.DataFrame) -> pd.DataFrame:
    factor = np.exp(1e-2 * np.arange(len(frame)))
    return frame.assign(**{name: frame[name] * factor for name in ("bid", "ask", "price")})


CASES = {
    "an empty range": Case(NotEnoughDataError, r"0 labelled rows", ticks=lambda frame: frame.iloc[:0]),
    "a feature that is never defined": Case(
        NotEnoughDataError,
        r"features without values: queue_imbalance \(never defined\).*take them out of features.use",
        {"label": {"price": "trade"}},
        lambda frame: frame[frame["type"] == "trade"].reset_index(drop=True),
    ),
    "a constant label that is a number": Case(
        NotEnoughDataError, r"all \d+ rows to train on are a return of 0 at 1s", {"label": {"kind": "return"}}, constant
    ),
    "a constant label that is a class": Case(NotEnoughDataError, r"all \d+ rows to train on are 'flat'", {}, constant),
    "one class": Case(NotEnoughDataError, r"rows to train on are 'up' at 1s; .* another label.dead_zone", {}, rising),
    "too few rows": Case(
        NotEnoughDataError, r"labelled rows, train.min_rows asks for 9999", {"train": {"min_rows": 9999}}
    ),
    "a frame of another schema": Case(
        SchemaMismatchError, "no column 'bid'", ticks=lambda frame: frame.drop(columns=["bid"])
    ),
    "an unknown section": Case(SpecError, "trian: unknown name; did you mean 'train'", {"trian": {}}),
    "an unknown key": Case(SpecError, "train.epoch: unknown name; did you mean 'epochs'", {"train": {"epoch": 1}}),
    "an unknown value": Case(
        SpecError, "label.kind: 'retrun' is not known; did you mean 'return'", {"label": {"kind": "retrun"}}
    ),
    "an unknown feature": Case(
        SpecError,
        "'queue_imbalence' is not known; did you mean 'queue_imbalance'",
        {"features": {"use": ["queue_imbalence"]}},
    ),
    "an unknown category": Case(
        SpecError, "'is_trad' is none of features.use", {"features": {"categories": ["is_trad"]}}
    ),
    "an unknown model": Case(UnknownPartError, "'mpl' is not known; did you mean 'mlp'", {"model": {"kind": "mpl"}}),
    "an unknown parameter": Case(
        SpecError, "model.params.hiden: unknown parameter; did you mean 'hidden'", {"model": {"params": {"hiden": [8]}}}
    ),
    "an unknown loss": Case(SpecError, "'focl' is not known; did you mean 'focal'", {"train": {"loss": "focl"}}),
    "a category that is a number": Case(
        InputError, "'queue_imbalance' holds .*, which is no code", {"features": {"categories": ["queue_imbalance"]}}
    ),
    "an own part that fails when it is imported": Case(
        UnknownPartError, r"broken.py fails when it is imported: ZeroDivisionError", {"model": {"kind": "broken:Net"}}
    ),
    "an own part that needs what is not installed": Case(
        UnknownPartError, "no_such_package_at_all", {"features": {"use": ["queue_imbalance", "needy:Thing"]}}
    ),
    "an own part that is not there": Case(
        UnknownPartError, "has no class 'Nut'; did you mean 'Net'", {"model": {"kind": "own:Nut"}}
    ),
    "an own part that cannot be exported": Case(
        ModelRefusedError, "^export: the model cannot be exported to ONNX", {"model": {"kind": "own:Net"}}
    ),
}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return open_source("synthetic:symbols=1,ticks=3000,rate=50,seed=1").fetch()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    for name, text in OWN.items():
        (folder / f"{name}.py").write_text(text)
    return folder


class Left:
    """What a training leaves behind: a checkpoint, and progress of epochs."""

    def __init__(self) -> None:
        self.saved: list[bytes] = []
        self.epochs: list[int] = []

    def load(self) -> bytes | None:
        return None

    def save(self, data: bytes) -> None:
        self.saved.append(data)


def pipeline(folder: Path, **parts: Any) -> PipelineSpec:
    data: dict[str, Any] = {
        "features": {"use": ["queue_imbalance"]},
        "label": {"horizons": ["1s"]},
        "train": {"epochs": 2, "min_rows": 300, "checkpoint_steps": 1},
    }
    merged = {key: {**data.get(key, {}), **parts.get(key, {})} for key in {*data, *parts}}
    return pipelines.parse({"name": "demo", **merged}, folder=folder)


def left_by(run: Callable[[Left], object], error: type[TickwiseError], said: str) -> Left:
    left = Left()
    with pytest.raises(error, match=f"(?s){said}") as told:
        run(left)
    assert type(told.value) is error
    return left


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_input_is_a_clear_error_before_any_epoch_begins(case: Case, frame: pd.DataFrame, folder: Path) -> None:
    def run(left: Left) -> object:
        spec = pipeline(folder, **case.parts)
        return fit(case.ticks(frame), spec, progress=lambda p: left.epochs.append(p.epoch), checkpoint=left)

    left = left_by(run, case.error, case.said)
    assert (left.epochs, left.saved) == ([], [])


def test_a_model_of_another_schema_is_not_gone_on_from(frame: pd.DataFrame, folder: Path) -> None:
    spec = pipeline(folder)
    names = FeaturePlan.from_spec(spec).names
    other: ModelContract = trial_contract(spec, features=len(names)).model_copy(update={"features": names})

    left = left_by(
        lambda left: fit(frame, spec, start=FittedModel(other, b"", {}), checkpoint=left),
        SchemaMismatchError,
        "cannot go on: feature_hash of the model is 'trial', the pipeline says ",
    )
    assert left.saved == []


def test_a_loss_that_is_no_number_ends_the_training_with_its_place(frame: pd.DataFrame, folder: Path) -> None:
    left_by(
        lambda left: fit(frame, pipeline(folder, train={"loss": "own:NoNumber"}), checkpoint=left),
        InputError,
        r"training stopped at epoch 1, step \d+: loss nan, gradient norm nan; check the input or lower",
    )
