"""From a frame of ticks to labelled rows, with a report of what became of every tick and row.

Shapes: M rows, N samples, P points of a price path, T rows of a window, H horizons.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ml_core import frames
from ml_core.data_processor import canonical, cleaning, costs, preflight
from ml_core.data_processor.barriers import Barriers, first_touches
from ml_core.data_processor.calendars import check_known, in_one_session, is_open
from ml_core.data_processor.features import FeaturePlan, FeatureState, Moved, move
from ml_core.data_processor.gap_marks import GapMark, crossed
from ml_core.data_processor.labels import Labels, PricePath, label, price_path
from ml_core.data_processor.volatility import realised_after
from ml_core.data_processor.windows import link
from ml_core.spec import PipelineSpec
from ml_core.types import Float64, Int32, Int64, RowBatch, RowFlag, SymbolTable, TickBatch, TickKind

# A row whose price is old, missing or at a time not to be trusted is no point of the path that labels are read from.
NO_POINT = int(RowFlag.LATE | RowFlag.AHEAD | RowFlag.NO_PRICE | RowFlag.STALE)


class Samples(NamedTuple):
    """The rows of a frame, and those N of them that can be learned from, by time, name of the symbol and arrival."""

    rows: RowBatch
    path: PricePath
    row_N: Int64
    idx_NT: Int32
    end_ns_NH: Int64
    return_NH: Float64
    target_NH: Float64  # as `labels.Labels` says
    report: dict[str, Any]


def rows_of(frame: pd.DataFrame, plan: FeaturePlan) -> RowBatch:
    """Return the rows of a frame of ticks in arrival order, to the bit those that a worker makes of the same ticks.

    Raises:
        SchemaMismatchError: It is no ticks frame. A retry will not help.
    """
    return _move(cleaning.clean(frames.to_batch(frame))[0], plan).rows


def make_samples(frame: pd.DataFrame, spec: PipelineSpec, plan: FeaturePlan, marks: Sequence[GapMark] = ()) -> Samples:
    """Return the labelled rows of ``frame``; those whose look-back, window or label reaches across a mark are dropped.

    Raises:
        SchemaMismatchError: It is no ticks frame. A retry will not help.
        SpecError: The calendar does not know the hours of all ticks. A retry will not help.
        NotEnoughDataError: No symbol is seen long enough for one sample.
    """
    ticks, ticks_dropped = cleaning.clean(frames.to_batch(frame))
    history = preflight.history(ticks, spec, plan)
    rows, lag_N = _move(ticks, plan)
    # of rows that nothing else is wrong with: a first tick that is misdated is flagged as well, and fails no training
    check_known(rows.ts_ns_N[(rows.flags_N & ~np.uint8(RowFlag.NO_CALENDAR)) == 0], spec.source.calendar)
    every_mid = mids_plan(spec)
    path = price_path_of(ticks, lag_N, rows if every_mid is None else _move(ticks, every_mid).rows, spec)
    drops = cleaning.Drops(len(rows))
    cleaning.drop_flagged(drops, rows.flags_N)
    drops.add("same_ts", cleaning.shadowed(rows.symbol_N, rows.ts_ns_N, rows.flags_N))
    idx_MT = link(rows.symbol_N, rows.flags_N, spec.features.window)
    drops.add("short_window", idx_MT[:, 0] < 0)
    after = label(
        rows.symbol_N,
        rows.ts_ns_N,
        path,
        horizons_ns=spec.label.horizons,
        delay_ns=spec.label.delay,
        max_age_ns=spec.features.max_age,
        drops=drops,
    )
    drops.add("closed", ~is_open(after.end_ns_NH.max(axis=1), spec.source.calendar))
    after = of_kind(after, rows, path, spec, drops)
    # rows without a window are dropped already
    start_ns_M = rows.ts_ns_N[np.maximum(idx_MT[:, 0], 0)] - preflight.look_back_ns(spec, plan)
    drops.add("gap_mark", crossed(marks, rows.symbols, rows.symbol_N, start_ns_M, after.end_ns_NH.max(axis=1)))
    row_N = np.flatnonzero(drops.kept_N)
    row_N = row_N[canonical.order(rows.ts_ns_N[row_N], canonical.rank(rows.symbols)[rows.symbol_N[row_N]])]
    report = {
        "ticks": len(frame),
        "ticks_dropped": ticks_dropped,
        "rows": len(rows),
        "rows_dropped": drops.counts,
        "samples": len(row_N),
        "symbols": len(np.unique(rows.symbol_N[row_N])),
        "missing": _missing(rows, row_N, plan),
        "history": history,
        "gaps": preflight.gaps(rows, spec.features.gap) | {"marked": len(marks)},
    }
    after = Labels(after.end_ns_NH[row_N], after.return_NH[row_N], after.target_NH[row_N])
    return Samples(rows, path, row_N, idx_MT[row_N], *after, report)


def _move(ticks: TickBatch, plan: FeaturePlan) -> Moved:
    return move(ticks, FeatureState(plan, SymbolTable(ticks.symbols)))


def mids_plan(spec: PipelineSpec) -> FeaturePlan | None:
    """Return the plan whose rows have every mid; None where those of the pipeline have, or labels read trades."""
    if spec.label.price != "mid" or "quote" in spec.features.rows_on:
        return None
    every = spec.features.model_copy(update={"rows_on": ("quote", "trade"), "use": ("is_trade",)})
    return FeaturePlan.from_spec(spec.model_copy(update={"features": every}))


def price_path_of(ticks: TickBatch, lag_N: Int64, rows: RowBatch, spec: PipelineSpec) -> PricePath:
    """Return the prices labels are read from: the mids of rows, or the trades that are neither late nor parked.

    Args:
        ticks: In the order of arrival.
        lag_N: What `features.move` says of them.
        rows: Those of ``mids_plan``, or, where it is None, of the pipeline.
        spec: The pipeline.
    """
    if spec.label.price == "mid":
        return price_path(rows.symbol_N, rows.ts_ns_N, rows.mid_N, (rows.flags_N & NO_POINT) == 0)
    trades = cleaning.select(ticks, (ticks.kind_N == TickKind.TRADE) & (lag_N == 0))
    return price_path(trades.symbol_N, trades.ts_ns_N, trades.price_N, np.ones(len(trades), np.bool_))


def of_kind(after: Labels, rows: RowBatch, path: PricePath, spec: PipelineSpec, drops: cleaning.Drops) -> Labels:
    """Return what ``label.kind`` makes of the labels of M rows; those it can make nothing of are dropped."""
    asked = spec.label
    if asked.kind == "volatility":
        start_ns_M = rows.ts_ns_N + asked.delay
        return after._replace(target_NH=realised_after(rows.symbol_N, start_ns_M, after.end_ns_NH, path))
    widths = asked.barrier_widths
    if widths is None:
        return after
    one_way_M = costs.one_way_bps(spec.costs, rows.spread_N, rows.mid_N) if asked.costs else np.zeros(len(rows))
    drops.add("no_spread", np.isnan(one_way_M))
    # a night's jump would stand for the volatility of the hour behind it
    begins_ns_M = rows.ts_ns_N - asked.volatility_span
    drops.add("short_session", ~in_one_session(begins_ns_M, rows.ts_ns_N, spec.source.calendar))
    barriers = Barriers(widths.up, widths.down, asked.volatility_span, 2e-4 * one_way_M)
    return first_touches(rows.symbol_N, rows.ts_ns_N, path, after, barriers, delay_ns=asked.delay, drops=drops)


def _missing(rows: RowBatch, row_N: Int64, plan: FeaturePlan) -> dict[str, float]:
    """Return the share of samples in which a feature is undefined, for features where it is not 0."""
    if not len(row_N):
        return {}
    share_F = np.isnan(rows.x_NF[row_N]).mean(axis=0)
    # a feature with one value among many is not one that is never defined
    share_F = np.where(share_F < 1, np.minimum(share_F, 0.9999), 1.0)
    return {name: round(float(share), 4) for name, share in zip(plan.names, share_F, strict=True) if share > 0}
