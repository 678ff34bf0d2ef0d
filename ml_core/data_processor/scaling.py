"""Robust scaling, fitted on training rows and frozen in the model's contract.

Shapes: I training rows, N rows, F features.
"""

import numpy as np

from ml_core.contract import Scaler
from ml_core.types import Float32

LIMIT = 8.0
# The middle half of a feature may hardly move (a spread of one tick nearly always): then its tails set the scale.
FLOOR_OF_DEVIATION = 0.1


def fit_scaler(x_IF: Float32) -> Scaler:
    """Return medians and interquartile ranges of training rows; a feature without values or motion gets scale 1."""
    medians, ranges = [], []
    for f in range(x_IF.shape[1]):
        x_I = x_IF[:, f].astype(np.float64)
        x_I = x_I[np.isfinite(x_I)]
        low, median, high = np.percentile(x_I, [25, 50, 75]) if len(x_I) else (0.0, 0.0, 0.0)
        scale = max(high - low, FLOOR_OF_DEVIATION * float(x_I.std())) if len(x_I) else 0.0
        # float32, as the graph holds them
        medians.append(float(np.float32(median)))
        ranges.append(float(np.float32(scale)) if scale > 1e-6 * max(1.0, abs(median)) else 1.0)
    return Scaler(median=tuple(medians), iqr=tuple(ranges), limit=LIMIT)


def scale(x_NF: Float32, scaler: Scaler) -> Float32:
    """Return scaled rows as a model's graph scales them: clipped, NaN as 0.

    >>> scale(np.array([[3.0, np.nan]], np.float32), Scaler(median=(1, 0), iqr=(4, 1), limit=8)).tolist()
    [[0.5, 0.0]]
    """
    z_NF = (x_NF - np.array(scaler.median, np.float32)) / np.array(scaler.iqr, np.float32)
    z_NF = np.clip(z_NF, -np.float32(scaler.limit), np.float32(scaler.limit))
    return np.where(np.isnan(z_NF), np.float32(0.0), z_NF)
