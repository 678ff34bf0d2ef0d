import numpy as np
import pytest

from ml_core.evaluation.coverage import acting, after_costs, half_width, within
from ml_core.evaluation.curves import calibration, calibration_error, cumulative_ic, slope
from ml_core.evaluation.metrics import information_coefficient

RNG = np.random.default_rng(0)
SCORE = RNG.normal(size=2000)
RETURN = 0.5 * SCORE + RNG.normal(size=2000)


def test_what_is_said_rightly_lies_on_the_line() -> None:
    curve = calibration(0.5 * SCORE, RETURN)

    assert curve.count_K.tolist() == [200] * 10
    assert (np.abs(curve.observed_K - curve.predicted_K) < 4 * curve.spread_K / np.sqrt(200)).all()
    assert np.abs(calibration(2 * SCORE, RETURN).observed_K - calibration(2 * SCORE, RETURN).predicted_K).max() > 1


def test_probabilities_that_are_too_sure_are_found_out() -> None:
    chance_N = RNG.uniform(0.3, 0.7, size=20_000)
    came_N = RNG.random(20_000) < chance_N

    assert calibration_error(calibration(chance_N, came_N)) < 0.02
    assert calibration_error(calibration(np.where(chance_N > 0.5, 0.95, 0.05), came_N)) > 0.3


def test_equal_predictions_share_a_bin() -> None:
    curve = calibration(np.repeat([0.0, 1.0], [30, 10]), np.arange(40.0))

    assert curve.predicted_K.tolist() == [0.0, 1.0]
    assert curve.count_K.tolist() == [30, 10]


def test_the_slope_says_how_much_too_sure_predictions_are() -> None:
    assert slope(SCORE, RETURN) == pytest.approx(0.5, abs=0.1)
    assert np.isnan(slope(np.zeros(4), RETURN[:4]))


def test_the_cumulative_coefficient_ends_at_the_coefficient() -> None:
    path_N = cumulative_ic(SCORE, RETURN)

    assert len(path_N) == len(SCORE)
    assert path_N[-1] == pytest.approx(information_coefficient(SCORE, RETURN))
    assert path_N[999] == pytest.approx(path_N[-1] / 2, abs=0.05)


def test_a_width_from_validation_errors_holds_as_many_outcomes_as_it_promises() -> None:
    held = []
    for seed in range(300):
        error_N = np.random.default_rng(seed).standard_cauchy(size=60)
        held.append(within(np.zeros(10), error_N[50:], half_width(error_N[:50], 0.8)))

    assert np.mean(held) == pytest.approx(0.8, abs=0.03)
    assert half_width(np.ones(3), 0.9) == np.inf


def test_the_rows_a_model_is_surest_about_are_the_farthest_from_zero() -> None:
    one, three = acting(np.array([0.1, -3.0, 0.2, 2.0]), np.array([1e-4, -4e-4, -1e-4, 0.0]), shares=(0.25, 1.0))

    assert (one.rows, one.hits, one.edge_bps) == (1, 1.0, pytest.approx(4.0))
    assert (three.rows, three.hits, three.edge_bps) == (4, pytest.approx(2 / 3), pytest.approx(1.0))


def test_costs_are_paid_only_where_it_acts() -> None:
    cost_N = np.full(3, 1e-4)
    left = after_costs(np.array([3e-4, -3e-4, 0.5e-4]), np.array([4e-4, 2e-4, 90e-4]), cost_N)

    assert left.share == pytest.approx(2 / 3)
    assert (left.edge_bps, left.total_bps) == (pytest.approx(0.0), pytest.approx(0.0))
    assert np.isnan(after_costs(np.zeros(3), np.ones(3), cost_N).edge_bps)
