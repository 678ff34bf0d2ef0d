"""What of LightGBM's text its own reader follows without looking: every index must lead somewhere before it does.

Shapes: S splits and L leaves of a tree.
"""

import re

import numpy as np

from ml_core.errors import ModelRefusedError
from ml_core.model.foreign.depth import check_depth
from ml_core.model.foreign.port import MAX_ANSWERS
from ml_core.model.trees import LEAF
from ml_core.types import Int64

_LINE = re.compile(r"([a-z_]+)(?:=(.*))?")
_NUMBERS = re.compile(r"-?[0-9]{1,9}(?: -?[0-9]{1,9})*")
_PLACES = "tree_sizes"  # where trees begin, which can be seen


def checked(text: str) -> str:
    """Return ``text`` as LightGBM may read it.

    Raises:
        ModelRefusedError: ``unreadable``, ``trees`` or ``too_large``. A retry will not help.
    """
    text = text.replace("\r\n", "\n")
    if "\0" in text or "\r" in text:
        raise ModelRefusedError("unreadable: the file is no text of lines")
    head, *trees = text.split("\nTree=")
    lines = [line for line in head.split("\n") if not line.startswith(_PLACES)]
    said = _pairs([line for line in lines if line])
    width, columns = _number(said, "num_tree_per_iteration"), _number(said, "max_feature_idx") + 1
    if not 1 <= width <= MAX_ANSWERS:
        raise ModelRefusedError(f"too_large: the model answers {width} numbers a row, at most {MAX_ANSWERS} are")
    if _number(said, "num_class") != width:
        raise ModelRefusedError("unreadable: num_class and num_tree_per_iteration differ")
    for number, each in enumerate(trees, 1):
        tree, _, rest = each.partition("\n\n")
        if rest.strip("\n") and number < len(trees):
            raise ModelRefusedError("unreadable: something stands between two trees")
        _check(_pairs(tree.split("\n")[1:]), columns)
    return "\nTree=".join(["\n".join(lines), *trees])


def _check(tree: dict[str, str], columns: int) -> None:
    leaves = _number(tree, "num_leaves")
    if _number(tree, "num_cat"):
        raise ModelRefusedError("trees: a split by category is not supported")
    if tree.get("is_linear", "0") != "0":
        raise ModelRefusedError("trees: leaves that are linear models are not supported")
    if leaves == 1:
        return
    names = ("split_feature", "decision_type", "left_child", "right_child")
    feature_S, kind_S, left_S, right_S = (_numbers(tree, name) for name in names)
    counts = {len(each) for each in (feature_S, kind_S, left_S, right_S)} | {tree.get("threshold", "").count(" ") + 1}
    if counts != {leaves - 1} or tree.get("leaf_value", "").count(" ") + 1 != leaves:
        raise ModelRefusedError("unreadable: a tree has columns of several lengths")
    if (kind_S & 1).any():
        raise ModelRefusedError("trees: a split by category is not supported")
    if not ((feature_S >= 0) & (feature_S < columns)).all():
        raise ModelRefusedError("unreadable: a tree splits by a column that is none")
    children = np.sort(np.concatenate([left_S, right_S]))  # leaf n is told as -n - 1, and nothing leads to the root
    if not np.array_equal(children, [each for each in range(-leaves, leaves - 1) if each]):
        raise ModelRefusedError("unreadable: a tree has a child that is no node, or that has two parents")
    check_depth(np.maximum(left_S, LEAF), np.maximum(right_S, LEAF))


def _pairs(lines: list[str]) -> dict[str, str]:
    found = [_LINE.fullmatch(line) for line in lines]
    pairs = {each[1]: each[2] or "" for each in found if each is not None}
    if len(pairs) < len(lines):
        raise ModelRefusedError("unreadable: a line is none of LightGBM's, or stands there twice")
    return pairs


def _number(said: dict[str, str], name: str) -> int:
    return int(_numbers(said, name)[0])


def _numbers(said: dict[str, str], name: str) -> Int64:
    text = said.get(name, "")
    if _NUMBERS.fullmatch(text) is None:
        raise ModelRefusedError(f"unreadable: {name} is no list of whole numbers")
    return np.array(text.split(" "), np.int64)
