import lightgbm
import numpy as np
import onnxruntime
import pytest

from ml_core.errors import ModelRefusedError
from ml_core.model.runtime import Scorer
from ml_core.model.trees import floor32, lightgbm_trees
from ml_core.model.trees_onnx import Voice, onnx_of, sums_of

FEATURES = 4
QUIET = {"verbosity": -1, "num_threads": 1, "deterministic": True, "min_data_in_leaf": 5}


def booster(*, missing: float = 0.0, rounds: int = 40, **options) -> lightgbm.Booster:
    rng = np.random.default_rng(0)
    x_NF = rng.standard_normal((2000, FEATURES)).astype(np.float32)
    x_NF[rng.random(x_NF.shape) < missing] = np.nan
    y_N = np.nan_to_num(x_NF[:, 0]) * np.where(np.isnan(x_NF[:, 1]), 2.0, 1.0) + 0.1 * rng.standard_normal(2000)
    return lightgbm.train({**QUIET, **options}, lightgbm.Dataset(x_NF, label=y_N), rounds)


def said(made: lightgbm.Booster, x_NF: np.ndarray) -> np.ndarray:
    voices = [Voice(0, 1.0, tree) for tree in lightgbm_trees(made.dump_model())]
    session = onnxruntime.InferenceSession(sums_of(voices, [0.0], FEATURES).SerializeToString())
    return session.run(None, {"columns": x_NF})[0][:, 0]


def thresholds(made: lightgbm.Booster) -> list[tuple[int, float]]:
    splits, nodes = [], [tree["tree_structure"] for tree in made.dump_model()["tree_info"]]
    for node in nodes:
        if "threshold" in node:
            splits.append((node["split_feature"], node["threshold"]))
            nodes += [node["left_child"], node["right_child"]]
    return splits


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_every_row_falls_into_the_leaves_that_lightgbm_finds_for_it(missing):
    """Also rows that lie on a threshold, or one float32 beside it, and rows with missing values."""
    made = booster(missing=missing)
    rng = np.random.default_rng(1)
    x_NF = rng.standard_normal((20_000, FEATURES)).astype(np.float32)
    x_NF[rng.random(x_NF.shape) < 0.1] = np.nan
    x_NF[-200:] = np.where(rng.random((200, FEATURES)) < 0.5, np.inf, -np.inf)
    for row, (feature, threshold) in enumerate(thresholds(made)):
        near = np.float32(np.clip(threshold, -1e30, 1e30))
        x_NF[3 * row : 3 * row + 3, feature] = (
            np.nextafter(near, np.float32(-9)),
            near,
            np.nextafter(near, np.float32(9)),
        )

    expected_N = made.predict(x_NF)

    np.testing.assert_allclose(said(made, x_NF), expected_N, rtol=0, atol=2e-6)  # another leaf would be 1e-3 away


def test_thresholds_are_rounded_down():
    given = np.array([0.1, -0.1, 1.0, 0.30000001192092896])
    floor = floor32(given)
    assert (floor <= given).all()
    assert (np.nextafter(floor, np.float32(np.inf)) > given).all()
    assert floor[2] == 1.0
    assert floor32(np.array([1e300, -1e300])).tolist() == [np.finfo(np.float32).max, -np.inf]


def test_quantiles_of_a_horizon_never_fall(contract):
    one = contract(label_kind="return", horizons=2, quantiles=(0.1, 0.5, 0.9))
    trees = [lightgbm_trees(booster(rounds=3, seed=seed, feature_fraction=0.5).dump_model()) for seed in range(6)]
    voices = [Voice(output, 1.0, tree) for output, each in enumerate(trees) for tree in each]
    x_BTF = np.random.default_rng(2).standard_normal((500, 1, FEATURES)).astype(np.float32)

    y_BO = Scorer(onnx_of(voices, [0.0] * 6, one)).outputs(x_BTF)

    assert (np.diff(y_BO.reshape(-1, 2, 3), axis=2) >= 0).all()
    assert (np.diff(y_BO.reshape(-1, 2, 3), axis=2) > 0).any()
    assert Scorer(onnx_of(voices, [0.0] * 6, one)).scores(x_BTF).tobytes() == y_BO[:, 1::3].tobytes()


def test_without_a_tree_the_shift_is_all_that_is_said(contract):
    x_BTF = np.ones((3, 1, FEATURES), np.float32)
    y_BO = Scorer(onnx_of([], [0.5, -1.0, 2.0], contract())).outputs(x_BTF)
    assert y_BO.tolist() == [[0.5, -1.0, 2.0]] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "random forest"),
        ({"zero_as_missing": True}, "zeros that count as missing"),
        ({"linear_tree": True, "rounds": 3}, "linear models"),
    ],
)
def test_what_onnx_has_no_word_for_is_refused(options, message):
    with pytest.raises(ModelRefusedError, match=message):
        lightgbm_trees(booster(**options).dump_model())


def test_a_split_by_category_is_refused():
    x_NF = np.arange(600, dtype=np.float64).reshape(-1, 1) % 4
    data = lightgbm.Dataset(x_NF, label=(x_NF[:, 0] == 2) * 1.0, categorical_feature=[0])
    options = {**QUIET, "min_data_per_group": 5, "cat_smooth": 1.0}
    with pytest.raises(ModelRefusedError, match="a category"):
        lightgbm_trees(lightgbm.train(options, data, 3).dump_model())
