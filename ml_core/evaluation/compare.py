"""Models side by side: the figures of each, and of each beside one rival, on the same rows and blocks of time.

Shapes: N rows.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ml_core.evaluation import bootstrap
from ml_core.evaluation import metrics as measure
from ml_core.evaluation.bootstrap import Interval
from ml_core.evaluation.coverage import after_costs
from ml_core.types import Float64, Int64


class Rows(NamedTuple):
    """The rows that models are compared on; ascending by time."""

    ts_ns_N: Int64
    return_N: Float64  # what came, log returns
    cost_N: Float64  # of going in and out again, log returns
    look_ahead_ns: int  # delay and horizon of the label

    def blocks(self) -> Int64:
        """Return the block of time that each row is in (N,)."""
        return bootstrap.time_blocks(self.ts_ns_N, self.look_ahead_ns)


class Figures(NamedTuple):
    """How good one model's scores are; NaN where a figure is not defined for them."""

    ic: float  # Spearman
    ic_interval: Interval
    pearson: float
    pearson_interval: Interval
    winsorised: float  # Pearson, of returns with their outer hundredths pulled in
    sign_auc: float
    r2: float  # against zero; of predictions of returns alone
    edge_bps: float  # mean move in the direction of the score, before costs
    acted: float  # share of rows whose prediction exceeds their costs
    after_costs_bps: float  # mean over all rows of acting on those


class Difference(NamedTuple):
    """How much better a model is than its rival."""

    rival: str
    ic: float
    ic_interval: Interval
    pearson: float
    pearson_interval: Interval


def figures(score_N: npt.NDArray[np.floating], rows: Rows, *, in_returns: bool = True) -> Figures:
    """Return the figures of scores; ``in_returns`` says that they predict the return itself."""
    return_N, block_N = rows.return_N, rows.blocks()
    left = after_costs(score_N, return_N, rows.cost_N) if in_returns else None
    return Figures(
        ic=measure.information_coefficient(score_N, return_N),
        ic_interval=bootstrap.correlation(score_N, return_N, block_N),
        pearson=measure.pearson(score_N, return_N),
        pearson_interval=bootstrap.correlation(score_N, return_N, block_N, by_rank=False),
        winsorised=measure.pearson(score_N, measure.winsorised(return_N)),
        sign_auc=measure.sign_auc(score_N, return_N),
        r2=measure.r2_against_zero(score_N, return_N) if in_returns else math.nan,
        edge_bps=measure.net_edge_bps(score_N, return_N, 0.0),
        acted=left.share if left else math.nan,
        after_costs_bps=left.total_bps if left else math.nan,
    )


def against(
    score_N: npt.NDArray[np.floating], rival_N: npt.NDArray[np.floating], rows: Rows, *, rival: str
) -> Difference:
    """Return how much better scores are than those of ``rival`` on the same rows."""
    both = (score_N, rival_N, rows.return_N, rows.blocks())
    ic, linear = (
        measured(score_N, rows.return_N) - measured(rival_N, rows.return_N)
        for measured in (measure.information_coefficient, measure.pearson)
    )
    return Difference(rival, ic, bootstrap.difference(*both), linear, bootstrap.difference(*both, by_rank=False))


def as_json(value: Any) -> Any:
    """Return figures as JSON has them: tuples with names as objects, NaN as null."""
    if hasattr(value, "_asdict"):
        return as_json(value._asdict())
    if isinstance(value, Mapping):
        return {key: as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
