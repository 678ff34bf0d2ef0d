"""The rule that decides which version serves: a pure function of losses on rows neither side was trained on.

Losses are proper (log loss in nats, or squared error); lower is better. Shapes: N rows, B time blocks.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ml_core.spec import Gate
from ml_core.types import Float64, Int64

# Labels of neighbouring rows share ticks. Means of blocks twice as long as a label looks ahead are correlated by about
# 0.1 where losses move with returns, which widens their spread by a tenth; shorter blocks are correlated by more.
LOOK_AHEADS_A_BLOCK = 2
MAX_BLOCKS = 64  # where there is more time, neighbours are joined and so take in slower swings too
_EXACT_BLOCKS = 12  # up to here all 2^B signs are tried
_DRAWS = 10_000


class Decision(NamedTuple):
    """Whether a version takes the alias, in words and in figures (JSON)."""

    promote: bool
    reason: str
    figures: dict[str, Any]


def decide(
    candidate_N: Float64, rival_N: Float64, ts_ns_N: Int64, *, rival: str, look_ahead_ns: int, gate: Gate
) -> Decision:
    """Return whether the candidate takes over from its rival: the champion or, for a first model, the class prior.

    Its mean loss must lie below the rival's by more than ``gate.margin`` of it, and by more than chance explains.

    Args:
        candidate_N: Loss of each row.
        rival_N: Loss of the rival on the same rows.
        ts_ns_N: Event time of the rows, in any order.
        rival: What the rival is called in the reason.
        look_ahead_ns: Delay plus longest horizon of the label.
        gate: Margin, level and who approves.
    """
    if not len(candidate_N):
        return Decision(False, f"no rows that neither the candidate nor {rival} was trained on", {"rows": 0})
    candidate, other = float(candidate_N.mean()), float(rival_N.mean())
    if not (math.isfinite(candidate) and math.isfinite(other)):
        return Decision(False, "a loss is not finite", {"rows": len(candidate_N)})
    excess_B = block_sums(candidate_N - (1 - gate.margin) * rival_N, ts_ns_N, look_ahead_ns)
    figures: dict[str, Any] = {
        "rival": rival,
        "rows": len(candidate_N),
        "blocks": len(excess_B),
        "candidate_loss": candidate,
        "rival_loss": other,
        "margin": gate.margin,
        "alpha": gate.alpha,
        "p_value": p_value(excess_B),
    }
    said = (
        f"loss {candidate:.5f} against {other:.5f} of {rival} "
        f"on {figures['rows']} rows in {figures['blocks']} blocks of time, p = {figures['p_value']:.4f}"
    )
    objection = _objection(figures, gate)
    if objection is not None:
        return Decision(False, f"{objection}: {said}", {**figures, "passed": False})
    if gate.approve == "manual":
        return Decision(False, f"better, awaiting approval: {said}", {**figures, "passed": True})
    return Decision(True, f"better: {said}", {**figures, "passed": True})


def needed_blocks(alpha: float) -> int:
    """Return the fewest blocks whose signs alone can be less likely than ``alpha``.

    >>> needed_blocks(0.05)
    5
    """
    return math.floor(-math.log2(alpha)) + 1


def block_sums(excess_N: Float64, ts_ns_N: Int64, look_ahead_ns: int) -> Float64:
    """Return the sums (B,) over blocks of equal time in which there were rows; nights and week-ends make none.

    Sums, not means: their mean has the sign of the mean over rows, however unevenly rows lie in time.

    >>> block_sums(np.array([1.0, 3.0, 5.0]), np.array([0, 1, 100]), 10).tolist()
    [4.0, 5.0]
    """
    width_ns = LOOK_AHEADS_A_BLOCK * look_ahead_ns
    times_T, time_N = np.unique((ts_ns_N - ts_ns_N.min()) // width_ns, return_inverse=True)
    joined = -(-len(times_T) // MAX_BLOCKS)
    return np.bincount(time_N // joined, weights=excess_N).astype(np.float64)


def p_value(sums_B: Float64) -> float:
    """Return how often random signs of the blocks give a total as low as theirs: one-sided, small where it is low.

    Exact where blocks are independent and symmetric around a total of zero, whatever their distribution. Equal
    arguments give equal values.

    Source: Ernst, "Permutation Methods: A Basis for Exact Inference", Statistical Science 19(4), 2004.

    >>> p_value(np.array([-1.0, -2.0, -1.5, -1.0, -3.0]))
    0.03125
    """
    count = len(sums_B)
    # Sums of the same numbers in another order differ in the last bits; this much is equal.
    limit = sums_B.sum() + 1e-12 * np.abs(sums_B).sum()
    if count <= _EXACT_BLOCKS:
        signs_DB = 1.0 - 2.0 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
        return float(np.mean(signs_DB @ sums_B <= limit))
    signs_DB = np.random.default_rng(0).choice([-1.0, 1.0], size=(_DRAWS, count))
    as_low = np.count_nonzero(signs_DB @ sums_B <= limit)
    return float((1 + as_low) / (1 + _DRAWS))  # the signs as they are count as one of the draws


def _objection(figures: dict[str, Any], gate: Gate) -> str | None:
    candidate, rival, needed = figures["candidate_loss"], figures["rival_loss"], needed_blocks(gate.alpha)
    if figures["blocks"] < needed:
        return f"too few blocks to tell, {needed} are needed at alpha {gate.alpha:g}"
    if candidate >= (1 - gate.margin) * rival:
        return f"not better by the margin of {gate.margin:.2%}" if gate.margin else "not better"
    if figures["p_value"] >= gate.alpha:
        return f"could be chance at alpha {gate.alpha:g}"
    return None
