"""Sums of trees -> an ONNX graph from raw feature rows to outputs, as ``export`` makes one of a network.

Shapes: T rows of a window, F features, X = T x F columns, O outputs, K trees, N nodes of a tree.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ml_core.contract import ModelContract, Places
from ml_core.model.export import with_contract, with_scaling_apart
from ml_core.model.trees import LEAF, Tree

OPSETS = {"": 20, "ai.onnx.ml": 3}
IR_VERSION = 10
COLUMNS = "z_row"  # what scaling gives


class Voice(NamedTuple):
    """A tree, the output that it adds to, and how much of what its leaves say."""

    output: int
    scale: float
    tree: Tree


def onnx_of(voices_K: Sequence[Voice], shift_O: Sequence[float], contract: ModelContract) -> bytes:
    """Return the ONNX file of ``shift + sum of scaled leaves`` of rows as ``contract`` scales them; it is inside.

    Quantiles of a horizon are sorted, since nothing keeps trees of their own from crossing.
    """
    nodes, constants = columns_of(contract)
    rows = COLUMNS
    if not contract.encoding.is_plain:
        constants |= _encoding_constants(contract)
        nodes += _encoding(contract.places)
        rows = "inputs"
    nodes.append(_ensemble(voices_K, shift_O, rows, "sums" if contract.quantiles else "y"))
    if contract.quantiles:
        count = len(contract.quantiles)
        constants |= {
            "a_horizon": np.array([-1, len(contract.horizons_ns), count], np.int64),
            "quantiles": np.array([count], np.int64),
            "all": np.array([-1, contract.outputs], np.int64),
        }
        nodes += [
            helper.make_node("Reshape", ["sums", "a_horizon"], ["unsorted"]),
            helper.make_node("TopK", ["unsorted", "quantiles"], ["sorted", "places"], largest=0, sorted=1),
            helper.make_node("Reshape", ["sorted", "all"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", contract.window, len(contract.features)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", contract.outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=opsets())
    model.ir_version = IR_VERSION
    return with_contract(bytes(with_scaling_apart(model, contract).SerializeToString()), contract)


def sums_of(voices_K: Sequence[Voice], shift_O: Sequence[float], columns: int) -> onnx.ModelProto:
    """Return the graph of ``shift + sum of scaled leaves`` of rows (B, X), as they are."""
    given, said = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name, width in (("columns", columns), ("sums", len(shift_O)))
    )
    graph = helper.make_graph([_ensemble(voices_K, shift_O, "columns", "sums")], "trees", [given], [said])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets())
    model.ir_version = IR_VERSION
    return model


def opsets() -> list[onnx.OperatorSetIdProto]:
    """Return the versions of the operators that our graphs are written in."""
    return [helper.make_opsetid(*each) for each in OPSETS.items()]


def columns_of(contract: ModelContract, *, keep_missing: bool = False) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """Return nodes that make ``COLUMNS`` (B, X), rows as ``contract`` scales them, of ``x``, and their constants.

    They are those of ``ScoringGraph``, in the order in which ``with_scaling_apart`` looks for them.

    Args:
        contract: Of the model.
        keep_missing: A missing value stays NaN instead of 0, and the runtime alone can scale.
    """
    scaler, window = contract.scaler, contract.window
    constants = {
        "row": np.array([0, window * len(contract.features)], np.int64),
        "median": np.tile(np.array(scaler.median, np.float32), window),
        "iqr": np.tile(np.array(scaler.iqr, np.float32), window),
        "low": np.float32(-scaler.limit).reshape(()),
        "high": np.float32(scaler.limit).reshape(()),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "row"], ["x_row"]),
        helper.make_node("Sub", ["x_row", "median"], ["centred"]),
        helper.make_node("Div", ["centred", "iqr"], ["ratio"]),
        helper.make_node("Clip", ["ratio", "low", "high"], [COLUMNS if keep_missing else "clipped"]),
    ]
    if not keep_missing:
        constants["zero"] = np.zeros((), np.float32)
        nodes += [
            helper.make_node("IsNaN", ["clipped"], ["absent"]),
            helper.make_node("Where", ["absent", "zero", "clipped"], [COLUMNS]),
        ]
    return nodes, constants


def _encoding_constants(contract: ModelContract) -> dict[str, Any]:
    places, window = contract.places, contract.window
    group_CG = np.zeros((len(places.code_C), len(places.coded_G)), np.float32)
    group_CG[np.arange(len(places.code_C)), list(places.group_C)] = 1.0
    indices = {
        "number": places.number_N, "missing": places.missing_M, "source": places.source_C, "coded": places.coded_G,
    }  # fmt: skip
    return {
        **{name: np.array(values, np.int64) for name, values in indices.items()},
        "code": np.array(places.code_C, np.float32),
        "group": group_CG,
        "one": np.ones((), np.float32),
        "windows": np.array([-1, window, len(contract.features)], np.int64),
        "inputs_row": np.array([-1, window * places.width], np.int64),
    }


def _encoding(places: Places) -> list[onnx.NodeProto]:
    """Return the nodes of ``Encoder``."""

    def chosen(rows: str, which: str, result: str) -> onnx.NodeProto:
        return helper.make_node("Gather", [rows, which], [result], axis=2)

    def absent(rows: str, result: str) -> list[onnx.NodeProto]:
        return [helper.make_node("IsNaN", [rows], [f"is_{result}"]), as_float(f"is_{result}", result)]

    def as_float(truth: str, result: str) -> onnx.NodeProto:
        return helper.make_node("Cast", [truth], [result], to=TensorProto.FLOAT)

    nodes, parts = [helper.make_node("Reshape", [COLUMNS, "windows"], ["z"])], []
    if places.number_N:
        nodes.append(chosen("z", "number", "numbers"))
        parts.append("numbers")
    if places.missing_M:
        nodes += [chosen("x", "missing", "may_miss"), *absent("may_miss", "missed")]
        parts.append("missed")
    if places.coded_G:
        nodes += [
            chosen("x", "source", "of_codes"),
            helper.make_node("Equal", ["of_codes", "code"], ["is_code"]),
            as_float("is_code", "codes"),
            chosen("x", "coded", "categories"),
            *absent("categories", "unknown"),
            helper.make_node("Sub", ["one", "unknown"], ["known"]),
            helper.make_node("MatMul", ["codes", "group"], ["in_book"]),
            helper.make_node("Sub", ["known", "in_book"], ["others"]),
        ]
        parts += ["codes", "others"]
    nodes.append(helper.make_node("Concat", parts, ["inputs_windows"], axis=2))
    return [*nodes, helper.make_node("Reshape", ["inputs_windows", "inputs_row"], ["inputs"])]


def _ensemble(voices_K: Sequence[Voice], shift_O: Sequence[float], rows: str, result: str) -> onnx.NodeProto:
    # The runtime adds its own `base_values` only where a tree speaks, so a tree of one leaf says the shift.
    voices = [*(Voice(output, 1.0, _says(value)) for output, value in enumerate(shift_O)), *voices_K]
    sizes_K = [len(voice.tree.feature_N) for voice in voices]
    tree_N = np.repeat(np.arange(len(voices)), sizes_K)
    node_N = np.concatenate([np.arange(size) for size in sizes_K])
    feature_N, value_N, left_N, right_N, nan_left_N = (
        np.concatenate(columns) for columns in zip(*(voice.tree for voice in voices), strict=True)
    )
    is_leaf_N = feature_N == LEAF
    scale_N = np.repeat([voice.scale for voice in voices], sizes_K)
    output_N = np.repeat([voice.output for voice in voices], sizes_K)
    return helper.make_node(
        "TreeEnsembleRegressor",
        [rows],
        [result],
        domain="ai.onnx.ml",
        aggregate_function="SUM",
        n_targets=len(shift_O),
        nodes_treeids=tree_N.tolist(),
        nodes_nodeids=node_N.tolist(),
        nodes_featureids=np.where(is_leaf_N, 0, feature_N).tolist(),
        nodes_modes=np.where(is_leaf_N, "LEAF", "BRANCH_LEQ").tolist(),
        nodes_values=np.where(is_leaf_N, 0.0, value_N).tolist(),
        nodes_truenodeids=np.where(is_leaf_N, 0, left_N).tolist(),
        nodes_falsenodeids=np.where(is_leaf_N, 0, right_N).tolist(),
        nodes_missing_value_tracks_true=nan_left_N.astype(np.int64).tolist(),
        target_treeids=tree_N[is_leaf_N].tolist(),
        target_nodeids=node_N[is_leaf_N].tolist(),
        target_ids=output_N[is_leaf_N].tolist(),
        target_weights=(value_N * scale_N)[is_leaf_N].tolist(),
    )


def _says(value: float) -> Tree:
    none_N = np.array([LEAF])
    return Tree(none_N, np.array([value]), none_N, none_N, np.zeros(1, np.bool_))
