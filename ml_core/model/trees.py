"""Decision trees as flat arrays, read from what LightGBM tells of its own.

Shapes: N nodes of a tree.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ml_core.errors import ModelRefusedError
from ml_core.types import Bool, Float32, Float64, Int64

LEAF = -1
_INFINITE = 1e300  # how a dump writes the infinite threshold that parts missing values from all others


class Tree(NamedTuple):
    """One tree, root first: a row goes left where ``x[feature] <= value``, decided in float32."""

    feature_N: Int64  # LEAF: a leaf
    value_N: Float64  # a threshold that float32 holds, or what a leaf says
    left_N: Int64
    right_N: Int64
    nan_left_N: Bool  # where a missing value goes


def lightgbm_trees(dump: Mapping[str, Any]) -> list[Tree]:
    """Return the trees of ``Booster.dump_model()``: iteration after iteration, in it class after class.

    A float32 is at most a double threshold exactly where it is at most the largest float32 below that, so decisions
    are LightGBM's to the bit.

    Raises:
        ModelRefusedError: ``trees``: it has a part that ONNX has no word for. A retry will not help.
    """
    if dump.get("average_output"):
        raise ModelRefusedError("trees: a random forest averages its trees; only boosted trees are understood")
    return [_tree(each["tree_structure"]) for each in dump["tree_info"]]


def floor32(thresholds_N: Float64) -> Float32:
    """Return the largest float32 that is at most each threshold.

    >>> floor32(np.array([0.1, 0.5])).tolist() == [float(np.nextafter(np.float32(0.1), np.float32(-1))), 0.5]
    True
    """
    with np.errstate(over="ignore"):
        near_N = thresholds_N.astype(np.float32)
    return np.where(near_N > thresholds_N, np.nextafter(near_N, np.float32(-np.inf)), near_N)


def _tree(root: Mapping[str, Any]) -> Tree:
    nodes: list[Mapping[str, Any]] = [root]
    left, right = [], []
    for node in nodes:  # grows while it is read: children stand behind their parents
        if "split_feature" in node:
            left.append(len(nodes))
            right.append(len(nodes) + 1)
            nodes += [node["left_child"], node["right_child"]]
        else:
            left.append(LEAF)
            right.append(LEAF)
    is_split_N = np.array(left) != LEAF
    value_N = np.array([_threshold(n) if split else _leaf(n) for n, split in zip(nodes, is_split_N, strict=True)])
    return Tree(
        feature_N=np.array([int(node.get("split_feature", LEAF)) for node in nodes]),
        value_N=np.where(is_split_N, floor32(value_N).astype(np.float64), value_N),
        left_N=np.array(left),
        right_N=np.array(right),
        nan_left_N=np.array([_nan_goes_left(node) for node in nodes]),
    )


def _threshold(node: Mapping[str, Any]) -> float:
    if node["decision_type"] != "<=":
        raise ModelRefusedError(f"trees: a split by {node['decision_type']!r} (a category) is not supported")
    if node["missing_type"] == "Zero":
        raise ModelRefusedError("trees: zeros that count as missing are not supported")
    threshold = float(node["threshold"])
    return math.copysign(math.inf, threshold) if abs(threshold) >= _INFINITE else threshold


def _leaf(node: Mapping[str, Any]) -> float:
    if node.get("leaf_coeff"):
        raise ModelRefusedError("trees: leaves that are linear models are not supported")
    return float(node["leaf_value"])


def _nan_goes_left(node: Mapping[str, Any]) -> bool:
    if "split_feature" not in node:
        return False
    if node["missing_type"] == "NaN":
        return bool(node["default_left"])
    return float(node["threshold"]) >= 0  # LightGBM takes a missing value for 0 where it saw none in training
