"""What a model covers: outcomes within the width it promises, and how it does when it acts on few rows only.

Shapes: N rows, V validation rows, S shares, Q quantiles.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ml_core.types import Bool, Float64

SHARES = (1.0, 0.5, 0.25, 0.1, 0.05)


class Acting(NamedTuple):
    """How a model did on the rows it was surest about."""

    share: float  # of all rows
    rows: int
    hits: float  # share of those that moved that moved its way; NaN where none moved
    edge_bps: float  # mean move its way, before costs


class AfterCosts(NamedTuple):
    """What acting on predictions of returns left, where a row is acted on if its prediction exceeds its costs."""

    share: float  # of rows acted on
    edge_bps: float  # mean over those, costs paid; NaN where there are none
    total_bps: float  # mean over all rows, 0 where it did not act


def half_width(error_V: Float64, level: float) -> float:
    """Return the half width around a prediction that holds ``level`` of outcomes, as validation errors have it.

    Infinite where there are too few of them for that level.

    Source: Vovk, Gammerman, Shafer 2005, Algorithmic Learning in a Random World (split conformal prediction).

    >>> half_width(np.array([-3.0, 1.0, 2.0, 0.5]), 0.6)
    2.0
    """
    place = int(np.ceil((len(error_V) + 1) * level))
    return float(np.sort(np.abs(error_V))[place - 1]) if place <= len(error_V) else float("inf")


def within(prediction_N: Float64, return_N: Float64, width: float) -> float:
    """Return the share of outcomes at most ``width`` from their prediction."""
    return float(np.mean(np.abs(return_N - prediction_N) <= width))


def is_below(quantile_NQ: npt.NDArray[np.floating], value_N: Float64) -> Bool:
    """Return which outcomes are at or below which predicted quantile (N, Q); right ones are so as often as they say."""
    return np.asarray(value_N[:, None] <= quantile_NQ)


def pinball(quantile_NQ: npt.NDArray[np.floating], value_N: Float64, quantiles: Sequence[float]) -> Float64:
    """Return the pinball loss of each row (N,), mean over quantiles, in the unit of the values; least for right ones.

    Source: Koenker and Bassett, 1978, "Regression quantiles".

    >>> pinball(np.array([[1.0], [1.0]]), np.array([2.0, 0.0]), [0.75]).tolist()
    [0.75, 0.25]
    """
    miss_NQ = value_N[:, None] - quantile_NQ
    share_Q = np.array(quantiles)
    loss_N: Float64 = np.maximum(share_Q * miss_NQ, (share_Q - 1) * miss_NQ).mean(axis=1)
    return loss_N


def acting(score_N: npt.NDArray[np.floating], return_N: Float64, shares: Sequence[float] = SHARES) -> list[Acting]:
    """Return how scores did on the ``share`` of rows where they are farthest from zero, for each share."""
    order_N = np.argsort(-np.abs(score_N), kind="stable")
    gain_N = np.sign(score_N) * return_N
    found = []
    for share in shares:
        chosen_I = order_N[: max(1, round(share * len(score_N)))]
        moved_I = gain_N[chosen_I][gain_N[chosen_I] != 0]
        hits = float((moved_I > 0).mean()) if len(moved_I) else float("nan")
        found.append(Acting(share, len(chosen_I), hits, float(gain_N[chosen_I].mean()) * 1e4))
    return found


def after_costs(prediction_N: npt.NDArray[np.floating], return_N: Float64, cost_N: Float64) -> AfterCosts:
    """Return what is left of acting on predictions that exceed their costs.

    Args:
        prediction_N: Log returns.
        return_N: Log returns.
        cost_N: Of going in and out again, as log returns: fees twice, and the spread where the price is a mid.

    >>> after_costs(np.array([3e-4, -1e-5]), np.array([2e-4, -9e-4]), np.array([1e-4, 1e-4]))
    AfterCosts(share=0.5, edge_bps=1.0, total_bps=0.5)
    """
    acted_N = np.abs(prediction_N) > cost_N
    gain_N = np.where(acted_N, np.sign(prediction_N) * return_N - cost_N, 0.0) * 1e4
    edge = float(gain_N[acted_N].mean()) if acted_N.any() else float("nan")
    return AfterCosts(float(acted_N.mean()), edge, float(gain_N.mean()))
