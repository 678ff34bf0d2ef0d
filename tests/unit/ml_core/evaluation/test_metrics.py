import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.evaluation.metrics import (
    accuracy,
    information_coefficient,
    log_losses,
    net_edge_bps,
    ranks,
    sign_auc,
    squared_errors,
)

VALUES = st.lists(st.tuples(st.integers(-5, 5), st.integers(-3, 3)), min_size=2, max_size=40)


def test_log_loss_is_that_of_the_true_class_and_survives_large_logits():
    logits = np.array([[0, 0, 0], [1000, 0, -1000], [1000, 0, -1000]], np.float32)
    losses = log_losses(logits, np.array([[2], [0], [2]]))
    np.testing.assert_allclose(losses, [np.log(3), 0, 2000])


def test_log_loss_of_the_prior_is_its_entropy():
    prior = np.array([0.2, 0.5, 0.3])
    y = np.repeat([0, 1, 2], [20, 50, 30])[:, None]
    losses = log_losses(np.tile(np.log(prior), (100, 1)).astype(np.float32), y)
    assert losses.mean() == pytest.approx(-(prior * np.log(prior)).sum(), rel=1e-6)


def test_losses_are_means_over_horizons():
    logits = np.array([[0, 0, 0, 50, 0, 0]], np.float32)
    assert log_losses(logits, np.array([[0, 0]]))[0] == pytest.approx(np.log(3) / 2)
    assert squared_errors(np.array([[1.0, 2.0]]), np.array([[0.0, 4.0]])).tolist() == [2.5]
    assert accuracy(logits, np.array([[0, 2]])) == 0.5


@given(VALUES)
def test_auc_equals_the_count_over_all_pairs(pairs):
    score, move = (np.array(column, float) for column in zip(*pairs, strict=True))
    ups, downs = score[move > 0], score[move < 0]
    if not len(ups) or not len(downs):
        assert np.isnan(sign_auc(score, move))
        return
    wins = (ups[:, None] > downs).sum() + 0.5 * (ups[:, None] == downs).sum()
    assert sign_auc(score, move) == pytest.approx(wins / (len(ups) * len(downs)))


@given(VALUES)
def test_the_information_coefficient_is_the_correlation_of_ranks(pairs):
    score, move = (np.array(column, float) for column in zip(*pairs, strict=True))
    found = information_coefficient(score, move)
    if len(set(score)) == 1 or len(set(move)) == 1:
        assert np.isnan(found)
        return
    assert found == pytest.approx(np.corrcoef(ranks(score), ranks(move))[0, 1])


def test_the_net_edge_pays_the_fee_twice_and_skips_scores_of_zero():
    score, move = np.array([0.9, -0.1, 0.0]), np.array([2e-4, 4e-4, 9e-4])
    assert net_edge_bps(score, move, 0.0) == pytest.approx(-1.0)
    assert net_edge_bps(score, move, 1.5) == pytest.approx(-4.0)
    assert np.isnan(net_edge_bps(np.zeros(3), move, 0.0))
