"""Models trained elsewhere: what they say here is what their own engines say; what cannot be served says why."""

import json
import math
from typing import Any

import lightgbm
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ml_core import spec as pipelines
from ml_core.data_processor.features import FeaturePlan
from ml_core.data_processor.scaling_kernel import scale_rows
from ml_core.errors import ModelRefusedError, NotFoundError, SchemaMismatchError, SpecError
from ml_core.fit import fit
from ml_core.importing import import_model
from ml_core.model.fitted import FittedModel
from ml_core.model.foreign import xgboost_file
from ml_core.model.foreign.signature import Signature, read_signature
from ml_core.model.foreign.xgboost_file import read_xgboost
from ml_core.model.runtime import Scorer
from model_ops_manager.champion import must_fit

USE = ("return:1s", "queue_imbalance", "last_trade_offset")
COLUMNS = ("last_trade_offset", "return:1s")  # of the models: fewer, and in another order
TAKEN = [USE.index(name) for name in COLUMNS]
BASE = {
    "features": COLUMNS,
    "horizons": ["1s"],
    "inputs": "raw",
    "missing": "nan",
    "trained_to": "2026-11-01T00:00:00Z",
}
NUMBER = {**BASE, "label": "return", "outputs": "value", "unit": "bps"}
CLASSES = {**BASE, "label": "direction", "outputs": "probabilities", "dead_zone": [1e-5]}


def spec_of(kind: str = "return", **changes: Any) -> pipelines.PipelineSpec:
    label = {"kind": kind, "horizons": ["1s"], **changes.pop("label", {})}
    return pipelines.parse({"name": "demo", "features": {"use": USE, **changes}, "label": label})


def rows(count: int = 2000) -> np.ndarray:
    """Raw rows (B, 1, 3): usual ones, missing values, infinities."""
    rng = np.random.default_rng(0)
    x_BTF = rng.standard_normal((count, 1, len(USE))).astype(np.float32)
    x_BTF[rng.random(x_BTF.shape) < 0.1] = np.nan
    x_BTF[0], x_BTF[1] = np.inf, -np.inf
    return x_BTF


def shares_of(y_BO: np.ndarray) -> np.ndarray:
    """Return P(down), P(flat), P(up) of logits."""
    e_BO = np.exp(y_BO.astype(np.float64))
    return e_BO / e_BO.sum(axis=1, keepdims=True)


@pytest.fixture
def imported(tmp_path):
    """Return a function: write a model to a file, import it, and return it with its scorer."""

    def make(name: str, model: Any, signature: dict[str, Any], spec: pipelines.PipelineSpec | None = None):
        path = tmp_path / name
        if isinstance(model, lightgbm.Booster):
            model.save_model(path)
        else:
            path.write_bytes(model if isinstance(model, bytes) else json.dumps(model).encode())
        given = Signature.model_validate(signature)
        model = import_model(path, spec or spec_of(given.label), given)
        return model, model.scorer()

    return make


# LightGBM


def booster(objective: str, **options: Any) -> lightgbm.Booster:
    rng = np.random.default_rng(1)
    x_NF = rng.standard_normal((800, 2)).astype(np.float32)
    x_NF[rng.random(x_NF.shape) < 0.2] = np.nan
    y_N = np.nan_to_num(x_NF[:, 0]) - np.where(np.isnan(x_NF[:, 1]), 1.0, 0.0)
    if objective != "regression":
        y_N = np.digitize(y_N, [-0.5, 0.5]) if objective == "multiclass" else y_N > 0
    given = {"objective": objective, "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 10, **options}
    return lightgbm.train(given, lightgbm.Dataset(x_NF, label=y_N), 20)


def test_a_lightgbm_number_is_told_as_a_log_return_and_serves_like_our_own(imported, tmp_path):
    made = booster("regression")
    model, scorer = imported("model.txt", made, NUMBER)

    expected_B = made.predict(rows()[:, 0, TAKEN]) * 1e-4

    np.testing.assert_allclose(scorer.scores(rows())[:, 0], expected_B, rtol=0, atol=1e-9)
    scorer.probe()
    plan = FeaturePlan.from_spec(spec_of())
    must_fit(plan.hash, 1)(scorer.contract)
    assert (scorer.contract.model_kind, scorer.contract.features) == ("lightgbm", USE)
    model.save(tmp_path / "saved")
    assert FittedModel.load(tmp_path / "saved").scorer().outputs(rows()).tobytes() == scorer.outputs(rows()).tobytes()


def test_lightgbm_classes_are_put_in_our_order(imported):
    made = booster("multiclass", num_class=3)
    _, scorer = imported("model.txt", made, {**CLASSES, "classes": ["up", "down", "flat"]})

    up_B, down_B, flat_B = made.predict(rows()[:, 0, TAKEN]).T

    np.testing.assert_allclose(shares_of(scorer.outputs(rows())), np.stack([down_B, flat_B, up_B], 1), atol=2e-6)


@pytest.mark.parametrize("sigmoid", [1.0, 2.0])
def test_a_lightgbm_model_of_two_classes_never_says_flat(imported, sigmoid):
    made = booster("binary", sigmoid=sigmoid)
    _, scorer = imported("model.txt", made, {**CLASSES, "classes": ["down", "up"]})

    share_B3 = shares_of(scorer.outputs(rows()))

    np.testing.assert_allclose(share_B3[:, 2], made.predict(rows()[:, 0, TAKEN]), atol=3e-6)
    assert share_B3[:, 1].max() < 2e-6


# XGBoost


def tree(*nodes: tuple, **changes: Any) -> dict[str, Any]:
    """Return a tree of XGBoost's JSON; a node is (column, threshold, left, right, missing goes left) or (leaf,)."""
    wide = [node if len(node) > 1 else (0, node[0], -1, -1, 0) for node in nodes]
    names = ("split_indices", "split_conditions", "left_children", "right_children", "default_left")
    columns = dict(zip(names, map(list, zip(*wide, strict=True)), strict=True))
    return {**columns, "tree_param": {"size_leaf_vector": "1", "num_nodes": str(len(nodes))}, **changes}


A = tree((0, 0.1, 1, 2, 1), (1, -0.25, 3, 4, 0), (0.5,), (-1.5,), (2.25,))
B = tree((1, 0.7, 2, 1, 0), (-0.125,), (0.375,))
C = tree((0.0625,))


def chain(depth: int) -> dict[str, Any]:
    """Return a tree whose every split has a leaf to its left and the next split to its right."""
    splits = [(0, 0.5, depth + number + 1, number + 1, 0) for number in range(depth)]
    return tree(*splits, *[(1.0,)] * (depth + 1))


def saved(*trees: dict[str, Any], objective: str = "reg:squarederror", base: str = "5E-1", **changes: Any):
    """Return a file as ``Booster.save_model`` writes it."""
    outputs = changes.pop("tree_info", [0] * len(trees))
    model = {"trees": list(trees), "tree_info": outputs, "gbtree_model_param": {"num_trees": str(len(trees))}}
    params = {"base_score": base, "num_class": "0", "num_feature": "2", "num_target": "1", **changes}
    booster = {"name": "gbtree", "model": model}
    learner = {"gradient_booster": booster, "learner_model_param": params, "objective": {"name": objective}}
    return {"learner": learner, "version": [2, 1, 0]}


def walk(given: dict[str, Any], x_F: np.ndarray, node: int = 0) -> float:
    """Return what a tree says of a row, in the words of XGBoost's format."""
    if given["left_children"][node] == -1:
        return float(np.float32(given["split_conditions"][node]))
    x = x_F[given["split_indices"][node]]
    left = given["default_left"][node] == 1 if math.isnan(x) else x < np.float32(given["split_conditions"][node])
    return walk(given, x_F, given["left_children" if left else "right_children"][node])


def edges() -> np.ndarray:
    """Return ``rows`` of which some lie on a threshold, or one float32 beside it."""
    x_BTF = rows()
    for number, (column, threshold) in enumerate([(0, 0.1), (1, -0.25), (1, 0.7)]):
        at = np.float32(threshold)
        near = np.nextafter(at, np.float32(-9)), at, np.nextafter(at, np.float32(9))
        x_BTF[10 + 3 * number : 13 + 3 * number, 0, TAKEN[column]] = near
    return x_BTF


@pytest.mark.parametrize("base", ["5E-1", "[5E-1]"])
def test_an_xgboost_number_is_base_score_and_leaves(imported, base):
    _, scorer = imported("model.json", saved(A, B, C, base=base), NUMBER)

    expected_B = [0.5 + sum(walk(each, x_F) for each in (A, B, C)) for x_F in edges()[:, 0, TAKEN]]

    np.testing.assert_allclose(scorer.scores(edges())[:, 0] * 1e4, expected_B, atol=1e-6)


def test_an_xgboost_share_is_the_logistic_of_base_score_and_leaves(imported):
    file = saved(A, B, objective="binary:logistic", base="2.5E-1")
    _, scorer = imported("model.json", file, {**CLASSES, "classes": ["down", "up"]})

    margin_B = np.array([math.log(0.25 / 0.75) + walk(A, x_F) + walk(B, x_F) for x_F in edges()[:, 0, TAKEN]])

    np.testing.assert_allclose(shares_of(scorer.outputs(edges()))[:, 2], 1 / (1 + np.exp(-margin_B)), atol=3e-6)


def test_each_tree_of_an_xgboost_file_speaks_for_the_class_that_tree_info_says(imported):
    file = saved(A, B, C, A, objective="multi:softprob", num_class="3", tree_info=[2, 0, 1, 0])
    _, scorer = imported("model.json", file, {**CLASSES, "classes": ["down", "flat", "up"]})

    margin_BC = np.array([[walk(B, x_F) + walk(A, x_F), walk(C, x_F), walk(A, x_F)] for x_F in edges()[:, 0, TAKEN]])

    np.testing.assert_allclose(shares_of(scorer.outputs(edges())), shares_of(margin_BC), atol=1e-6)


def test_an_xgboost_file_of_several_targets_answers_a_horizon_each(imported):
    file = saved(A, B, num_target="2", tree_info=[1, 0], base="[1E0,2E0]")
    given = {**NUMBER, "horizons": ["1s", "2s"], "unit": "log_return"}
    _, scorer = imported("model.json", file, given, spec_of(label={"horizons": ["1s", "2s"]}))

    expected_BH = [[1 + walk(B, x_F), 2 + walk(A, x_F)] for x_F in edges()[:, 0, TAKEN]]

    np.testing.assert_allclose(scorer.scores(edges()), expected_BH, atol=1e-6)


def test_a_pruned_node_that_stays_in_the_file_says_nothing(imported):
    given = tree((0, 0.1, 1, 3, 1), (1.0,), (9.0,), (2.0,))
    _, scorer = imported("model.json", saved(given, base="0"), {**NUMBER, "unit": "log_return"})
    assert set(scorer.scores(rows())[:, 0].tolist()) == {1.0, 2.0}


# ONNX

W = np.random.default_rng(3).standard_normal((2, 3)).astype(np.float32)


def linear(*after: onnx.NodeProto, width: int = 3, out: str = "y", **changes: Any) -> bytes:
    """Return an ONNX file of a linear layer, its columns named x and its names chosen to meet ours."""
    shape, dtype = changes.pop("shape", ["n", 2]), changes.pop("dtype", np.float32)
    weights = numpy_helper.from_array(W[:, :width].astype(dtype), "median")
    first = helper.make_node("MatMul", ["x", "median"], ["linear" if after else "y"])
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [first, *after],
        "theirs",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, ["n", width]) for name in changes.pop("outputs", [out])],
        [weights],
    )
    opset = changes.pop("opset", 17)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9, **changes)
    return bytes(model.SerializeToString())


SOFTMAX = helper.make_node("Softmax", ["linear"], ["y"])
SCALED = {"inputs": "scaled", "scaling": {"center": [0.5, 1.0], "scale": [2.0, 0.5]}, "limit": 8.0, "missing": "zero"}


def scaled(x_BTF: np.ndarray) -> np.ndarray:
    z_BF = np.clip((x_BTF[:, 0, TAKEN] - np.float32([0.5, 1.0])) / np.float32([2.0, 0.5]), -8, 8)
    return np.nan_to_num(z_BF)


def test_an_onnx_model_gets_scaled_columns_and_its_probabilities_are_ours(imported):
    _, scorer = imported("model.onnx", linear(SOFTMAX), {**CLASSES, **SCALED, "classes": ["flat", "up", "down"]})

    flat_B, up_B, down_B = shares_of(scaled(rows()) @ W).T

    expected_B3 = np.maximum(np.stack([down_B, flat_B, up_B], 1), 1e-6)
    np.testing.assert_allclose(shares_of(scorer.outputs(rows())), expected_B3, atol=4e-6)
    fast = Scorer(imported("model.onnx", linear(SOFTMAX), {**CLASSES, **SCALED})[0].onnx, scale_rows)
    fast.probe()  # whose scaling is the worker's, outside the graph


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_one_number_stands_for_the_second_of_two_classes(imported, outputs):
    after = [helper.make_node("Sigmoid", ["linear"], ["y"])] if outputs == "probabilities" else []
    given = {**CLASSES, **SCALED, "outputs": outputs, "classes": ["up", "down"]}
    _, scorer = imported("model.onnx", linear(*after, width=1), given)

    down_B = 1 / (1 + np.exp(-scaled(rows()) @ W[:, 0].astype(np.float64)))

    np.testing.assert_allclose(shares_of(scorer.outputs(rows()))[:, 0], down_B, atol=4e-6)
    assert scorer.outputs(rows())[2:][:, 1].max() < 0


def test_a_model_in_float64_and_a_volatility_in_percent_are_understood(imported):
    given = {**NUMBER, **SCALED, "label": "volatility", "unit": "percent", "dead_zone": [1e-3]}
    _, scorer = imported("model.onnx", linear(width=1, dtype=np.float64), given)

    told_B = np.log(np.maximum((scaled(rows()) @ W[:, 0]) * 1e-2, 1e-3))

    np.testing.assert_allclose(scorer.scores(rows())[:, 0], told_B, atol=2e-6)


def test_a_window_goes_in_oldest_row_first(imported):
    last = helper.make_node("Gather", ["x", "newest"], ["row"], axis=1)
    graph = helper.make_graph(
        [last, helper.make_node("ReduceSum", ["row", "axis"], ["y"], keepdims=0)],
        "theirs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.array(2), "newest"), numpy_helper.from_array(np.array([1]), "axis")],
    )
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    given = {**NUMBER, "window": 3, "missing": "zero", "unit": "log_return"}
    _, scorer = imported("model.onnx", file, given, spec_of(window=3))
    x_BTF = np.random.default_rng(0).standard_normal((50, 3, 3)).astype(np.float32)

    np.testing.assert_allclose(scorer.scores(x_BTF)[:, 0], x_BTF[:, 2, TAKEN].sum(axis=1), atol=1e-6)


def external(file: bytes) -> bytes:
    model = onnx.load_from_string(file)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return bytes(model.SerializeToString())


def own_domain() -> bytes:
    return linear(helper.make_node("Run", ["linear"], ["y"], domain="com.example"))


def looped() -> bytes:
    body = helper.make_graph([], "body", [], [])
    return linear(helper.make_node("Loop", ["linear", ""], ["y"], body=body))


def ensemble(falses: list[int]) -> bytes:
    """Return trees of splits that lead right to ``falses`` and left to one leaf, which is their last node."""
    count = len(falses)
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["linear"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=3,
        nodes_treeids=[0] * (count + 1),
        nodes_nodeids=list(range(count + 1)),
        nodes_featureids=[0] * (count + 1),
        nodes_modes=["BRANCH_LEQ"] * count + ["LEAF"],
        nodes_values=[0.0] * (count + 1),
        nodes_truenodeids=[count] * count + [0],
        nodes_falsenodeids=[*falses, 0],
        target_ids=[0],
        target_nodeids=[count],
        target_treeids=[0],
        target_weights=[1.0],
    )
    return linear(node)


TWO = helper.make_node("Softmax", ["linear"], ["y"]), helper.make_node("Identity", ["linear"], ["z"])
ALONE = helper.make_node("Sub", ["linear", "mean"], ["y"])
MEAN = helper.make_node("ReduceMean", ["linear"], ["mean"], axes=[0], keepdims=1)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (b"\x80\x04pickled", {}, "^unreadable: "),
        (external(linear()), {}, "^external_data: 'median' lies in another file"),
        (own_domain(), {}, "^operators: Run of 'com.example'"),
        (looped(), {}, "^operators: a Loop may run for ever"),
        (ensemble(list(range(1, 502))), {}, "^trees: a tree is deeper than 500 splits"),
        (ensemble([0]), {}, "^trees: a tree is deeper"),
        (ensemble([7]), {}, "^trees: a tree has a child that is no node"),
        (linear(opset=9), {}, "^opset: version 9 of 'ai.onnx' is not within 13 to 23"),
        (linear(shape=[1, 2]), {}, "^shape: the graph must take"),
        (linear(shape=["n", 5]), {}, "^unreadable: "),
        (linear(*TWO, outputs=["y", "z"]), {}, "^shape: the graph has the outputs y, z; name one"),
        (linear(*TWO, outputs=["y", "z"]), {"output": "w"}, "^shape: the graph has no output 'w'"),
        (linear(width=2), {}, "^signature: the file answers 2 numbers a row, and 1 horizons of direction take 3"),
        (linear(MEAN, ALONE), {"outputs": "logits"}, "^mixes_rows"),
        (linear(helper.make_node("Log", ["linear"], ["y"])), {"outputs": "logits"}, "^not_finite"),
    ],
)
def test_an_onnx_file_that_cannot_be_served_says_why(imported, file, changes, message):
    with pytest.raises(ModelRefusedError, match=message):
        imported("model.onnx", file, {**CLASSES, **SCALED, **changes})


def test_one_of_several_outputs_can_be_named(imported):
    _, scorer = imported("model.onnx", linear(*TWO, outputs=["y", "z"]), {**CLASSES, **SCALED, "output": "y"})
    assert scorer.contract.outputs == 3


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (["no model"], "^unreadable: this is no JSON of an XGBoost model"),
        (saved(A, objective="count:poisson"), "^objective: 'count:poisson' is not supported; reg:squarederror, "),
        (saved(tree((0, 0.1, 0, 1, 1), (1.0,))), "^unreadable: a tree has a child .* two parents"),
        (saved(tree((0, 0.1, 1, 7, 1), (1.0,))), "^unreadable: a tree has a child that is no node"),
        (saved(tree((5, 0.1, 1, 2, 1), (1.0,), (2.0,))), "^unreadable: .* out of range"),
        (saved(tree((0, math.nan, 1, 2, 1), (1.0,), (2.0,))), "^unreadable: .* out of range"),
        (saved({**B, "split_type": [1, 0, 0]}), "^trees: a split by category"),
        (saved(A, tree_info=[3]), "^unreadable: tree_info names another output than 0 to 0"),
        (saved(A, num_class="900000000"), "^too_large: the model answers 900000000 numbers a row"),
        (saved(chain(501)), "^trees: a tree is deeper than 500 splits"),
        (saved(A, num_feature="7"), "^signature: the file takes rows of shape .7,., and the signature says a window"),
    ],
)
def test_an_xgboost_file_that_cannot_be_served_says_why(imported, file, message):
    with pytest.raises(ModelRefusedError, match=message):
        imported("model.json", file, NUMBER)


def test_an_xgboost_file_with_rounds_behind_the_best_one_is_ambiguous():
    file = saved(A, B)
    file["learner"]["attributes"] = {"best_iteration": "0"}
    file["learner"]["gradient_booster"]["model"]["iteration_indptr"] = [0, 1, 2]
    with pytest.raises(ModelRefusedError, match=r"save booster\[: 1\] instead"):
        read_xgboost(json.dumps(file))


def test_training_does_not_go_on_from_a_model_trained_elsewhere(imported):
    start, _ = imported("model.json", saved(A), NUMBER)
    with pytest.raises(SchemaMismatchError, match="model_kind of the model is 'xgboost', the pipeline says 'mlp'"):
        fit(None, spec_of(), start=start)  # type: ignore[arg-type]  # the frame is not looked at


def test_columns_in_another_order_than_the_signature_says_are_refused(imported):
    file = saved(A)
    file["learner"]["feature_names"] = ["return:1s", "last_trade_offset"]
    with pytest.raises(ModelRefusedError, match="stand in another order: return:1s, last_trade_offset"):
        imported("model.json", file, NUMBER)


def test_a_pickle_is_not_opened_whatever_its_name(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ModelRefusedError, match=r"^format: 'model.pkl' is not one of .onnx .*; nothing else is opened"):
        import_model(tmp_path / "model.pkl", spec_of(), Signature.model_validate(NUMBER))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"features": ["last_trade_offset", "retrun:1s"]},
            "features: the pipeline has no 'retrun:1s'; did you mean 'return:1s'",
        ),
        ({"window": 3}, "window: the signature says 3, the pipeline 'demo' asks for 1"),
        ({"horizons": ["5s"]}, r"horizons: the signature says \['5s'\], the pipeline 'demo' asks for \['1s'\]"),
    ],
)
def test_a_signature_that_does_not_fit_the_pipeline_says_where(imported, changes, message):
    with pytest.raises(SpecError, match=message):
        imported("model.json", saved(A), {**NUMBER, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unti": "bps"}, "unti: unknown name; did you mean 'unit'"),
        ({"outputs": "logits"}, "outputs: 'logits', and a model of label 'return' tells 'value'"),
        ({"inputs": "scaled"}, "inputs: 'scaled' needs a table scaling"),
        ({"features": ["last_trade_offset", "last_trade_offset"]}, "features: last_trade_offset: named twice"),
        ({"unit": None}, "unit: a value needs one"),
        ({"trained_to": "2026-11-01T00:00:00"}, "trained_to: "),
        ({"dead_zone": [1.0]}, "dead_zone: 1 numbers, and label 'return' needs 0"),
    ],
)
def test_a_wrong_signature_says_where_it_is_wrong(tmp_path, changes, message):
    path = tmp_path / "signature.json"
    path.write_text(json.dumps({**NUMBER, **changes}))
    with pytest.raises(SpecError, match=message):
        read_signature(path)


def test_a_signature_is_toml_or_json(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(NUMBER))
    lines = [f"{name} = {json.dumps(value)}" for name, value in NUMBER.items() if name != "trained_to"]
    (tmp_path / "a.toml").write_text("\n".join([*lines, "trained_to = 2026-11-01T00:00:00Z"]))
    assert read_signature(tmp_path / "a.json") == read_signature(tmp_path / "a.toml")


def test_a_wrapped_model_that_says_something_else_is_refused(imported, monkeypatch):
    monkeypatch.setattr(xgboost_file.np, "nextafter", lambda value, _: value)  # `<` taken for `<=`
    with pytest.raises(ModelRefusedError, match=r"^parity: the trees of the file and ONNX Runtime differ"):
        imported("model.json", saved(A, B), NUMBER)


def test_a_device_is_no_file_of_a_model(tmp_path):
    (tmp_path / "model.json").symlink_to("/dev/null")
    with pytest.raises(NotFoundError, match="there is no such file"):
        import_model(tmp_path / "model.json", spec_of(), Signature.model_validate(NUMBER))
