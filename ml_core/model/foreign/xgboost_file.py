"""Reads the JSON that XGBoost saves a model as, without XGBoost.

Shapes: B rows of a batch, X columns, K outputs, M nodes of a tree as they are stored.
"""

import json
import math
from typing import Any, NamedTuple

import numpy as np

from ml_core.errors import ModelRefusedError
from ml_core.model.foreign.port import MAX_ANSWERS, Answers, Foreign, of_trees
from ml_core.model.trees import LEAF, Tree
from ml_core.model.trees_onnx import Voice
from ml_core.types import Bool, Float32, Float64, Int64

_VALUES = ("reg:squarederror", "reg:linear", "reg:absoluteerror", "reg:pseudohubererror")
_CLASSES = ("multi:softprob", "multi:softmax")
_BINARY = "binary:logistic"


class _Stored(NamedTuple):
    """A tree as its file has it: a row goes left where ``x[feature] < value``; leaves have no children."""

    output: int
    feature_M: Int64
    value_M: Float32  # a threshold, or what a leaf says
    left_M: Int64
    right_M: Int64
    nan_left_M: Bool


def read_xgboost(text: str) -> Foreign:
    """Return the model that ``Booster.save_model`` wrote as JSON.

    Raises:
        ModelRefusedError: ``unreadable``, ``too_large``, ``trees`` or ``objective``: it has a part that cannot be
            served. A retry will not help.
    """
    try:
        learner = json.loads(text)["learner"]
        booster, params = learner["gradient_booster"], learner["learner_model_param"]
        if booster["name"] != "gbtree":
            raise ModelRefusedError(f"trees: a booster {booster['name']!r} is not supported; 'gbtree' is")
        width = max(1, int(params["num_class"]), int(params.get("num_target", 1)))
        if width > MAX_ANSWERS:
            raise ModelRefusedError(
                f"too_large: the model answers {width} numbers a row, at most {MAX_ANSWERS} are read"
            )
        columns, names = int(params["num_feature"]), tuple(map(str, learner.get("feature_names") or ()))
        shift_K, tells = _start(str(learner["objective"]["name"]), str(params["base_score"]), width)
        trees = _trees(booster["model"], width=width, columns=columns)
        _refuse_unused_rounds(learner, booster["model"])
    except (KeyError, IndexError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ModelRefusedError(
            f"unreadable: this is no JSON of an XGBoost model: {type(error).__name__}: {error}"
        ) from error

    def expected(x_BX: Float32) -> Float64:
        y_BK = np.tile(np.array(shift_K), (len(x_BX), 1))
        for tree in trees:
            y_BK[:, tree.output] += _walk(tree, x_BX)
        return y_BK

    return of_trees(
        "xgboost",
        [Voice(tree.output, 1.0, _as_tree(tree)) for tree in trees],
        shift_K,
        columns=columns,
        tells=tells,
        names=names,
        engine="the trees of the file",
        expected=expected,
    )


def _start(objective: str, text: str, width: int) -> tuple[list[float], Answers]:
    """Return what is said without any tree, in the space in which trees add up, and what the sums are."""
    base = [float(number) for number in text.strip("[]").split(",")]  # a list since XGBoost 3.1
    if objective == _BINARY:
        if not all(0 < share < 1 for share in base):
            raise ModelRefusedError(f"objective: base_score {text} is no probability")
        base = [math.log(share / (1 - share)) for share in base]
    elif objective not in (*_VALUES, *_CLASSES):
        raise ModelRefusedError(
            f"objective: {objective!r} is not supported; {', '.join((*_VALUES, _BINARY, *_CLASSES))} are"
        )
    if len(base) not in (1, width) or not all(map(math.isfinite, base)):
        raise ModelRefusedError(f"unreadable: base_score {text} of {width} outputs")
    return base * (width // len(base)), "value" if objective in _VALUES else "logits"


def _refuse_unused_rounds(learner: dict[str, Any], model: dict[str, Any]) -> None:
    """Refuse a file of which it is unclear how many rounds count: XGBoost's own interfaces disagree on that."""
    best, bounds = learner.get("attributes", {}).get("best_iteration"), model.get("iteration_indptr")
    if best is not None and (not bounds or int(best) + 1 < len(bounds) - 1):
        raise ModelRefusedError(
            f"trees: early stopping found round {int(best)} best and the file has later ones; "
            f"save booster[: {int(best) + 1}] instead"
        )


def _trees(model: dict[str, Any], *, width: int, columns: int) -> list[_Stored]:
    outputs = [int(output) for output in model["tree_info"]]
    if not all(0 <= output < width for output in outputs):
        raise ModelRefusedError(f"unreadable: tree_info names another output than 0 to {width - 1}")
    return [_stored(each, output, columns) for each, output in zip(model["trees"], outputs, strict=True)]


def _stored(tree: dict[str, Any], output: int, columns: int) -> _Stored:
    if int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
        raise ModelRefusedError("trees: leaves that say several numbers are not supported")
    if any(tree.get("split_type", ())) or tree.get("categories"):
        raise ModelRefusedError("trees: a split by category is not supported")
    stored = _Stored(
        output,
        np.array(tree["split_indices"], np.int64),
        np.array(tree["split_conditions"], np.float32),
        np.array(tree["left_children"], np.int64),
        np.array(tree["right_children"], np.int64),
        np.array(tree["default_left"]).astype(np.bool_),
    )
    count = len(stored.left_M)
    reached = _reached(stored, count)
    is_split = [node for node in reached if stored.left_M[node] != LEAF]
    if (
        not count
        or any(len(column) != count for column in stored[1:])
        or not np.isfinite(stored.value_M[reached]).all()
        or not all(0 <= stored.feature_M[node] < columns for node in is_split)
    ):
        raise ModelRefusedError("unreadable: a tree has columns of several lengths, or numbers out of range")
    return stored


def _reached(stored: _Stored, count: int) -> list[int]:
    """Return the nodes from the root on, parents first; pruned ones stay in a file and are not among them."""
    reached = [0]
    for node in reached:  # grows while it is read
        if stored.left_M[node] != LEAF:
            reached += [int(stored.left_M[node]), int(stored.right_M[node])]
        if len(reached) > count or not 0 <= min(reached[-2:]) <= max(reached[-2:]) < count:
            raise ModelRefusedError("unreadable: a tree has a child that is no node, or that has two parents")
    if len(set(reached)) < len(reached):
        raise ModelRefusedError("unreadable: a tree has a child that has two parents")
    return reached


def _as_tree(stored: _Stored) -> Tree:
    """Return the tree in our words: below a float32 is at most the float32 before it."""
    reached = np.array(_reached(stored, len(stored.left_M)))
    place = {int(node): number for number, node in enumerate(reached)}
    value_N, left_N = stored.value_M[reached], stored.left_M[reached]
    is_split_N = left_N != LEAF

    def places(child_N: Int64) -> Int64:
        return np.array(
            [place[int(child)] if split else LEAF for child, split in zip(child_N, is_split_N, strict=True)]
        )

    return Tree(
        feature_N=np.where(is_split_N, stored.feature_M[reached], LEAF),
        value_N=np.where(is_split_N, np.nextafter(value_N, np.float32(-np.inf)), value_N).astype(np.float64),
        left_N=places(left_N),
        right_N=places(stored.right_M[reached]),
        nan_left_N=stored.nan_left_M[reached] & is_split_N,
    )


def _walk(tree: _Stored, x_BX: Float32) -> Float32:
    """Return what the tree says of each row (B,), as XGBoost finds it."""
    node_B = np.zeros(len(x_BX), np.int64)
    while (is_split_B := tree.left_M[node_B] != LEAF).any():
        at_b = node_B[is_split_B]
        x_b = x_BX[is_split_B, tree.feature_M[at_b]]
        is_left_b = np.where(np.isnan(x_b), tree.nan_left_M[at_b], x_b < tree.value_M[at_b])
        node_B[is_split_B] = np.where(is_left_b, tree.left_M[at_b], tree.right_M[at_b])
    said_B: Float32 = tree.value_M[node_B]
    return said_B
