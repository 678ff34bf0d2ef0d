"""Does any row or score know what came after its tick? Cuts ticks off at random places and looks what changes before.

Shapes: N ticks, R rows, F features, H horizons.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ml_core.data_processor import features
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.errors import InputError
from ml_core.types import Float32, RowBatch, SymbolTable, TickBatch

# Called once for each run over ticks: own features of one run have seen nothing of another.
MakePlan = Callable[[], FeaturePlan]
Score = Callable[[RowBatch], Float32]  # rows since the beginning -> their scores (R, H), NaN where a row is not scored


class Leak(NamedTuple):
    """A value that is another one when later ticks are not there."""

    what: str  # feature, column of a row, or "score" and the horizon's number
    cut: int  # ticks that were left
    row: int
    whole: float  # with all ticks
    cut_off: float

    def __str__(self) -> str:
        """Return the leak in words.

        >>> str(Leak("mid", cut=90, row=7, whole=1.5, cut_off=2.0))
        'mid: row 7 is 1.5 with all ticks, 2 with 90'
        """
        return f"{self.what}: row {self.row} is {self.whole:g} with all ticks, {self.cut_off:g} with {self.cut}"


class Looked(NamedTuple):
    """What was looked at, and what was found."""

    rows: int  # before the last cut
    scored: int  # of those
    leaks: list[Leak]


def find(ticks: TickBatch, make_plan: MakePlan, *, cuts: int, seed: int = 0, score: Score | None = None) -> Looked:
    """Return the first leak of every feature, mid, spread, flag and score that has one.

    What an own feature keeps in its class or module outlives a run, and is not looked at.

    Args:
        ticks: In arrival order, of one partition or file.
        make_plan: Of the rows.
        cuts: How many places are tried; the more, the surer.
        seed: Of the places.
        score: Of a model; None: scores are not looked at.

    Raises:
        InputError: No row stands before a cut, or with ``score`` none that is scored, so nothing is proven; or an own
            feature failed. A retry will not help.
    """
    plan = make_plan()
    whole = _made(ticks, plan, score)
    leaks: dict[str, Leak] = {}
    most = scored = 0
    places = np.random.default_rng(seed).integers(1, max(len(ticks), 2), size=cuts)
    for cut in np.unique(places).tolist():
        fields: list[Any] = [*(column[:cut] for column in ticks[:-1]), ticks.symbols]
        part = _made(TickBatch(*fields), make_plan(), score)
        most, scored = max(most, len(part.rows)), max(scored, part.scored)
        for what, there, alone in _columns(whole, part, plan.names):
            if what in leaks:
                continue
            different = np.flatnonzero(_bits(there[: len(alone)]) != _bits(alone))
            if len(different):
                row = int(different[0])
                leaks[what] = Leak(what, cut, row, float(there[row]), float(alone[row]))
    if not most:
        raise InputError(
            f"nothing was compared: of {len(ticks)} ticks {len(whole.rows)} make a row, and none stands before a cut; "
            "the pipeline may want other symbols or kinds than they have"
        )
    if score and not scored:
        raise InputError(
            f"no score was compared: none of {most} rows before a cut could be scored; it takes ticks of a longer time"
        )
    return Looked(most, scored, list(leaks.values()))


class _Made(NamedTuple):
    rows: RowBatch
    score_RH: Float32

    @property
    def scored(self) -> int:
        return int(np.isfinite(self.score_RH).any(axis=1).sum())


def _made(ticks: TickBatch, plan: FeaturePlan, score: Score | None) -> _Made:
    rows = features.step(ticks, FeatureState(plan, SymbolTable(ticks.symbols)))
    return _Made(rows, np.empty((len(rows), 0), np.float32) if score is None else score(rows))


def _columns(whole: _Made, part: _Made, names: tuple[str, ...]) -> list[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
    pairs = [(name, whole.rows.x_NF[:, f], part.rows.x_NF[:, f]) for f, name in enumerate(names)]
    pairs += [
        (name, getattr(whole.rows, f"{name}_N"), getattr(part.rows, f"{name}_N")) for name in ("mid", "spread", "flags")
    ]
    pairs += [(f"score {h}", whole.score_RH[:, h], part.score_RH[:, h]) for h in range(whole.score_RH.shape[1])]
    return pairs


def _bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what compares as the bytes do: a NaN equals the same NaN, and 0.0 is not -0.0."""
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
