"""Does any row know what came after its tick? Cuts the ticks off at random places and looks what changes before.

Shapes: N ticks, F features.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ml_core.data_processor import features
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.types import RowBatch, SymbolTable, TickBatch


class Leak(NamedTuple):
    """A value that is another one when later ticks are not there."""

    what: str  # feature, or column of a row
    cut: int  # ticks that were left
    row: int
    whole: float  # with all ticks
    cut_off: float


def find(ticks: TickBatch, plan: FeaturePlan, *, cuts: int, seed: int = 0) -> list[Leak]:
    """Return the first leak of every feature, mid, spread and flag that has one.

    Args:
        ticks: In arrival order, of one partition or file.
        plan: Of the rows.
        cuts: How many places are tried; the more, the surer.
        seed: Of the places.

    Raises:
        InputError: An own feature failed. A retry will not help.
    """
    whole = _rows(ticks, plan)
    leaks: dict[str, Leak] = {}
    places = np.random.default_rng(seed).integers(1, max(len(ticks), 2), size=cuts)
    for cut in np.unique(places).tolist():
        fields: list[Any] = [*(column[:cut] for column in ticks[:-1]), ticks.symbols]
        part = _rows(TickBatch(*fields), plan)
        for what, there, alone in _columns(whole, part, plan.names):
            if what in leaks:
                continue
            different = np.flatnonzero(_bits(there[: len(alone)]) != _bits(alone))
            if len(different):
                row = int(different[0])
                leaks[what] = Leak(what, cut, row, float(there[row]), float(alone[row]))
    return list(leaks.values())


def _rows(ticks: TickBatch, plan: FeaturePlan) -> RowBatch:
    return features.step(ticks, FeatureState(plan, SymbolTable(ticks.symbols)))


def _columns(
    whole: RowBatch, part: RowBatch, names: tuple[str, ...]
) -> list[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
    pairs = [(name, whole.x_NF[:, f], part.x_NF[:, f]) for f, name in enumerate(names)]
    pairs += [(name, getattr(whole, f"{name}_N"), getattr(part, f"{name}_N")) for name in ("mid", "spread", "flags")]
    return pairs


def _bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what compares as the bytes do: a NaN equals the same NaN, and 0.0 is not -0.0."""
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
