"""What came after a row: returns, classes and the weight of samples that overlap.

    row t          act at t + delay                    t + delay + horizon
    |--------------|-----------------------------------|
                   reference price: the last known     label price: the last known
                   at or before this time              at or before this time

Shapes: N samples, P points of a price path, H horizons.
"""

from typing import NamedTuple

import numpy as np

from ml_core.data_processor.cleaning import Drops
from ml_core.types import Bool, Float32, Float64, Int32, Int64

DOWN, FLAT, UP = 0, 1, 2


class PricePath(NamedTuple):
    """Prices of all symbols: points sorted by symbol, then time, then arrival."""

    symbol_P: Int32
    ts_ns_P: Int64
    price_P: Float64

    def of(self, symbol: int) -> tuple[Int64, Float64]:
        """Return times and prices of one symbol."""
        first, last = np.searchsorted(self.symbol_P, [symbol, symbol + 1])
        return self.ts_ns_P[first:last], self.price_P[first:last]


class Labels(NamedTuple):
    """What came after each of N rows; returns are NaN where no label is."""

    end_ns_NH: Int64
    return_NH: Float64  # log
    target_NH: Float64  # what is to be told: a class, a realised volatility, or the return


def price_path(symbol_P: Int32, ts_ns_P: Int64, price_P: Float64, known_P: Bool) -> PricePath:
    """Return the path of the points that are known; points come in arrival order."""
    kept_P = np.flatnonzero(known_P & (price_P > 0) & (price_P < np.inf))
    order_P = kept_P[np.lexsort((kept_P, ts_ns_P[kept_P], symbol_P[kept_P]))]
    return PricePath(symbol_P[order_P], ts_ns_P[order_P], price_P[order_P])


def before(path: PricePath, end_ns: int) -> PricePath:
    """Return the points before a time."""
    is_before_P = path.ts_ns_P < end_ns
    return PricePath(path.symbol_P[is_before_P], path.ts_ns_P[is_before_P], path.price_P[is_before_P])


def label(
    symbol_N: Int32,
    ts_ns_N: Int64,
    path: PricePath,
    *,
    horizons_ns: tuple[int, ...],
    delay_ns: int,
    max_age_ns: int,
    drops: Drops,
) -> Labels:
    """Return the labels of N rows and drop the rows that have none.

    Reasons: ``not_matured``, the last horizon does not end before the symbol's last point (a later tick at that very
    time could still change it); ``old_price``, a price needed is older than ``max_age_ns`` at its time, or there
    is none.
    """
    end_ns_NH = ts_ns_N[:, None] + delay_ns + np.array(horizons_ns, dtype=np.int64)
    return_NH = np.full(end_ns_NH.shape, np.nan)
    matured_N = np.zeros(len(ts_ns_N), dtype=np.bool_)
    for symbol, rows_I in groups(symbol_N):
        ts_ns_P, price_P = path.of(symbol)
        if not len(ts_ns_P):
            continue
        matured_N[rows_I] = end_ns_NH[rows_I].max(axis=1) < ts_ns_P[-1]
        reference_I = price_at(ts_ns_P, price_P, ts_ns_N[rows_I] + delay_ns, max_age_ns)
        end_IH = price_at(ts_ns_P, price_P, end_ns_NH[rows_I], max_age_ns)
        return_NH[rows_I] = np.log(end_IH / reference_I[:, None])
    drops.add("not_matured", ~matured_N)
    drops.add("old_price", np.isnan(return_NH).any(axis=1))
    return Labels(end_ns_NH, return_NH, return_NH)


def classes(return_NH: Float64, dead_zone_H: tuple[float, ...]) -> Int64:
    """Return DOWN, FLAT or UP: returns within the dead zone, its ends included, are FLAT.

    >>> classes(np.array([[-0.2], [0.1], [0.3]]), (0.1,)).T.tolist()
    [[0, 1, 2]]
    """
    dead_H = np.array(dead_zone_H)
    return FLAT + (return_NH > dead_H).astype(np.int64) - (return_NH < -dead_H).astype(np.int64)


def fit_dead_zone(spreads: float, spread_I: Float64, mid_I: Float64, path: PricePath) -> tuple[float, str]:
    """Return the half width of FLAT as a log return, and what it was measured by.

    It is ``spreads`` times the median relative spread of the training rows (I). Without quotes the median change
    between unequal trade prices in a row stands for the spread: trades jump by about one (Roll 1984).
    """
    relative_I = spread_I / mid_I
    relative_I = relative_I[np.isfinite(relative_I)]
    if len(relative_I):
        return spreads * float(np.median(relative_I)), "median relative spread"
    jump_P = np.abs(np.diff(np.log(path.price_P)))[np.diff(path.symbol_P) == 0]
    jump_P = jump_P[jump_P > 0]
    return spreads * (float(np.median(jump_P)) if len(jump_P) else 0.0), "median jump of trade prices"


def uniqueness(symbol_N: Int32, start_ns_N: Int64, end_ns_N: Int64) -> Float32:
    """Return the average uniqueness of each sample: the mean over its label's span of 1 / (labels open at that time).

    O(N log N): the number of open labels is a step function, and means of its inverse are differences of one integral.

    Source: Lopez de Prado 2018, Advances in Financial Machine Learning, ch. 4, in continuous time.

    >>> uniqueness(np.zeros(2, np.int32), np.array([0, 5]), np.array([10, 15])).tolist()
    [0.75, 0.75]
    """
    weight_N = np.ones(len(start_ns_N), dtype=np.float32)
    for _, rows_I in groups(symbol_N):
        start_I, end_I = start_ns_N[rows_I], end_ns_N[rows_I]
        knots = np.unique(np.concatenate([start_I, end_I]))
        change = np.bincount(np.searchsorted(knots, start_I), minlength=len(knots)) - np.bincount(
            np.searchsorted(knots, end_I), minlength=len(knots)
        )
        open_labels = np.maximum(np.cumsum(change)[:-1], 1)
        integral = np.concatenate([[0.0], np.cumsum(np.diff(knots) / open_labels)])
        mass_I = integral[np.searchsorted(knots, end_I)] - integral[np.searchsorted(knots, start_I)]
        weight_N[rows_I] = mass_I / np.maximum(end_I - start_I, 1)
    return weight_N


def price_at(ts_ns_P: Int64, price_P: Float64, when_ns: Int64, max_age_ns: int) -> Float64:
    """Return the last price at or before each time, NaN where it is too old or there is none."""
    point = np.searchsorted(ts_ns_P, when_ns, side="right") - 1
    known = (point >= 0) & (when_ns - ts_ns_P[np.maximum(point, 0)] <= max_age_ns)
    return np.where(known, price_P[np.maximum(point, 0)], np.nan)


def groups(symbol_N: Int32) -> list[tuple[int, Int64]]:
    """Return (symbol, its rows in order) of every symbol."""
    order_N = np.argsort(symbol_N, kind="stable")
    symbols, first = np.unique(symbol_N[order_N], return_index=True)
    parts = np.split(order_N, first[1:]) if len(symbols) else []
    return [(int(symbol), rows) for symbol, rows in zip(symbols, parts, strict=True)]
