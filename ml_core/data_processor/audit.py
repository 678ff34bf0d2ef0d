"""Checks of a finished data set for what a model must not know; each leak that is planted is found by one of them.

They compute again, by other means than `dataset.process`: what `process` does wrong they do not repeat.

Shapes: M rows, N samples, T rows of a window, P points of a price path, H horizons, K samples looked at.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from ml_core.contract import ModelContract
from ml_core.data_processor import labels
from ml_core.data_processor.dataset import Processed
from ml_core.data_processor.encoding import fit_encoding
from ml_core.data_processor.samples import NO_POINT, rows_of
from ml_core.data_processor.scaling import fit_scaler
from ml_core.errors import LeakError
from ml_core.spec import PipelineSpec
from ml_core.types import Int64, RowBatch, RowFlag

_SAMPLES = 2000  # whose labels are read again
_PLACES = (0.35, 0.6, 0.85)  # shares of a frame at which it is cut short
_RESETS = int(RowFlag.WARM_UP | RowFlag.GAP)


class Finding(NamedTuple):
    """Something that a data set tells and should not."""

    check: str
    message: str


def audit(
    processed: Processed, spec: PipelineSpec, *, frame: pd.DataFrame | None = None, fixed: ModelContract | None = None
) -> list[Finding]:
    """Return what is wrong with ``processed``; nothing is good.

    Args:
        processed: What ``process`` returned.
        spec: The pipeline.
        frame: The ticks; with them features are also computed of shortened frames, which takes as long as ``process``.
        fixed: Contract of the model that learns on.
    """
    rows = processed.rows
    if rows is None:
        raise ValueError("a data set without its rows cannot be looked through")
    found = [
        *_inputs(processed, spec, fixed),
        *_parts(processed),
        *_windows(processed, rows),
        *_targets(processed, spec),
    ]
    if spec.label.price == "mid" and "quote" in spec.features.rows_on:  # else rows do not tell every mid
        found += _labels(processed, spec, rows)
    if frame is not None:
        found += _look_ahead(processed, rows, frame)
    return found


def refuse_leaks(processed: Processed, spec: PipelineSpec, fixed: ModelContract | None = None) -> None:
    """Raise where `audit` finds something that takes no second look at the ticks.

    Raises:
        LeakError: Naming every finding. A retry will not help.
    """
    found = audit(processed, spec, fixed=fixed)
    if found:
        raise LeakError("; ".join(f"{finding.check}: {finding.message}" for finding in found))


def _inputs(processed: Processed, spec: PipelineSpec, fixed: ModelContract | None) -> Iterator[Finding]:
    data = processed.dataset
    x_IF = data.x_MF[data.idx_NT[processed.train_I, -1]]
    if processed.scaler != (fixed.scaler if fixed else fit_scaler(x_IF)):
        yield Finding("scaler", "medians and ranges are not those of the training rows")
    if processed.encoding != (fixed.encoding if fixed else fit_encoding(x_IF, processed.plan.names, spec.features)):
        yield Finding("encoding", "missing features and codes are not those of the training rows")


def _parts(processed: Processed) -> Iterator[Finding]:
    """Compare with the first sample of the next part: the cut itself could be wrong."""
    data, order = processed.dataset, ("train", "validation", "holdout")
    parts: list[Int64] = [getattr(processed, f"{name}_I") for name in order]
    for n, next_n in ((0, 1), (1, 2), (0, 2)):
        before_I, after_I = parts[n], parts[next_n]
        if not (len(before_I) and len(after_I)):
            continue
        late = int((data.end_ns_NH[before_I].max(axis=1) >= data.ts_ns_N[after_I].min()).sum())
        if late:
            yield Finding("cut", f"{late} labels of {order[n]} end after {order[next_n]} begins")


def _windows(processed: Processed, rows: RowBatch) -> Iterator[Finding]:
    data = processed.dataset
    own_N = data.idx_NT[:, -1]
    names = np.array(rows.symbols)
    if (rows.ts_ns_N[own_N] != data.ts_ns_N).any() or (np.diff(data.idx_NT, axis=1) <= 0).any():
        yield Finding("window", "a window does not end with the row of its sample, or holds rows behind it")
    if (names[rows.symbol_N][data.idx_NT] != np.array(data.symbols)[data.symbol_N][:, None]).any():
        yield Finding("window", "a window holds rows of another symbol")
    by_symbol_M = np.argsort(rows.symbol_N, kind="stable")
    resets_M = np.empty(len(rows), np.int64)
    resets_M[by_symbol_M] = np.cumsum((rows.flags_N[by_symbol_M] & _RESETS) != 0)
    across = int((resets_M[own_N] != resets_M[data.idx_NT[:, 0]]).sum())
    if across:
        yield Finding("gap", f"{across} windows reach across a gap")


def _targets(processed: Processed, spec: PipelineSpec) -> Iterator[Finding]:
    data, kind = processed.dataset, spec.label.kind
    by_kind: dict[str, Callable[[], bool]] = {
        "direction": lambda: bool((data.y_NH == labels.classes(data.return_NH, processed.dead_zone)).all()),
        "return": lambda: bool((data.y_NH == data.return_NH.astype(np.float32)).all()),
        "triple_barrier": lambda: bool(((data.y_NH - labels.FLAT) * data.return_NH >= 0).all()),
    }
    if kind in by_kind and not by_kind[kind]():
        yield Finding("target", f"targets of {kind} do not follow from the returns of their samples")


def _labels(processed: Processed, spec: PipelineSpec, rows: RowBatch) -> Iterator[Finding]:
    """Read the returns of some samples from the prices again, one by one."""
    data = processed.dataset
    known_M = (rows.flags_N & NO_POINT) == 0
    path = labels.price_path(rows.symbol_N, rows.ts_ns_N, rows.mid_N, known_M)
    number = {name: place for place, name in enumerate(rows.symbols)}
    wrong = 0
    sample_K = np.unique(np.linspace(0, len(data.ts_ns_N) - 1, _SAMPLES).astype(np.int64))
    for n in sample_K:
        ts_ns_P, price_P = path.of(number[data.symbols[data.symbol_N[n]]])
        start = np.searchsorted(ts_ns_P, data.ts_ns_N[n] + spec.label.delay, side="right") - 1
        first_H = np.searchsorted(ts_ns_P, data.end_ns_NH[n], side="left")
        last_H = np.searchsorted(ts_ns_P, data.end_ns_NH[n], side="right") - 1
        if (last_H > first_H).any():  # several prices at that very time: a barrier may have been met by any of them
            continue
        return_H = np.log(price_P[last_H] / price_P[start])
        wrong += int(start < 0 or not np.allclose(return_H, data.return_NH[n], rtol=0, atol=1e-9))
    if wrong:
        yield Finding("label", f"the returns of {wrong} of {len(sample_K)} samples are not those of their own time")


def _look_ahead(processed: Processed, rows: RowBatch, frame: pd.DataFrame) -> Iterator[Finding]:
    """Compute rows of the frame cut short: what comes later must not have changed them."""
    for share in _PLACES:
        early = rows_of(frame.iloc[: int(share * len(frame))], processed.plan.anew())
        same_MF = early.x_NF.view(np.uint32) == rows.x_NF[: len(early)].view(np.uint32)
        both_nan_MF = np.isnan(early.x_NF) & np.isnan(rows.x_NF[: len(early)])
        wrong_F = ~(same_MF | both_nan_MF).all(axis=0)
        if wrong_F.any():
            names = [name for name, wrong in zip(processed.plan.names, wrong_F, strict=True) if wrong]
            yield Finding("look-ahead", f"{', '.join(names)} of a row change with what comes after it")
            return
