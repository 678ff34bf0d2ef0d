"""Figures as curves: what was said beside what came, and how a model did as time went on.

Shapes: N rows, K bins.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ml_core.evaluation.metrics import ranks
from ml_core.types import Bool, Float64, Int64

BINS = 10


class Curve(NamedTuple):
    """What was said and what came, bin by bin of what was said, ascending."""

    said_K: Float64  # mean
    came_K: Float64  # mean
    spread_K: Float64  # standard deviation of what came
    count_K: Int64


def calibration(said_N: npt.NDArray[np.floating], came_N: npt.NDArray[np.floating] | Bool, bins: int = BINS) -> Curve:
    """Return the curve over bins of equally many rows; equal predictions share a bin, so there may be fewer bins.

    For a probability ``came_N`` is whether it happened, for a return the return.

    >>> curve = calibration(np.array([0.1, 0.1, 0.9, 0.9]), np.array([False, False, True, False]), bins=2)
    >>> curve.said_K.tolist(), curve.came_K.tolist(), curve.count_K.tolist()
    ([0.1, 0.9], [0.0, 0.5], [2, 2])
    """
    place_N = np.ceil(ranks(said_N) * bins / len(said_N)).astype(np.int64)
    _, bin_N, count_K = np.unique(place_N, return_inverse=True, return_counts=True)
    came_N = came_N.astype(np.float64)

    def means(value_N: npt.NDArray[np.floating]) -> Float64:
        return np.bincount(bin_N, weights=value_N.astype(np.float64)) / count_K

    came_K = means(came_N)
    variance_K = means((came_N - came_K[bin_N]) ** 2)
    return Curve(means(said_N), came_K, np.sqrt(variance_K), count_K.astype(np.int64))


def calibration_error(curve: Curve) -> float:
    """Return how far what was said lies from what came, mean over rows, in the unit of both.

    >>> calibration_error(Curve(np.array([0.2, 0.6]), np.array([0.2, 0.9]), np.zeros(2), np.array([3, 1])))
    0.075
    """
    return round(float(np.average(np.abs(curve.said_K - curve.came_K), weights=curve.count_K)), 15)


def rise_probability(prediction_N: Float64, error_V: Float64) -> Float64:
    """Return how likely each predicted return makes a rise (N,), by errors on other rows: came less said.

    >>> rise_probability(np.array([0.0, 2.0]), np.array([-3.0, -1.0, 1.0, 3.0])).tolist()
    [0.5, 0.75]
    """
    ordered_V = np.sort(error_V)
    return 1 - np.searchsorted(ordered_V, -prediction_N, side="right") / len(ordered_V)


def slope(said_N: npt.NDArray[np.floating], came_N: Float64) -> float:
    """Return by which factor predictions of returns were too small: 1 is right, 0.5 means twice too sure.

    The least squares line through zero; NaN where nothing was said.
    """
    said_N = said_N.astype(np.float64)
    total = float(said_N @ said_N)
    return float(said_N @ came_N) / total if total else float("nan")


def cumulative_ic(score_N: npt.NDArray[np.floating], return_N: Float64) -> Float64:
    """Return how the rank correlation gathers as rows go by (N,); the last value is the information coefficient."""
    a_N, b_N = (ranks(each_N) - (len(each_N) + 1) / 2 for each_N in (score_N, return_N))
    scale = float(np.sqrt((a_N @ a_N) * (b_N @ b_N)))
    return np.cumsum(a_N * b_N) / scale if scale else np.full(len(a_N), np.nan)
