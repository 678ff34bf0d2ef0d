"""Whether there are data enough to learn from, told before a model is trained.

Shapes: N rows or samples, H horizons, I numbers of samples.
"""

from typing import Any

import numpy as np

from ml_core.data_processor import labels
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import NotEnoughDataError
from ml_core.spec import PipelineSpec, format_duration
from ml_core.types import CLASS_LABELS, Int32, Int64, RowBatch, RowFlag, TickBatch

LEAST_INDEPENDENT = 3.0  # labels that do not overlap, by their sum of uniqueness: two tell no pattern from chance


def look_back_ns(spec: PipelineSpec, plan: FeaturePlan) -> int:
    """Return how far before a row the ticks lie that its features, and the measure of its barriers, are made of."""
    return max(plan.look_back_ns, spec.label.volatility_span if spec.label.barrier_widths else 0)


def history(ticks: TickBatch, spec: PipelineSpec, plan: FeaturePlan) -> dict[str, int]:
    """Return how long a symbol must be seen to make one sample, and how long the longest seen one is, ns.

    Raises:
        NotEnoughDataError: No symbol is seen that long. More ticks help.
    """
    needed_ns = look_back_ns(spec, plan) + spec.label.delay + max(spec.label.horizons)
    if not len(ticks):
        return {"needed_ns": needed_ns, "present_ns": 0}
    first_S, last_S = np.full(len(ticks.symbols), np.iinfo(np.int64).max), np.zeros(len(ticks.symbols), np.int64)
    np.minimum.at(first_S, ticks.symbol_N, ticks.ts_ns_N)
    np.maximum.at(last_S, ticks.symbol_N, ticks.ts_ns_N)
    present_ns = int((last_S - first_S)[last_S > 0].max())
    if present_ns < needed_ns:
        raise NotEnoughDataError(
            f"0 labelled rows, train.min_rows asks for {spec.train.min_rows}: features look back and labels ahead "
            f"{format_duration(needed_ns)} together, and no symbol is seen for longer than "
            f"{format_duration(present_ns // 10**6 * 10**6)}; give more ticks"
        )
    return {"needed_ns": needed_ns, "present_ns": present_ns}


def gaps(rows: RowBatch, gap_ns: int) -> dict[str, int]:
    """Return how often a symbol was silent for longer than ``gap_ns``, and the longest silence, ns."""
    in_time_N = np.flatnonzero((rows.flags_N & int(RowFlag.LATE | RowFlag.AHEAD)) == 0)
    ts_ns_N, symbol_N = rows.ts_ns_N[in_time_N], rows.symbol_N[in_time_N]
    order_N = np.lexsort((ts_ns_N, symbol_N))
    silence_N = np.diff(ts_ns_N[order_N])[np.diff(symbol_N[order_N]) == 0]
    longest = int(silence_N.max()) if len(silence_N) else 0
    return {"count": int((silence_N > gap_ns).sum()), "longest_ns": longest}


def check_missing(missing: dict[str, float], most: float) -> None:
    """Raise where a feature is undefined in too large a share of the samples.

    Raises:
        NotEnoughDataError: One is never defined, or in a larger share than ``most``. A retry will not help.
    """
    bad = {name: share for name, share in missing.items() if share >= 1 or share > most}
    if bad:
        told = ", ".join(f"{name} ({'never defined' if s >= 1 else f'missing in {s:.0%}'})" for name, s in bad.items())
        raise NotEnoughDataError(
            f"features without values: {told}; features.max_missing is {most:g}. Give ticks that have them, or take "
            "them out of features.use"
        )


def balance(y_IH: Any, spec: PipelineSpec) -> dict[str, dict[str, float]]:
    """Return, by horizon, the share of each class, or mean and deviation of numbers."""
    told: dict[str, dict[str, float]] = {}
    for horizon_ns, y_I in zip(spec.label.horizons, y_IH.T, strict=True):
        if spec.label.kind in CLASS_LABELS:
            share_C = np.bincount(y_I, minlength=3) / len(y_I)
            told[format_duration(horizon_ns)] = dict(zip(("down", "flat", "up"), map(float, share_C), strict=True))
        else:
            told[format_duration(horizon_ns)] = {"mean": float(y_I.mean()), "deviation": float(y_I.std())}
    return told


def independent(symbol_I: Int32, start_ns_I: Int64, end_ns_I: Int64) -> float:
    """Return how many labels the given ones are worth: the sum of their uniqueness among themselves."""
    return float(labels.uniqueness(symbol_I, start_ns_I, end_ns_I).sum(dtype=np.float64))


def check_independent(count: float) -> None:
    """Raise where the labels to train on are worth fewer than three.

    Raises:
        NotEnoughDataError: More ticks, or shorter horizons, help.
    """
    if count < LEAST_INDEPENDENT:
        raise NotEnoughDataError(
            f"the labels to train on overlap so much that they are worth {count:.1f} independent ones, at least "
            f"{LEAST_INDEPENDENT:g} are needed; give more ticks, or shorter horizons"
        )
