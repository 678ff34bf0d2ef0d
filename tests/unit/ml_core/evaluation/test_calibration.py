import numpy as np
import pytest

from ml_core.evaluation.calibration import MOST, stray_factors

PRIOR = np.log(np.array([0.3, 0.4, 0.3]))


def drawn(stray_NC: np.ndarray, seed: int = 0) -> np.ndarray:
    """Classes drawn from the probabilities that the prior and ``stray_NC`` stand for."""
    weight_NC = np.exp(PRIOR + stray_NC)
    share_NC = (weight_NC / weight_NC.sum(axis=1, keepdims=True)).cumsum(axis=1)
    return (np.random.default_rng(seed).random((len(stray_NC), 1)) > share_NC).sum(axis=1)[:, None]


def factor(said_NC: np.ndarray, label_NH: np.ndarray) -> float:
    weight_N = np.ones(len(said_NC), np.float32)
    (found,) = stray_factors((PRIOR + said_NC).astype(np.float32), PRIOR, label_NH, weight_N)
    return float(found)


@pytest.mark.parametrize("confidence", [0.7, 1.0, 3.0])
def test_a_model_that_is_too_sure_or_too_shy_is_set_right(confidence: float) -> None:
    true_NC = np.random.default_rng(1).normal(size=(20_000, 3))

    assert factor(true_NC * confidence, drawn(true_NC)) == pytest.approx(1 / confidence, abs=0.05)


def test_a_model_that_knows_nothing_says_the_prior() -> None:
    noise_NC = np.random.default_rng(2).normal(size=(20_000, 3))

    assert factor(noise_NC, drawn(np.zeros((20_000, 3)))) < 0.05


def test_a_model_that_is_always_wrong_is_never_turned_round() -> None:
    true_NC = np.random.default_rng(3).normal(size=(5_000, 3))

    assert factor(-true_NC, drawn(true_NC)) == pytest.approx(0.0, abs=1e-6)


def test_the_factor_is_bounded() -> None:
    true_NC = np.random.default_rng(4).normal(size=(5_000, 3))

    assert factor(true_NC * 0.01, drawn(true_NC)) == pytest.approx(MOST, abs=1e-6)


def test_every_horizon_has_a_factor_of_its_own() -> None:
    true_NC = np.random.default_rng(5).normal(size=(20_000, 3))
    said_NO = np.hstack([PRIOR + true_NC, PRIOR + 2 * true_NC]).astype(np.float32)
    label_NH = np.hstack([drawn(true_NC, 6), drawn(true_NC, 7)])

    factor_H = stray_factors(said_NO, np.tile(PRIOR, 2), label_NH, np.ones(20_000, np.float32))

    assert factor_H == pytest.approx([1.0, 0.5], abs=0.05)
