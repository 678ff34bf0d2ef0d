import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.spec import Gate
from ml_core.types import SECOND_NS
from model_ops_manager.promotion import block_sums, decide, needed_blocks, p_value

HORIZON_NS = SECOND_NS
START_NS = 1_700_000_000 * SECOND_NS


def losses(mean: float, *, seconds: int = 100, noise: float = 0.05, seed: int = 0):
    """Ten rows a second; both sides share the difficulty of each second, as real losses do."""
    ts_ns_N = START_NS + np.arange(seconds * 10) * (SECOND_NS // 10)
    hard_N = np.repeat(np.random.default_rng(99).normal(0, 0.3, seconds), 10)
    return mean + hard_N + np.random.default_rng(seed).normal(0, noise, len(ts_ns_N)), ts_ns_N


def judge(candidate: float, rival: float, *, seconds: int = 100, **gate):
    candidate_N, ts_ns_N = losses(candidate, seconds=seconds, seed=1)
    rival_N, _ = losses(rival, seconds=seconds, seed=2)
    return decide(
        candidate_N, rival_N, ts_ns_N, rival="version 1", look_ahead_ns=HORIZON_NS, gate=Gate.model_validate(gate)
    )


def test_a_clearly_better_candidate_is_promoted_with_its_figures():
    decision = judge(0.9, 1.0)

    assert decision.promote
    assert decision.reason.startswith("better: loss 0.")
    assert decision.figures["passed"]
    assert decision.figures["rows"] == 1000
    assert decision.figures["blocks"] == 50
    assert decision.figures["candidate_loss"] == pytest.approx(0.9, abs=0.1)
    assert decision.figures["rival_loss"] - decision.figures["candidate_loss"] == pytest.approx(0.1, abs=0.01)
    assert decision.figures["p_value"] < 0.001


@pytest.mark.parametrize(
    ("candidate", "rival", "gate", "reason"),
    [
        (1.0, 0.9, {}, "not better:"),
        (1.0, 1.0, {"margin": "1%"}, "not better by the margin of 1.00%"),
        (0.96, 1.0, {"margin": "10%"}, "not better by the margin of 10.00%"),
        (0.9, 1.0, {"approve": "manual"}, "better, awaiting approval"),
    ],
)
def test_what_is_not_promoted_says_why(candidate, rival, gate, reason):
    decision = judge(candidate, rival, **gate)
    assert not decision.promote
    assert decision.reason.startswith(reason)


def test_a_difference_that_chance_explains_is_not_promoted():
    rng = np.random.default_rng(3)
    ts_ns_N = START_NS + np.arange(1000) * (SECOND_NS // 10)
    swings_N = np.repeat(rng.normal(0, 1, 50), 20)  # large swings, one every two seconds
    swings_N -= swings_N.mean() + 0.01
    decision = decide(1.0 + swings_N, np.ones(1000), ts_ns_N, rival="version 1", look_ahead_ns=HORIZON_NS, gate=Gate())
    assert decision.figures["candidate_loss"] < decision.figures["rival_loss"]
    assert not decision.promote
    assert decision.reason.startswith("could be chance at alpha 0.05")


def test_too_few_blocks_of_time_are_said_and_promote_nothing_however_many_rows_they_hold():
    decision = judge(0.5, 1.0, seconds=8)
    assert decision.figures["blocks"] == 4
    assert not decision.promote
    assert decision.reason.startswith("too few blocks to tell, 5 are needed at alpha 0.05")
    assert judge(0.5, 1.0, seconds=10).promote


def test_no_common_rows_promote_nothing():
    none = np.empty(0)
    decision = decide(none, none, none.astype(np.int64), rival="version 3", look_ahead_ns=HORIZON_NS, gate=Gate())
    assert (decision.promote, decision.figures) == (False, {"rows": 0})
    assert "nor version 3 was trained on" in decision.reason


def test_a_loss_that_is_not_finite_promotes_nothing():
    candidate_N, ts_ns_N = losses(0.5)
    candidate_N[7] = np.nan
    rival_N, _ = losses(1.0)
    decision = decide(candidate_N, rival_N, ts_ns_N, rival="x", look_ahead_ns=HORIZON_NS, gate=Gate())
    assert (decision.promote, decision.reason[:20]) == (False, "a loss is not finite")


def test_a_burst_of_rows_in_one_second_is_one_block():
    # 90% of the rows, all good, lie in one second: sums weigh them, the signs of blocks do not
    ts_ns_N = np.concatenate([np.zeros(900), np.arange(100) * SECOND_NS]).astype(np.int64) + START_NS
    candidate_N = np.concatenate([np.full(900, 0.5), np.full(100, 1.01)])
    decision = decide(candidate_N, np.ones(1000), ts_ns_N, rival="x", look_ahead_ns=HORIZON_NS, gate=Gate())
    assert not decision.promote
    assert decision.reason.startswith("could be chance")


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_rows_never_matters(excess, random):
    ts_ns_N = np.arange(len(excess)) * SECOND_NS
    places = list(range(len(excess)))
    random.shuffle(places)
    excess_N = np.array(excess)
    np.testing.assert_allclose(
        block_sums(excess_N, ts_ns_N, HORIZON_NS),
        block_sums(excess_N[places], ts_ns_N[places], HORIZON_NS),
        atol=1e-12,
    )


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40))
def test_a_p_value_is_a_share_and_small_only_where_the_total_is_low(sums):
    value = p_value(np.array(sums))
    assert 0 < value <= 1
    if sum(sums) > 0:
        assert value >= 0.45


def test_under_no_difference_the_level_is_kept():
    rng = np.random.default_rng(0)
    assert np.mean([p_value(rng.normal(size=10)) < 0.05 for _ in range(2000)]) == pytest.approx(0.05, abs=0.015)
    assert np.mean([p_value(rng.normal(size=20)) < 0.05 for _ in range(300)]) == pytest.approx(0.05, abs=0.035)


@pytest.mark.parametrize(("alpha", "blocks"), [(0.05, 5), (0.5, 2), (0.01, 7), (0.9, 1)])
def test_blocks_needed_are_those_whose_signs_can_reach_the_level(alpha, blocks):
    assert needed_blocks(alpha) == blocks
    assert p_value(np.full(blocks, -1.0)) < alpha
    if blocks > 1:
        assert p_value(np.full(blocks - 1, -1.0)) >= alpha
