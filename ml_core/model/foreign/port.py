"""What a reader of a model file gives, whatever the format.

Shapes: B rows of a batch, X columns that the model takes, K numbers that it answers, N nodes of a tree.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import onnx

from ml_core.model.foreign.depth import check_depth
from ml_core.model.trees import LEAF
from ml_core.model.trees_onnx import Voice, sums_of
from ml_core.types import Float32, Float64

Answers = Literal["value", "probabilities", "logits"]

MAX_ANSWERS = 1024  # numbers a row; a file of a few bytes may name as many as fill the memory


class Foreign(NamedTuple):
    """A model trained elsewhere as a graph with one input, (B, *shape), and one output, (B, K) or (B,)."""

    kind: Literal["onnx", "lightgbm", "xgboost"]
    graph: onnx.ModelProto
    shape: tuple[int, ...]  # of a row: (X,), or rows of a window and features
    answers: int  # K
    tells: Answers | None  # what its file says that these are; None: nothing
    names: tuple[str, ...]  # of the columns, as its file has them; empty: it has none
    engine: str  # what computes `expected`
    expected: Callable[[Float32], Float64]  # columns (B, X) -> answers (B, K), not by way of the graph
    voices: tuple[Voice, ...] = ()  # of a sum of trees

    def splits(self) -> list[tuple[int, float]]:
        """Return column and threshold of each split."""
        trees = [voice.tree for voice in self.voices]
        return [
            (int(feature), float(value))
            for tree in trees
            for feature, value in zip(tree.feature_N, tree.value_N, strict=True)
            if feature != LEAF
        ]


def of_trees(
    kind: Literal["lightgbm", "xgboost"],
    voices: list[Voice],
    shift_K: list[float],
    *,
    columns: int,
    tells: Answers | None,
    names: tuple[str, ...],
    engine: str,
    expected: Callable[[Float32], Float64],
) -> Foreign:
    """Return the sum of ``voices`` and ``shift_K`` as a model of ``columns`` columns.

    Raises:
        ModelRefusedError: As ``check_depth``.
    """
    for voice in voices:
        check_depth(voice.tree.left_N, voice.tree.right_N)
    graph = sums_of(voices, shift_K, columns)
    return Foreign(kind, graph, (columns,), len(shift_K), tells, names, engine, expected, tuple(voices))
