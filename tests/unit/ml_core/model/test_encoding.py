"""Inputs for missing values and codes: fitted on training rows, frozen, the same to the bit wherever they are made."""

from collections.abc import Callable

import numpy as np
import pytest
from torch import nn

from ml_core.contract import Encoding, ModelContract
from ml_core.data_processor.encoding import FEWEST_ROWS, MOST_CODES, encode, fit_encoding
from ml_core.data_processor.scaling import scale
from ml_core.errors import InputError, ModelRefusedError
from ml_core.learners.network import scaled_rows
from ml_core.model.export import export, with_contract
from ml_core.model.graph import ScoringGraph
from ml_core.model.runtime import Scorer, probe_rows
from ml_core.model.trees import LEAF, Tree
from ml_core.model.trees_onnx import Voice, onnx_of
from ml_core.sections import Features
from ml_core.types import Float32

BOOK = Encoding(missing=("f1",), codes={"f2": (0, 2), "f3": (-1, 1)})
INPUTS = 9  # f0 f1 | f1 is missing | f2 is 0, 2 | f3 is -1, 1 | f2 is another | f3 is another
NAN = float("nan")


@pytest.fixture(scope="module")
def encoding(contract: Callable[..., ModelContract]) -> ModelContract:
    return contract(horizons=INPUTS // 3, encoding=BOOK)


@pytest.fixture(scope="module")
def answering(encoding: ModelContract) -> bytes:
    """The file of a graph that answers with its inputs."""
    same = {"shift_O": [0.0] * INPUTS, "scale_O": [1.0] * INPUTS}
    return export(ScoringGraph(nn.Flatten(), encoding.scaler, **same, places=encoding.places), encoding)


def rows() -> Float32:
    rng = np.random.default_rng(1)
    x_NF = rng.standard_normal((2000, 4)).astype(np.float32)
    x_NF[:, 2:] = rng.choice([-1, 0, 1, 2, 3, 0.5, np.inf, -np.inf, np.nan], (2000, 2))
    x_NF[rng.random(2000) < 0.2, 1] = np.nan
    return x_NF


def test_what_a_model_sees_is_what_its_contract_says(encoding: ModelContract) -> None:
    x_NF = np.array([[2, NAN, 2, 7], [0.5, 1.5, NAN, -1]], np.float32)
    assert encode(x_NF, encoding.scaler, encoding.places).tolist() == [
        [2.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        [0.5, 0.5, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
    ]


def test_training_the_file_and_numpy_see_the_same_bits(encoding: ModelContract, answering: bytes) -> None:
    x_NF = np.concatenate([rows(), probe_rows(encoding)[:, 0]])
    seen_NX = encode(x_NF, encoding.scaler, encoding.places)
    assert Scorer(answering).outputs(x_NF[:, None]).tobytes() == seen_NX.tobytes()
    assert scaled_rows(x_NF, encoding.scaler, encoding.places).tobytes() == seen_NX.tobytes()


def test_a_graph_that_encodes_is_never_given_scaled_rows(encoding: ModelContract, answering: bytes) -> None:
    def fast(x_NF: Float32, *_: object) -> Float32:
        return scale(x_NF, encoding.scaler)

    scorer, x_BTF = Scorer(answering, fast), rows()[:, None]
    scorer.probe()
    assert scorer.outputs(x_BTF).tobytes() == Scorer(answering).outputs(x_BTF).tobytes()


@pytest.mark.parametrize("window", [1, 3])
def test_trees_see_the_same_inputs(contract: Callable[..., ModelContract], window: int) -> None:
    one = contract(horizons=window * INPUTS // 3, window=window, encoding=BOOK)
    leaf = np.array([LEAF, LEAF])
    voices = [
        Voice(k, 1.0, Tree(np.array([k, *leaf]), np.array([0.25, 1.0, 2.0]), np.array([1, *leaf]), np.array([2, *leaf]),
              np.zeros(3, np.bool_)))
        for k in range(one.outputs)
    ]  # fmt: skip
    scorer = Scorer(onnx_of(voices, [0.0] * one.outputs, one), lambda x_NF, *_: scale(x_NF, one.scaler))
    x_NF = rows()[: 600 * window]
    seen_BX = encode(x_NF, one.scaler, one.places).reshape(-1, one.outputs)
    said_BX = scorer.outputs(x_NF.reshape(-1, window, 4))
    assert said_BX.tolist() == np.where(seen_BX <= 0.25, 1.0, 2.0).tolist()
    scorer.probe()


def test_missing_features_and_codes_are_those_of_the_training_rows() -> None:
    x_NF = np.zeros((100, 3), np.float32)
    x_NF[:, 1] = np.arange(100) % 4
    x_NF[7, 1] = 9  # once, and so with those never seen
    x_NF[50, 0] = x_NF[50, 1] = NAN
    asked = Features(missing="indicator", categories=("b",))
    found = fit_encoding(x_NF, ("a", "b", "c"), asked)
    assert found == Encoding(missing=("a",), codes={"b": (0, 1, 2, 3)})
    assert fit_encoding(x_NF[:45], ("a", "b", "c"), asked).missing == ()
    assert fit_encoding(x_NF, ("a", "b", "c"), Features()).is_plain


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0.5] * FEWEST_ROWS, "'a' holds 0.5, which is no code"),
        ([2.0**25] * FEWEST_ROWS, "which is no code"),
        (list(range(MOST_CODES + 1)), f"'a' has {MOST_CODES + 1} codes"),
        (list(range(FEWEST_ROWS)), "no code in as many as 10 rows"),
    ],
)
def test_what_is_no_category_is_refused(values: list[float], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        fit_encoding(np.array(values, np.float32)[:, None], ("a",), Features(categories=("a",)))


def test_a_file_that_encodes_what_is_no_feature_is_refused(
    contract: Callable[..., ModelContract], mlp_file: bytes
) -> None:
    wrong = contract(horizons=2, encoding=Encoding(missing=("f1", "speed")))
    with pytest.raises(ModelRefusedError, match=r"^bad_contract: encoding names speed, no feature"):
        Scorer(with_contract(mlp_file, wrong))
