"""From a frame of ticks to a data set that is ready to be trained on: samples, splits, targets, weights, scaling.

Shapes: M rows, N samples, T rows of a window, F features, H horizons, I numbers of samples.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_core.contract import Encoding, ModelContract, Scaler
from ml_core.data_processor import canonical, cleaning, costs, labels, preflight
from ml_core.data_processor.encoding import fit_encoding
from ml_core.data_processor.features import FeaturePlan
from ml_core.data_processor.gap_marks import GapMark
from ml_core.data_processor.samples import Samples, make_samples, rows_of
from ml_core.data_processor.scaling import fit_scaler
from ml_core.data_processor.splits import Cut, Split, cut_by_shares, split
from ml_core.errors import NotEnoughDataError, SchemaMismatchError
from ml_core.spec import PipelineSpec, format_duration
from ml_core.types import CLASS_LABELS, Bool, Float32, Float64, Int32, Int64, RowBatch

__all__ = ["Dataset", "Processed", "fitted", "process", "rows_of"]

CLASSES = ("down", "flat", "up")


class Dataset(NamedTuple):
    """All samples of a frame, by time, symbol and arrival; a window is a list of row numbers, so rows are held once."""

    x_MF: Float32  # raw
    idx_NT: Int32  # rows of each window, oldest first; the last one is the sample's own
    ts_ns_N: Int64
    end_ns_NH: Int64  # event times at which labels end
    return_NH: Float64  # log returns, up to those ends
    y_NH: npt.NDArray[Any]  # int64 classes 0 down, 1 flat, 2 up; float32 log returns or logs of volatilities
    weight_N: Float32  # mean 1 over the training samples
    symbol_N: Int32
    symbols: Sequence[str]  # sorted
    cost_bps_N: Float64 = np.empty(0)  # of acting on a sample, one way


class Processed(NamedTuple):
    """A data set with its parts and what was fitted on the training part."""

    dataset: Dataset
    train_I: Int64
    validation_I: Int64
    holdout_I: Int64
    scaler: Scaler
    dead_zone: tuple[float, ...]  # a horizon, log returns: half width of `flat`, the least volatility; else empty
    prior: tuple[tuple[float, ...], ...]  # of training samples; class shares, or mean and variance, a horizon
    plan: FeaturePlan
    report: dict[str, Any]  # what became of every tick and row; JSON
    rows: RowBatch | None = None  # in arrival order; the windows number them
    hash: str = ""  # of the data set: equal for equal ticks, whatever way they came in
    encoding: Encoding = Encoding()


def process(
    frame: pd.DataFrame,
    spec: PipelineSpec,
    *,
    fixed: ModelContract | None = None,
    cut: Cut | None = None,
    marks: Sequence[GapMark] = (),
) -> Processed:
    """Return the samples of ``frame``, split and labelled as ``spec`` says; equal arguments give equal bytes.

    Args:
        frame: Ticks in arrival order; see `ml_core.frames`.
        spec: The pipeline.
        fixed: Keep scaler, encoding and dead zone of this model, which learns on, instead of fitting them.
        cut: Event times that part the samples; None: the shares and the embargo of ``[train]`` say where. Of a model
            that learns on they are shares of the samples behind all it was trained on, where there are ``min_rows``;
            with fewer they are shares of all samples, and ``new_rows`` of the report says how many are new.
        marks: What is known to be missing of the ticks; no sample reaches across.

    Raises:
        SpecError, UnknownPartError: A feature is wrong. A retry will not help.
        SchemaMismatchError: It is no ticks frame, or ``fixed`` has other features or horizons. A retry will not help.
        NotEnoughDataError: Too few samples or independent labels, none that is new to ``fixed``, a feature without
            values, or a label that never changes among those to train on. More ticks may help.
        InputError: A category of ``features.categories`` holds no codes, or too many. A retry will not help.
    """
    plan = FeaturePlan.from_spec(spec)
    if fixed is not None:
        _check_fits(fixed, plan, spec)
    samples = make_samples(frame, spec, plan, marks)
    report = samples.report
    if report["samples"] < spec.train.min_rows:
        raise _not_enough(f"{report['samples']} labelled rows, train.min_rows asks for {spec.train.min_rows}", report)
    preflight.check_missing(report["missing"], spec.features.max_missing)
    ts_ns_N = samples.rows.ts_ns_N[samples.row_N]
    new_N = np.ones(len(ts_ns_N), np.bool_) if fixed is None else ts_ns_N > fixed.trained_to_ns
    if not new_N.any():
        raise _not_enough("no row is new to the model that is to learn on", report)
    parts = split(ts_ns_N, samples.end_ns_NH, cut or _cut(ts_ns_N, new_N, spec))
    if fixed is not None:
        new = {"new_rows": int(new_N.sum()), "new_train_rows": int(new_N[parts.train_I].sum())}
        samples = samples._replace(report=report | new)
    return fitted(samples, spec, plan, parts, fixed=fixed)


def fitted(
    samples: Samples, spec: PipelineSpec, plan: FeaturePlan, parts: Split, *, fixed: ModelContract | None = None
) -> Processed:
    """Return ``samples``, parted, with everything that is fitted on the training part.

    Raises:
        NotEnoughDataError: A part has no rows, or too few labels to train on are independent or ever change.
    """
    report = samples.report | _report_split(parts)
    samples = samples._replace(report=report)
    for name in ("train", "validation", "holdout"):
        if not report[f"{name}_rows"]:
            raise _not_enough(f"the {name} part has no rows", report)
    report["independent_labels"] = _independent(samples, parts, spec)
    preflight.check_independent(report["independent_labels"]["train"])
    dead_zone = _dead_zone(samples, parts, spec, fixed)
    dataset = _dataset(samples, parts, spec, dead_zone)
    prior = _prior(dataset.y_NH[parts.train_I], spec.label.kind)
    report["labels"] = preflight.balance(dataset.y_NH[parts.train_I], spec)
    report["prior"] = [list(values) for values in prior]
    _check_targets(dataset.y_NH[parts.train_I], spec, report)
    x_IF = dataset.x_MF[dataset.idx_NT[parts.train_I, -1]]
    scaler = fixed.scaler if fixed else fit_scaler(x_IF)
    encoding = fixed.encoding if fixed else fit_encoding(x_IF, plan.names, spec.features)
    report["dataset_hash"] = _hash(dataset, plan, parts.cut)
    return Processed(
        dataset,
        parts.train_I,
        parts.validation_I,
        parts.holdout_I,
        scaler,
        dead_zone,
        prior,
        plan,
        report,
        samples.rows,
        report["dataset_hash"],
        encoding,
    )


def _cut(ts_ns_N: Int64, new_N: Bool, spec: PipelineSpec) -> Cut:
    shares = spec.train
    if new_N.sum() >= shares.min_rows:  # fewer make no parts of their own
        ts_ns_N = ts_ns_N[new_N]
    return cut_by_shares(ts_ns_N, validation=shares.validation, holdout=shares.holdout, embargo_ns=shares.embargo)


def _independent(samples: Samples, parts: Split, spec: PipelineSpec) -> dict[str, float]:
    symbol_N, ts_ns_N = samples.rows.symbol_N[samples.row_N], samples.rows.ts_ns_N[samples.row_N]
    end_ns_N = samples.end_ns_NH.max(axis=1)
    named = {"train": parts.train_I, "validation": parts.validation_I, "holdout": parts.holdout_I}
    return {
        name: round(preflight.independent(symbol_N[of_I], ts_ns_N[of_I] + spec.label.delay, end_ns_N[of_I]), 1)
        for name, of_I in named.items()
    }


def _hash(dataset: Dataset, plan: FeaturePlan, cut: Cut) -> str:
    samples = (dataset.y_NH, dataset.weight_N, dataset.ts_ns_N, dataset.end_ns_NH)
    columns = (*samples, dataset.return_NH, dataset.cost_bps_N)  # figures of classes are of returns and costs too
    symbol_N = np.array(dataset.symbols)[dataset.symbol_N]
    return canonical.dataset_hash(plan.names, symbol_N, dataset.x_MF, dataset.idx_NT, columns, cut)


def _check_fits(fixed: ModelContract, plan: FeaturePlan, spec: PipelineSpec) -> None:
    fixed.must_have(
        features=tuple(plan.names),
        feature_hash=plan.hash,
        label_kind=spec.label.kind,
        label_price=spec.label.price,
        delay_ns=spec.label.delay,
        horizons_ns=spec.label.horizons,
        barriers=barriers_of(spec),
    )
    asked, theirs = spec.features, fixed.encoding
    if sorted(theirs.codes) != sorted(asked.categories) or (theirs.missing and asked.missing != "indicator"):
        raise SchemaMismatchError(
            f"cannot go on: the model encodes categories {sorted(theirs.codes)} and missing values of "
            f"{sorted(theirs.missing)}, the pipeline asks for {sorted(asked.categories)} and {asked.missing!r}"
        )


def barriers_of(spec: PipelineSpec) -> tuple[float, float, int] | None:
    """Return what a contract says of barriers: up and down in standard deviations, and the span they are of, ns."""
    widths = spec.label.barrier_widths
    return None if widths is None else (widths.up, widths.down, spec.label.volatility_span)


def _report_split(parts: Split) -> dict[str, Any]:
    return {
        "train_rows": len(parts.train_I),
        "validation_rows": len(parts.validation_I),
        "holdout_rows": len(parts.holdout_I),
        "purged": parts.purged,
        "embargoed": parts.embargoed,
        "cuts_ns": [parts.cut.validation_ns, parts.cut.holdout_ns],
    }


def _dead_zone(samples: Samples, parts: Split, spec: PipelineSpec, fixed: ModelContract | None) -> tuple[float, ...]:
    if spec.label.kind not in ("direction", "volatility"):
        return ()
    if fixed is not None:
        return fixed.dead_zone
    rows, train_I = samples.rows, samples.row_N[parts.train_I]
    path = labels.before(samples.path, parts.cut.validation_ns)
    width, measure = labels.fit_dead_zone(spec.label.dead_zone, rows.spread_N[train_I], rows.mid_N[train_I], path)
    if spec.label.costs:
        width += 2e-4 * float(np.median(_costs(samples, parts, spec)[parts.train_I]))
    if spec.label.kind == "volatility" and not width:
        raise _not_enough("no price ever moved: the least volatility has no measure", samples.report)
    samples.report["dead_zone"] = {"log_return": width, "spreads": spec.label.dead_zone, "spread": measure}
    return (width,) * len(spec.label.horizons)


def _dataset(samples: Samples, parts: Split, spec: PipelineSpec, dead_zone: tuple[float, ...]) -> Dataset:
    rows, row_N = samples.rows, samples.row_N
    ts_ns_N, symbol_N = rows.ts_ns_N[row_N], rows.symbol_N[row_N]
    weight_N = np.ones(len(row_N), dtype=np.float32)
    if spec.train.weights == "uniqueness":
        weight_N = labels.uniqueness(symbol_N, ts_ns_N + spec.label.delay, samples.end_ns_NH.max(axis=1))
        weight_N /= weight_N[parts.train_I].mean(dtype=np.float64)
    return Dataset(
        x_MF=rows.x_NF,
        idx_NT=samples.idx_NT,
        ts_ns_N=ts_ns_N,
        end_ns_NH=samples.end_ns_NH,
        return_NH=samples.return_NH,
        y_NH=targets(samples.return_NH, samples.target_NH, spec.label.kind, dead_zone),
        weight_N=weight_N,
        symbol_N=canonical.rank(rows.symbols)[symbol_N],
        symbols=tuple(sorted(rows.symbols)),
        cost_bps_N=_costs(samples, parts, spec),
    )


def targets(return_NH: Float64, target_NH: Float64, label_kind: str, dead_zone: tuple[float, ...]) -> npt.NDArray[Any]:
    """Return what a model is to tell, as `Dataset` has it, of what `labels.Labels` says."""
    if label_kind == "direction":
        return labels.classes(return_NH, dead_zone)
    if label_kind == "triple_barrier":
        return target_NH.astype(np.int64)
    if label_kind == "volatility":  # prices at rest are as volatile as the dead zone is wide, and never minus infinity
        return np.log(np.hypot(target_NH, dead_zone)).astype(np.float32)
    return return_NH.astype(np.float32)


def _costs(samples: Samples, parts: Split, spec: PipelineSpec) -> Float64:
    rows, row_N = samples.rows, samples.row_N
    return costs.filled(costs.one_way_bps(spec.costs, rows.spread_N[row_N], rows.mid_N[row_N]), parts.train_I)


def _prior(y_IH: npt.NDArray[Any], label_kind: str) -> tuple[tuple[float, ...], ...]:
    """Return class shares, or mean and variance, a horizon.

    One sample of each class is added to the shares, so that the prior never calls a class impossible.
    """
    if label_kind not in CLASS_LABELS:
        y_IH = y_IH.astype(np.float64)
        return tuple((float(y_I.mean()), float(y_I.var())) for y_I in y_IH.T)
    counts_HC = np.array([np.bincount(y_I, minlength=len(CLASSES)) for y_I in y_IH.T]) + 1
    return tuple(tuple(float(count) / float(counts_C.sum()) for count in counts_C) for counts_C in counts_HC)


def _check_targets(y_IH: npt.NDArray[Any], spec: PipelineSpec, report: dict[str, Any]) -> None:
    for horizon_ns, y_I in zip(spec.label.horizons, y_IH.T, strict=True):
        if (y_I != y_I[0]).any():
            continue
        is_class = spec.label.kind in CLASS_LABELS
        said = repr(CLASSES[int(y_I[0])]) if is_class else f"a {spec.label.kind} of {float(y_I[0]):.6g}"
        other = {"direction": ", or another label.dead_zone", "triple_barrier": ", or other label.barriers"}
        raise _not_enough(
            f"all {len(y_I)} rows to train on are {said} at {format_duration(horizon_ns)}; "
            f"give more ticks, longer horizons{other.get(spec.label.kind, '')}",
            report,
        )


def _not_enough(what: str, report: dict[str, Any]) -> NotEnoughDataError:
    """Return the error with what became of the ticks, so that the cause can be seen."""
    missing: dict[str, float] = report["missing"]
    never = [name for name, share in missing.items() if share >= 1]
    lines = [
        f"{what}.",
        f"  ticks: {report['ticks']}; dropped: {cleaning.told(report['ticks_dropped'])}",
        f"  rows: {report['rows']}; not usable: {cleaning.told(report['rows_dropped'])}",
    ]
    if "purged" in report:
        parts = ", ".join(f"{name} {report[f'{name}_rows']}" for name in ("train", "validation", "holdout"))
        lines.append(f"  parts: {parts}; purged because their label ends past a cut: {report['purged']}")
        if report["embargoed"]:
            lines.append(f"  within the embargo after a cut: {report['embargoed']}")
    if never:
        lines.append(f"  never defined: {', '.join(never)}")
    return NotEnoughDataError("\n".join(lines))
