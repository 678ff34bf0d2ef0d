"""Figures as curves: predicted beside observed, and how a model did as time went on.

Shapes: N rows, K bins.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ml_core.evaluation.metrics import ranks
from ml_core.types import Bool, Float64, Int64

BINS = 10


class Curve(NamedTuple):
    """Predicted and observed values, bin by bin of the predicted ones, ascending."""

    predicted_K: Float64  # mean
    observed_K: Float64  # mean
    spread_K: Float64  # standard deviation of the observed ones
    count_K: Int64


def calibration(
    predicted_N: npt.NDArray[np.floating], observed_N: npt.NDArray[np.floating] | Bool, bins: int = BINS
) -> Curve:
    """Return the curve over bins of equally many rows; equal predictions share a bin, so there may be fewer bins.

    For a probability ``observed_N`` is whether it happened, for a return the return.

    >>> curve = calibration(np.array([0.1, 0.1, 0.9, 0.9]), np.array([False, False, True, False]), bins=2)
    >>> curve.predicted_K.tolist(), curve.observed_K.tolist(), curve.count_K.tolist()
    ([0.1, 0.9], [0.0, 0.5], [2, 2])
    """
    place_N = np.ceil(ranks(predicted_N) * bins / len(predicted_N)).astype(np.int64)
    _, bin_N, count_K = np.unique(place_N, return_inverse=True, return_counts=True)
    observed_N = observed_N.astype(np.float64)

    def means(value_N: npt.NDArray[np.floating]) -> Float64:
        return np.bincount(bin_N, weights=value_N.astype(np.float64)) / count_K

    observed_K = means(observed_N)
    variance_K = means((observed_N - observed_K[bin_N]) ** 2)
    return Curve(means(predicted_N), observed_K, np.sqrt(variance_K), count_K.astype(np.int64))


def calibration_error(curve: Curve) -> float:
    """Return how far predicted values lie from observed ones, mean over rows, in the unit of both.

    >>> calibration_error(Curve(np.array([0.2, 0.6]), np.array([0.2, 0.9]), np.zeros(2), np.array([3, 1])))
    0.075
    """
    return round(float(np.average(np.abs(curve.predicted_K - curve.observed_K), weights=curve.count_K)), 15)


def rise_probability(prediction_N: Float64, error_V: Float64) -> Float64:
    """Return how likely each predicted return makes a rise (N,), by errors on other rows: observed less predicted.

    >>> rise_probability(np.array([0.0, 2.0]), np.array([-3.0, -1.0, 1.0, 3.0])).tolist()
    [0.5, 0.75]
    """
    ordered_V = np.sort(error_V)
    return 1 - np.searchsorted(ordered_V, -prediction_N, side="right") / len(ordered_V)


def slope(predicted_N: npt.NDArray[np.floating], observed_N: Float64) -> float:
    """Return by which factor predictions of returns were too small: 1 is right, 0.5 means twice too sure.

    The least squares line through zero; NaN where every prediction is 0.
    """
    predicted_N = predicted_N.astype(np.float64)
    total = float(predicted_N @ predicted_N)
    return float(predicted_N @ observed_N) / total if total else float("nan")


def cumulative_ic(score_N: npt.NDArray[np.floating], return_N: Float64) -> Float64:
    """Return how the rank correlation gathers as rows go by (N,); the last value is the information coefficient."""
    a_N, b_N = (ranks(each_N) - (len(each_N) + 1) / 2 for each_N in (score_N, return_N))
    scale = float(np.sqrt((a_N @ a_N) * (b_N @ b_N)))
    return np.cumsum(a_N * b_N) / scale if scale else np.full(len(a_N), np.nan)
