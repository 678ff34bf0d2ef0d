"""How deep trees may be: engines read them by recursion, and one that goes too deep ends the process.

Shapes: N nodes of all trees.
"""

import numpy as np

from ml_core.errors import ModelRefusedError
from ml_core.model.trees import LEAF
from ml_core.types import Int64

MAX_DEPTH = 500  # splits; boosted trees have a few dozen


def check_depth(left_N: Int64, right_N: Int64) -> None:
    """Raise where a way down is longer than ``MAX_DEPTH``, or has no end.

    Args:
        left_N: Places of the children of each node; ``LEAF`` where there is none.
        right_N: Likewise.

    Raises:
        ModelRefusedError: ``trees``. A retry will not help.
    """
    level = np.arange(len(left_N))
    for _ in range(MAX_DEPTH + 1):
        below = np.concatenate([left_N[level], right_N[level]])
        level = np.unique(below[below != LEAF])
        if not len(level):
            return
    raise ModelRefusedError(f"trees: a tree is deeper than {MAX_DEPTH} splits")
