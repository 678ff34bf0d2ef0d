"""What it costs to act on a row, one way.

Shapes: N rows, I numbers of rows.
"""

import numpy as np

from ml_core.errors import NotEnoughDataError
from ml_core.sections import Costs
from ml_core.types import Float64, Int64


def one_way_bps(costs: Costs, spread_N: Float64, mid_N: Float64) -> Float64:
    """Return fee and half spread of each row, bps of the price; NaN where the spread is asked for and not known."""
    if costs.half_spread == "rows":
        return costs.fee_bps + 5e3 * spread_N / mid_N
    return np.full(len(mid_N), costs.fee_bps + costs.half_spread)


def filled(cost_bps_N: Float64, train_I: Int64) -> Float64:
    """Return the costs with the median of the training rows where they are not known.

    Raises:
        NotEnoughDataError: They are known of no training row. A retry with quotes may help.
    """
    known_N = np.isfinite(cost_bps_N)
    if known_N.all():
        return cost_bps_N
    known_I = cost_bps_N[train_I][known_N[train_I]]
    if not len(known_I):
        raise NotEnoughDataError("costs.half_spread = 'rows' needs quotes, and no row to train on has any")
    return np.where(known_N, cost_bps_N, np.median(known_I))
