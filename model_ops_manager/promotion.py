"""The rule that decides which version serves: a pure function of losses on rows neither model was trained on.

Shapes: N rows. Losses are proper (log loss in nats, or squared error), lower is better.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ml_core.spec import Gate
from ml_core.types import Float64, Int64

# Below this many independent blocks a mean difference says nothing.
MIN_BLOCKS = 8
# A block spans several label horizons, so that neighbouring blocks share few labels.
HORIZONS_A_BLOCK = 4
MAX_BLOCKS = 64


class Decision(NamedTuple):
    """Whether a version takes the alias, in words and in figures."""

    promote: bool
    reason: str
    figures: dict[str, Any]


def block_means(difference_N: Float64, ts_ns_N: Int64, look_ahead_ns: int) -> Float64:
    """Return the mean of each time block, (blocks,): equally long, at least ``HORIZONS_A_BLOCK`` look-aheads each.

    Losses of neighbouring rows share ticks, so rows are not independent; blocks longer than the label nearly are.

    >>> block_means(np.array([1.0, 3.0, 5.0]), np.array([0, 1, 100]), 10).tolist()
    [2.0, 5.0]
    """
    if not len(ts_ns_N):
        return np.empty(0)
    span_ns = int(ts_ns_N.max() - ts_ns_N.min()) + 1
    width_ns = max(HORIZONS_A_BLOCK * look_ahead_ns, -(-span_ns // MAX_BLOCKS))
    block_N = (ts_ns_N - ts_ns_N.min()) // width_ns
    count_B = np.bincount(block_N)
    sum_B = np.bincount(block_N, weights=difference_N)
    means: Float64 = sum_B[count_B > 0] / count_B[count_B > 0]
    return means


def p_value(means_B: Float64) -> float:
    """Return the one-sided p-value of a sign-flip test that the blocks' mean is not below zero.

    Exact under symmetry of the blocks' differences whatever their distribution; 4,095 flips of a fixed seed.
    Source: Ernst, "Permutation Methods: A Basis for Exact Inference", Statistical Science 19(4), 2004.
    """
    signs_FB = np.random.default_rng(0).choice([-1.0, 1.0], size=(4095, len(means_B)))
    flipped_F = signs_FB @ means_B
    return float((1 + np.count_nonzero(flipped_F <= means_B.sum() + 1e-15)) / (1 + len(flipped_F)))


def decide(
    candidate_N: Float64, rival_N: Float64, ts_ns_N: Int64, *, rival: str, look_ahead_ns: int, gate: Gate
) -> Decision:
    """Return whether the candidate takes over from its rival, the champion or, for a first model, the class prior.

    Its mean loss must lie below the rival's by more than ``gate.margin`` of it, and by more than chance explains.

    Args:
        candidate_N: Loss of each row.
        rival_N: Loss of the rival on the same rows.
        ts_ns_N: Event time of the rows.
        rival: What the rival is called in the reason.
        look_ahead_ns: Delay plus longest horizon of the label.
        gate: Margin, level and who approves.
    """
    if not len(candidate_N):
        return Decision(False, f"no rows that neither the candidate nor {rival} was trained on", {"rows": 0})
    needed_N = candidate_N - rival_N * (1 - gate.margin)
    means_B = block_means(needed_N, ts_ns_N, look_ahead_ns)
    candidate, other = float(candidate_N.mean()), float(rival_N.mean())
    figures: dict[str, Any] = {
        "rival": rival,
        "rows": len(candidate_N),
        "blocks": len(means_B),
        "candidate_loss": candidate,
        "rival_loss": other,
        "margin": gate.margin,
    }
    if not (math.isfinite(candidate) and math.isfinite(other)):
        return Decision(False, "a loss is not finite", figures)
    said = f"loss {candidate:.5f} against {other:.5f} of {rival} on {len(candidate_N)} rows in {len(means_B)} blocks"
    if len(means_B) < MIN_BLOCKS:
        return Decision(False, f"too few independent blocks to tell (at least {MIN_BLOCKS}): {said}", figures)
    figures["p_value"] = p_value(means_B)
    said = f"{said}, p {figures['p_value']:.4f}"
    if candidate >= other * (1 - gate.margin):
        return Decision(False, f"not better by the margin of {gate.margin:.2%}: {said}", figures)
    if figures["p_value"] >= gate.alpha:
        return Decision(False, f"could be chance at alpha {gate.alpha}: {said}", figures)
    if gate.approve == "manual":
        return Decision(False, f"better, awaiting approval: {said}", figures)
    return Decision(True, f"better: {said}", figures)
