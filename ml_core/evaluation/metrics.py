"""How good outputs and scores are, on rows a model was not trained on.

Shapes: N samples, H horizons.
"""

import numpy as np
import numpy.typing as npt

from ml_core.types import Float32, Float64, Int64


def log_losses(logits_NO: Float32, y_NH: Int64) -> Float64:
    """Return the log loss of each sample, nats, mean over horizons (N,).

    Args:
        logits_NO: (down, flat, up) a horizon, horizon after horizon.
        y_NH: Classes 0, 1, 2.
    """
    logits_NHC = logits_NO.astype(np.float64).reshape(*y_NH.shape, 3)
    logits_NHC = logits_NHC - logits_NHC.max(axis=2, keepdims=True)
    log_sum_NH = np.log(np.exp(logits_NHC).sum(axis=2))
    chosen_NH = np.take_along_axis(logits_NHC, y_NH[:, :, None].astype(np.int64), axis=2)[:, :, 0]
    return np.asarray((log_sum_NH - chosen_NH).mean(axis=1), dtype=np.float64)


def squared_errors(prediction_NH: npt.NDArray[np.floating], y_NH: npt.NDArray[np.floating]) -> Float64:
    """Return the squared error of each sample, mean over horizons (N,); in squared log returns."""
    return np.asarray(((prediction_NH.astype(np.float64) - y_NH) ** 2).mean(axis=1), dtype=np.float64)


def accuracy(logits_NO: Float32, y_NH: Int64) -> float:
    """Return the share of samples and horizons whose most likely class is the true one."""
    return float((logits_NO.reshape(*y_NH.shape, 3).argmax(axis=2) == y_NH).mean())


def ranks(value_N: npt.NDArray[np.floating]) -> Float64:
    """Return the ranks of values, from 1; equal values share the mean of their ranks.

    >>> ranks(np.array([10.0, 30.0, 10.0])).tolist()
    [1.5, 3.0, 1.5]
    """
    _, inverse_N, count = np.unique(value_N, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[inverse_N], dtype=np.float64)


def sign_auc(score_N: npt.NDArray[np.floating], return_N: Float64) -> float:
    """Return how often a score before a rise exceeds one before a fall, ties counting half.

    Samples without a move are left out; NaN where there was no rise or no fall.
    Source: the rank form of Mann and Whitney, 1947.

    >>> sign_auc(np.array([0.1, 0.9, 0.5]), np.array([-1e-4, 2e-4, 0.0]))
    1.0
    """
    moved_N = return_N != 0
    up_N = return_N[moved_N] > 0
    ups, downs = int(up_N.sum()), int((~up_N).sum())
    if not ups or not downs:
        return float("nan")
    return float((ranks(score_N[moved_N])[up_N].sum() - ups * (ups + 1) / 2) / (ups * downs))


def information_coefficient(score_N: npt.NDArray[np.floating], return_N: Float64) -> float:
    """Return Spearman's rank correlation of scores and returns; NaN where either never changes.

    Ranks, because one sweep of the book may hold half of the variance of the returns.

    >>> information_coefficient(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 9.0]))
    1.0
    """
    a, b = ranks(score_N) - (len(score_N) + 1) / 2, ranks(return_N) - (len(return_N) + 1) / 2
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else float("nan")


def pearson(score_N: npt.NDArray[np.floating], return_N: Float64) -> float:
    """Return the linear correlation of scores and returns; NaN where either never changes.

    >>> round(pearson(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 9.0])), 3)
    0.871
    """
    a_N, b_N = score_N.astype(np.float64), return_N.astype(np.float64)
    if not len(a_N) or np.ptp(a_N) == 0 or np.ptp(b_N) == 0:
        return float("nan")
    a_N, b_N = a_N - a_N.mean(), b_N - b_N.mean()
    scale = float(np.sqrt((a_N @ a_N) * (b_N @ b_N)))
    return float(a_N @ b_N) / scale if scale else float("nan")


def winsorised(value_N: npt.NDArray[np.floating], share: float = 0.01) -> Float64:
    """Return values with the lowest and the highest ``share`` of them pulled in to where that share begins.

    >>> winsorised(np.array([-9.0, 0.0, 1.0, 2.0, 50.0]), share=0.25).tolist()
    [0.0, 0.0, 1.0, 2.0, 2.0]
    """
    low, high = np.quantile(value_N, [share, 1 - share])
    return np.asarray(np.clip(value_N, low, high), dtype=np.float64)


def r2_against_zero(prediction_N: npt.NDArray[np.floating], return_N: Float64) -> float:
    """Return the share of the squared returns that predictions explain, where 0 is to predict no move.

    Below 0 where they are worse than that; NaN where nothing moved.

    >>> r2_against_zero(np.array([1.0, 0.0]), np.array([1.0, -1.0]))
    0.5
    """
    total = float(return_N @ return_N)
    error_N = return_N - prediction_N
    return 1 - float(error_N @ error_N) / total if total else float("nan")


def net_edge_bps(score_N: npt.NDArray[np.floating], return_N: Float64, fee_bps: float) -> float:
    """Return the mean gain, bps, of a position in the direction of each score.

    The fee is paid twice, going in and going out. Samples with score 0 are left out; NaN where none is left.

    >>> round(net_edge_bps(np.array([0.5, -0.5]), np.array([3e-4, 1e-4]), fee_bps=0.25), 6)
    0.5
    """
    taken_N = score_N != 0
    if not taken_N.any():
        return float("nan")
    return float((np.sign(score_N[taken_N]) * return_N[taken_N]).mean() * 1e4 - 2 * fee_bps)
