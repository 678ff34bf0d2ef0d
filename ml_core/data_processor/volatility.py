"""How far prices moved: realised volatility between two times, from prices at equal steps.

Shapes: N rows, H horizons, I rows of one symbol, P points of its price path.
"""

import numpy as np

from ml_core.data_processor.labels import PricePath, groups, price_at
from ml_core.types import MAX_TS_NS, Float64, Int32, Int64

# Every tick would count the bounce between bid and ask as motion; an estimate from 32 steps is right to one eighth.
STEPS = 32


def realised(ts_ns_P: Int64, price_P: Float64, start_ns_I: Int64, end_ns_I: Int64) -> Float64:
    """Return the realised volatility (I,) from each start to its end: the root of the sum of squared log returns.

    Prices are the last known ones at 32 equal steps; NaN where none is known at the start.

    Source: Andersen, Bollerslev, Diebold and Labys 2003, "Modeling and Forecasting Realized Volatility".
    """
    variance_I = np.zeros(len(start_ns_I))
    span_I = end_ns_I - start_ns_I
    before_I = np.log(price_at(ts_ns_P, price_P, start_ns_I, MAX_TS_NS))
    for step in range(1, STEPS + 1):
        now_I = np.log(price_at(ts_ns_P, price_P, start_ns_I + span_I * step // STEPS, MAX_TS_NS))
        variance_I += (now_I - before_I) ** 2
        before_I = now_I
    return np.sqrt(variance_I)


def realised_after(symbol_N: Int32, start_ns_N: Int64, end_ns_NH: Int64, path: PricePath) -> Float64:
    """Return the realised volatility (N, H) from each start to each end; NaN where the symbol has no price by then."""
    volatility_NH = np.full(end_ns_NH.shape, np.nan)
    for symbol, rows_I in groups(symbol_N):
        ts_ns_P, price_P = path.of(symbol)
        if len(ts_ns_P):
            for h in range(end_ns_NH.shape[1]):
                volatility_NH[rows_I, h] = realised(ts_ns_P, price_P, start_ns_N[rows_I], end_ns_NH[rows_I, h])
    return volatility_NH
