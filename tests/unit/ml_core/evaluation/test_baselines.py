import numpy as np
import pytest

from ml_core.evaluation.baselines import LIMIT, choose_ridge, fit_ridge, prior_scores


def rows(seed: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z_NF = np.clip(rng.normal(size=(400, 5)), -LIMIT, LIMIT).astype(np.float32)
    y_N = 0.3 + z_NF.astype(float) @ [1.0, -1.0, 0.5, 0.0, 0.0] + noise * rng.normal(size=400)
    return z_NF, y_N, rng.uniform(0.5, 1.5, size=400).astype(np.float32)


def test_ridge_is_the_least_of_what_it_minimises() -> None:
    z_NF, y_N, weight_N = rows(0)
    line = fit_ridge(z_NF, y_N, weight_N, strength=0.2)

    def objective(slope_F: np.ndarray, mean: float) -> float:
        error_N = y_N - mean - (z_NF - line.center_F) @ slope_F
        return float(np.average(error_N**2, weights=weight_N) + 0.2 * slope_F @ slope_F)

    least = objective(line.slope_F, line.mean)
    for seed in range(20):
        nudge = 0.01 * np.random.default_rng(seed).normal(size=6)
        assert objective(line.slope_F + nudge[:5], line.mean + nudge[5]) > least


def test_the_strength_is_chosen_by_rows_that_were_not_fitted() -> None:
    clear, noisy = (choose_ridge(rows(1, noise), rows(2, noise)).strength for noise in (0.01, 50.0))

    assert clear == 0.0001
    assert noisy > 1.0


def test_a_column_that_never_moves_does_no_harm_and_a_wild_value_is_clipped() -> None:
    z_NF, y_N, weight_N = rows(3)
    z_NF[:, 4] = 0
    line = fit_ridge(z_NF, y_N, weight_N, strength=0.0)
    wild = np.array([[1e6, 0, 0, 0, 0]], np.float32)

    assert np.isfinite(line.slope_F).all()
    assert line.predict(wild) == pytest.approx(line.predict(np.array([[LIMIT, 0, 0, 0, 0]], np.float32)))


def test_the_prior_of_returns_is_their_mean() -> None:
    assert prior_scores([(0.5, 4.0), (-0.25, 1.0)], 2).tolist() == [[0.5, -0.25]] * 2
