import numpy as np
import pytest

from ml_core.evaluation.bootstrap import (
    MAX_BLOCKS,
    Interval,
    correlation,
    difference,
    interval,
    mean_of,
    sign_auc_of,
    time_blocks,
)
from ml_core.evaluation.metrics import information_coefficient, pearson, sign_auc


def noise(rows: int, memory: float, seed: int) -> np.ndarray:
    """AR(1) of variance 1."""
    shock_N = np.random.default_rng(seed).normal(size=rows) * np.sqrt(1 - memory**2)
    value_N = np.empty(rows)
    value_N[0] = shock_N[0] / np.sqrt(1 - memory**2)
    for i in range(1, rows):
        value_N[i] = memory * value_N[i - 1] + shock_N[i]
    return value_N


def pairs(seed: int, rows: int = 320) -> tuple[np.ndarray, np.ndarray]:
    return noise(rows, 0.8, 2 * seed), noise(rows, 0.8, 2 * seed + 1)


def caught(block_N: np.ndarray, trials: int) -> float:
    """How often the interval of two series without relation holds 0."""
    found = [correlation(*pairs(seed), block_N) for seed in range(trials)]
    return float(np.mean([each.low <= 0 <= each.high for each in found]))


def test_the_interval_of_noise_with_memory_holds_the_truth_as_often_as_it_says() -> None:
    ts_N = np.arange(320)

    assert 0.89 <= caught(time_blocks(ts_N, 5), trials=100) <= 0.99
    # a row a block, as if neighbours knew nothing of each other, is far too sure
    assert caught(ts_N, trials=25) < 0.85


def test_a_difference_to_a_rival_that_is_like_oneself_is_narrower_than_either_interval() -> None:
    return_N, other_N = pairs(3)
    score_N = return_N + 2 * other_N
    block_N = time_blocks(np.arange(320), 5)

    apart = difference(score_N, score_N + 0.1 * noise(320, 0.0, 9), return_N, block_N)
    alone = correlation(score_N, return_N, block_N)

    assert apart.high - apart.low < 0.2 * (alone.high - alone.low)


def test_a_better_model_is_better_whichever_is_named_first() -> None:
    return_N, other_N = pairs(4)
    good_N, bad_N, block_N = return_N + other_N, return_N + 4 * other_N, time_blocks(np.arange(320), 5)

    better = difference(good_N, bad_N, return_N, block_N, by_rank=False)
    worse = difference(bad_N, good_N, return_N, block_N, by_rank=False)

    assert better.low > 0
    assert (worse.low, worse.high) == pytest.approx((-better.high, -better.low))


@pytest.mark.parametrize("by_rank", [True, False])
def test_an_interval_lies_around_the_figure(by_rank: bool) -> None:
    return_N, other_N = pairs(5)
    score_N = return_N * 1e-4 + 1e-4 * other_N + 7.0  # an offset that would eat the digits of raw squares
    found = correlation(score_N, return_N * 1e-5, time_blocks(np.arange(320), 5), by_rank=by_rank)
    figure = (information_coefficient if by_rank else pearson)(score_N, return_N)

    assert found.low < figure < found.high
    assert found.high - found.low < 0.4


def test_without_enough_blocks_there_is_no_interval_but_a_reason() -> None:
    ts_N = np.arange(80)

    assert len(set(time_blocks(ts_N, 10))) == 4
    found = correlation(*(each[:80] for each in pairs(6)), time_blocks(ts_N, 10))
    assert found == Interval(None, None, 4, "4 blocks of time, 5 are needed")


def test_scores_that_never_change_have_no_interval() -> None:
    return_N, _ = pairs(7)
    found = correlation(np.zeros(320), return_N, time_blocks(np.arange(320), 5))

    assert (found.low, found.high) == (None, None)
    assert "do not change" in found.reason


def test_blocks_are_two_look_aheads_long_skip_the_night_and_are_not_too_many() -> None:
    day_N = np.arange(0, 100, 5)
    ts_N = np.concatenate([day_N, day_N + 10_000])

    assert np.bincount(time_blocks(ts_N, 10)).tolist() == [4] * 10
    assert time_blocks(np.arange(10_000), 10).max() < MAX_BLOCKS


def test_equal_arguments_give_equal_intervals() -> None:
    both, block_N = pairs(8), time_blocks(np.arange(320), 5)

    assert correlation(*both, block_N) == correlation(*both, block_N)
    assert correlation(*both, block_N) != correlation(*both, block_N, seed=1)


def test_blocks_that_are_drawn_twice_count_as_if_their_rows_were_there_twice() -> None:
    score_N, return_N = pairs(9, rows=60)
    score_N = np.round(score_N, 1)  # ties count half
    return_N[::7] = 0.0
    block_N = np.arange(60) // 10
    weight_DB = np.array([[1, 1, 1, 1, 1, 1], [0, 3, 1, 0, 0, 2]], dtype=np.float64)

    auc_D, mean_D = sign_auc_of(score_N, return_N, block_N)(weight_DB), mean_of(return_N, block_N, 6)(weight_DB)

    for weight_B, auc, mean in zip(weight_DB.astype(np.int64), auc_D, mean_D, strict=True):
        drawn_N = np.repeat(np.arange(60), weight_B[block_N])
        assert auc == pytest.approx(sign_auc(score_N[drawn_N], return_N[drawn_N]))
        assert mean == pytest.approx(return_N[drawn_N].mean())


def test_a_mean_over_horizons_is_drawn_from_the_same_blocks_and_noise_that_cancels_does_not_widen_it() -> None:
    return_N, _ = pairs(10)
    block_N = time_blocks(np.arange(320), 5)
    of_N, against_N = (mean_of(sign * return_N, block_N, 32) for sign in (1, -1))

    both, alone = interval([of_N, against_N], 32), interval([of_N], 32)

    assert (both.low, both.high) == pytest.approx((0, 0), abs=1e-12)
    assert alone.low < return_N.mean() < alone.high
