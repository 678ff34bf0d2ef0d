"""How far a figure may be off by chance, where neighbouring rows share the ticks of their labels: blocks of time.

Shapes: N rows, B blocks, D draws, S = 6 sums of a block.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ml_core.evaluation.metrics import ranks
from ml_core.types import Float64, Int64

LOOK_AHEADS_A_BLOCK = 2  # labels of rows in blocks that are not neighbours share no tick
MAX_BLOCKS = 64  # where there is more time, longer blocks take in slower swings too
MIN_BLOCKS = 5
DRAWS = 2000
LEVEL = 0.95

Statistic = Callable[[Float64], Float64]  # weights of the blocks (D, B) -> the figure of each draw (D,)


class Interval(NamedTuple):
    """Where a figure lies at `LEVEL`; without ends, why there are none."""

    low: float | None
    high: float | None
    blocks: int
    reason: str | None = None


def time_blocks(ts_ns_N: Int64, look_ahead_ns: int) -> Int64:
    """Return the number of the block of time that each row is in (N,), from 0 and without holes.

    A block is at least two look-aheads long and at most as short as makes `MAX_BLOCKS` of them. Time without rows,
    such as a night, makes no block.

    >>> time_blocks(np.array([0, 19, 20, 500]), 10).tolist()
    [0, 0, 1, 2]
    """
    width_ns = LOOK_AHEADS_A_BLOCK * look_ahead_ns
    times_T, time_N = np.unique((ts_ns_N - ts_ns_N.min()) // width_ns, return_inverse=True)
    return np.asarray(time_N // -(-len(times_T) // MAX_BLOCKS), dtype=np.int64)


def correlation(
    score_N: npt.NDArray[np.floating], return_N: Float64, block_N: Int64, *, by_rank: bool = True, seed: int = 0
) -> Interval:
    """Return the interval of the correlation of scores and returns: Spearman's by rank, else Pearson's."""
    return interval([correlation_of(score_N, return_N, block_N, by_rank=by_rank)], blocks_of(block_N), seed=seed)


def difference(
    score_N: npt.NDArray[np.floating],
    rival_N: npt.NDArray[np.floating],
    return_N: Float64,
    block_N: Int64,
    *,
    by_rank: bool = True,
    seed: int = 0,
) -> Interval:
    """Return the interval of how much higher scores correlate with returns than those of a rival on the same rows.

    Both are measured on the same draws of blocks, so that what both find easy or hard cancels.
    """
    sums_BS, rival_BS = (_sums(each_N, return_N, block_N, by_rank) for each_N in (score_N, rival_N))

    def ahead(weight_DB: Float64) -> Float64:
        return _correlations(weight_DB @ sums_BS) - _correlations(weight_DB @ rival_BS)

    return interval([ahead], len(sums_BS), seed=seed)


def blocks_of(block_N: Int64) -> int:
    """Return how many blocks the rows are in."""
    return int(block_N.max()) + 1


def correlation_of(
    score_N: npt.NDArray[np.floating], return_N: Float64, block_N: Int64, *, by_rank: bool = True
) -> Statistic:
    """Return the correlation of scores and returns as a statistic; ranks are those among all rows."""
    sums_BS = _sums(score_N, return_N, block_N, by_rank)
    return lambda weight_DB: _correlations(weight_DB @ sums_BS)


def mean_of(value_N: npt.NDArray[np.floating], block_N: Int64, blocks: int) -> Statistic:
    """Return the mean over rows as a statistic; ``blocks`` of all rows, where these are some of them."""
    sum_B = np.bincount(block_N, weights=value_N.astype(np.float64), minlength=blocks)
    count_B = np.bincount(block_N, minlength=blocks).astype(np.float64)

    def mean(weight_DB: Float64) -> Float64:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((weight_DB @ sum_B) / (weight_DB @ count_B))

    return mean


def sign_auc_of(score_N: npt.NDArray[np.floating], return_N: Float64, block_N: Int64) -> Statistic:
    """Return ``metrics.sign_auc`` as a statistic: rises of every block against falls of every block."""
    blocks = blocks_of(block_N)
    up_N, down_N = return_N > 0, return_N < 0
    ups_B, downs_B = (np.bincount(block_N[of_N], minlength=blocks).astype(np.float64) for of_N in (up_N, down_N))
    values_K, rank_N = np.unique(score_N, return_inverse=True)  # K unequal scores
    won_BB = np.zeros((blocks, blocks))
    for block in range(blocks):
        fallen_K = np.bincount(rank_N[down_N & (block_N == block)], minlength=len(values_K))
        beaten_K = np.cumsum(fallen_K) - fallen_K / 2
        won_BB[:, block] = np.bincount(block_N[up_N], weights=beaten_K[rank_N[up_N]], minlength=blocks)

    def auc(weight_DB: Float64) -> Float64:
        with np.errstate(invalid="ignore", divide="ignore"):
            won_D = ((weight_DB @ won_BB) * weight_DB).sum(axis=1)
            return np.asarray(won_D / ((weight_DB @ ups_B) * (weight_DB @ downs_B)))

    return auc


def interval(statistics: Sequence[Statistic], blocks: int, *, seed: int = 0) -> Interval:
    """Return the interval of the mean of ``statistics``, all on the same draws of blocks with replacement.

    Equal arguments give equal intervals.

    Source: Carlstein 1986, The use of subseries values for estimating the variance of a general statistic.
    """
    if blocks < MIN_BLOCKS:
        return Interval(None, None, blocks, f"{blocks} blocks of time, {MIN_BLOCKS} are needed")

    def statistic(weight_DB: Float64) -> Float64:
        return np.asarray(np.mean([each(weight_DB) for each in statistics], axis=0))

    rng = np.random.default_rng(seed)
    drawn_D = statistic(rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=DRAWS).astype(np.float64))
    middle = float(statistic(np.ones((1, blocks)))[0])
    if not (np.isfinite(middle) and np.isfinite(drawn_D).mean() > LEVEL):
        return Interval(None, None, blocks, "it is not defined: scores or returns do not change")
    low, high = np.nanquantile(drawn_D, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # draws of few blocks spread too little, by this factor for a mean
    wider = np.sqrt(blocks / (blocks - 1))
    return Interval(float(middle + wider * (low - middle)), float(middle + wider * (high - middle)), blocks)


def _sums(score_N: npt.NDArray[np.floating], return_N: Float64, block_N: Int64, by_rank: bool) -> Float64:
    """Return what a correlation is made of, for each block."""
    a_N, b_N = (ranks(each_N) if by_rank else each_N.astype(np.float64) for each_N in (score_N, return_N))
    a_N, b_N = (_standard(each_N) for each_N in (a_N, b_N))
    terms = (np.ones(len(a_N)), a_N, b_N, a_N * a_N, b_N * b_N, a_N * b_N)
    blocks = blocks_of(block_N)
    return np.stack([np.bincount(block_N, weights=term_N, minlength=blocks) for term_N in terms], axis=1)


def _standard(value_N: Float64) -> Float64:
    """Return values of mean 0 and variance 1: sums of raw squares of returns would lose digits."""
    apart_N = value_N - value_N.mean()
    scale = apart_N.std()
    return np.asarray(apart_N / scale if scale else apart_N)


def _correlations(sums_DS: Float64) -> Float64:
    count_D, a_D, b_D, aa_D, bb_D, ab_D = sums_DS.T
    with np.errstate(invalid="ignore", divide="ignore"):
        spread_D = (aa_D - a_D * a_D / count_D) * (bb_D - b_D * b_D / count_D)
        return np.asarray((ab_D - a_D * b_D / count_D) / np.sqrt(np.where(spread_D > 0, spread_D, np.nan)))
