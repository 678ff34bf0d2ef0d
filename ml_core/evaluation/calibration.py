"""How far a model's probabilities may stray from the class prior, as validation rows allow it.

Shapes: N rows, H horizons, C = 3 classes a horizon, O = H * C outputs.
"""

import numpy as np

from ml_core.types import Float32, Float64, Int64

MOST = 2.0
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
_STEPS = 40  # narrows [0, MOST] to a width of 1e-8


def stray_factors(y_NO: Float32, shift_O: Float64, label_NH: Int64, weight_N: Float32) -> Float64:
    """Return the factor (H,) in [0, 2] for the distance of the logits from the log prior that makes log loss least.

    A network that was trained on one stretch of a market is too sure of itself on the next; 0 says nothing but the
    prior. The loss is convex in the factor, so a golden section finds the least one.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, with the prior in place of zero.

    Args:
        y_NO: Logits of validation rows, horizon after horizon.
        shift_O: Log prior.
        label_NH: Classes.
        weight_N: Weights of the rows.
    """
    factors = []
    for horizon, label_N in enumerate(label_NH.T):
        here = slice(3 * horizon, 3 * horizon + 3)
        prior_C = shift_O[here]
        given = (y_NO[:, here].astype(np.float64) - prior_C, prior_C, label_N, weight_N)
        low, high = 0.0, MOST
        for _ in range(_STEPS):
            left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
            low, high = (low, right) if _loss(left, *given) <= _loss(right, *given) else (left, high)
        factors.append((low + high) / 2)
    return np.array(factors)


def _loss(factor: float, stray_NC: Float64, prior_C: Float64, label_N: Int64, weight_N: Float32) -> float:
    logit_NC = prior_C + factor * stray_NC
    top_N = logit_NC.max(axis=1)
    total_N = top_N + np.log(np.exp(logit_NC - top_N[:, None]).sum(axis=1))
    return float(np.average(total_N - logit_NC[np.arange(len(label_N)), label_N], weights=weight_N))
