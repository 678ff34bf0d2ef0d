"""What a model has to beat: nothing known, the last move going on, and a straight line through the features.

Shapes: N rows, I training rows, F features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ml_core.evaluation.metrics import squared_errors
from ml_core.types import Float32, Float64

STRENGTHS = (0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
CLASSES = 3  # down, flat, up
LIMIT = 4.0  # of scaled features: one wild value would tilt a straight line


class Ridge(NamedTuple):
    """A straight line: ``mean + (clip(z) - center) @ slope``."""

    slope_F: Float64
    center_F: Float64
    mean: float
    strength: float

    def predict(self, z_NF: npt.NDArray[np.floating]) -> Float64:
        """Return the predictions (N,) for scaled rows."""
        return self.mean + (_clipped(z_NF) - self.center_F) @ self.slope_F


def fit_ridge(z_IF: Float32, y_I: Float64, weight_I: Float32, *, strength: float) -> Ridge:
    """Return the line of least weighted squared error plus ``strength`` times the squared slopes, in closed form.

    Args:
        z_IF: Scaled rows without NaN.
        y_I: Targets.
        weight_I: Weights of the rows.
        strength: Of the penalty, for mean squared error over features of variance about 1.

    >>> line = fit_ridge(np.array([[-1.0], [1.0]], np.float32), np.array([0.0, 4.0]), np.ones(2, np.float32),
    ...                  strength=1.0)
    >>> line.mean, line.slope_F.tolist()
    (2.0, [1.0])
    """
    share_I = weight_I.astype(np.float64) / weight_I.sum(dtype=np.float64)
    clipped_IF = _clipped(z_IF)
    center_F, mean = share_I @ clipped_IF, float(share_I @ y_I)
    apart_IF = clipped_IF - center_F
    held_FF = (apart_IF * share_I[:, None]).T @ apart_IF + strength * np.eye(z_IF.shape[1])
    slope_F = np.linalg.lstsq(held_FF, (apart_IF * share_I[:, None]).T @ (y_I - mean), rcond=None)[0]
    return Ridge(slope_F, center_F, mean, strength)


def choose_ridge(
    train: tuple[Float32, Float64, Float32],
    validation: tuple[Float32, Float64, Float32],
    strengths: Sequence[float] = STRENGTHS,
) -> Ridge:
    """Return the ridge of the strength that does best on ``validation``; each part is (rows, targets, weights)."""
    fitted = [fit_ridge(*train, strength=strength) for strength in strengths]
    z_VF, y_V, weight_V = validation
    return min(fitted, key=lambda line: _error(line.predict(z_VF), y_V, weight_V))


def prior_scores(prior: Sequence[Sequence[float]], rows: int) -> Float64:
    """Return what always answering the prior scores (N, H): the mean number, or the share of up less that of down.

    Args:
        prior: A horizon's class shares (down, flat, up), or its mean and variance.
        rows: N.

    >>> prior_scores([(0.25, 0.25, 0.5)], 1).tolist()
    [[0.25]]
    """
    scores = [values[2] - values[0] if len(values) == CLASSES else values[0] for values in prior]
    return np.tile(np.array(scores), (rows, 1))


def _clipped(z_NF: npt.NDArray[np.floating]) -> Float64:
    return np.clip(z_NF.astype(np.float64), -LIMIT, LIMIT)


def _error(prediction_N: Float64, y_N: Float64, weight_N: Float32) -> float:
    return float(np.average(squared_errors(prediction_N[:, None], y_N[:, None]), weights=weight_N))
