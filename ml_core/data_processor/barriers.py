"""Which of three barriers a price meets first: one above, one below, or the end of the horizon.

    upper  - - - - - - - - - - - x          UP: the label ends here, and not at the horizon
                          ______/ \
    reference ___________/
    lower  - - - - - - - - - - - - - - - -
           t + delay                 t + delay + horizon

Source: Lopez de Prado 2018, Advances in Financial Machine Learning, ch. 3.

Shapes: N rows, I rows of one symbol, P points of its price path, H horizons.
"""

from typing import NamedTuple

import numpy as np

from ml_core.compiled import njit
from ml_core.data_processor.cleaning import Drops
from ml_core.data_processor.labels import DOWN, FLAT, UP, Labels, PricePath, groups, price_at
from ml_core.data_processor.volatility import realised
from ml_core.types import MAX_TS_NS, Float64, Int32, Int64


class Barriers(NamedTuple):
    """Where barriers stand."""

    up: float  # in standard deviations of the return over the horizon
    down: float
    span_ns: int  # volatility is that of so long before the row
    least_N: Float64  # no barrier is nearer than this log return, by row


def first_touches(
    symbol_N: Int32, ts_ns_N: Int64, path: PricePath, after: Labels, barriers: Barriers, *, delay_ns: int, drops: Drops
) -> Labels:
    """Return the labels ``after`` cut short at the first barrier, with classes as targets; FLAT where none is met.

    Dropped as ``no_volatility`` are rows before which the path does not reach back ``span_ns``, or never moves. A row
    needs its whole horizon, touched or not: else those that are touched early would be too many near the end.
    """
    end_ns_NH, return_NH = after.end_ns_NH.copy(), after.return_NH.copy()
    class_NH = np.full(end_ns_NH.shape, FLAT, np.int64)
    volatility_N = np.full(len(ts_ns_N), np.nan)
    for symbol, rows_I in groups(symbol_N):
        ts_ns_P, price_P = path.of(symbol)
        if not len(ts_ns_P):
            continue
        start_ns_I = ts_ns_N[rows_I] + delay_ns
        reference_I = price_at(ts_ns_P, price_P, start_ns_I, MAX_TS_NS)
        volatility_N[rows_I] = realised(ts_ns_P, price_P, ts_ns_N[rows_I] - barriers.span_ns, ts_ns_N[rows_I])
        first_I = np.searchsorted(ts_ns_P, start_ns_I, side="right")
        for h in range(end_ns_NH.shape[1]):
            last_ns_I = after.end_ns_NH[rows_I, h]
            scale_I = volatility_N[rows_I] * np.sqrt((last_ns_I - start_ns_I) / barriers.span_ns)
            up_I, down_I = (np.maximum(k * scale_I, barriers.least_N[rows_I]) for k in (barriers.up, barriers.down))
            upper_I, lower_I = reference_I * np.exp(up_I), reference_I * np.exp(-down_I)
            point_I = _first_touch(ts_ns_P, price_P, first_I, last_ns_I, upper_I, lower_I)
            touched_I = point_I >= 0
            at, rows = point_I[touched_I], rows_I[touched_I]
            end_ns_NH[rows, h] = ts_ns_P[at]
            return_NH[rows, h] = np.log(price_P[at] / reference_I[touched_I])
            class_NH[rows, h] = np.where(price_P[at] >= upper_I[touched_I], UP, DOWN)
    drops.add("no_volatility", ~(volatility_N > 0))
    return Labels(end_ns_NH, return_NH, class_NH.astype(np.float64))


@njit(cache=True, nogil=True)
def _first_touch(
    ts_ns_P: Int64, price_P: Float64, first_I: Int64, last_ns_I: Int64, upper_I: Float64, lower_I: Float64
) -> Int64:
    """Return the first point (I,) up to a time that is at or outside the barriers; -1 where there is none."""
    found_I = np.full(len(first_I), -1, dtype=np.int64)
    for i in range(len(first_I)):
        for p in range(first_I[i], len(ts_ns_P)):
            if ts_ns_P[p] > last_ns_I[i]:
                break
            if price_P[p] >= upper_I[i] or price_P[p] <= lower_I[i]:
                found_I[i] = p
                break
    return found_I
