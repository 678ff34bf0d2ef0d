"""Walk-forward evaluation: learn on what was known by a time, score what came after it, move on.

    expanding   |-- train --|x|-val-|x| test |                 x: the embargo behind each cut; no label of a row
                |----- train ------|x|-val-|x| test |             before a cut ends past it
    rolling     |-- train --|x|-val-|x| test |
                       |-- train --|x|-val-|x| test |

Scaler, dead zone, prior and weights are fitted anew in each fold. Shapes: N samples, I numbers of samples, H horizons.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ml_core.contenders import Learner, Predict
from ml_core.data_processor.dataset import Processed, fitted
from ml_core.data_processor.features import FeaturePlan
from ml_core.data_processor.samples import Samples, make_samples
from ml_core.data_processor.splits import Cut, split
from ml_core.errors import InputError, NotEnoughDataError
from ml_core.evaluation import metrics as measure
from ml_core.spec import PipelineSpec
from ml_core.types import Float64, Int64


class Fold(NamedTuple):
    """Event times: learn from ``[from_ns, test_ns)``, test on ``[test_ns, to_ns)``; no test row in the embargo."""

    from_ns: int
    test_ns: int
    to_ns: int
    embargo_ns: int = 0


class Scores(NamedTuple):
    """Out-of-sample scores of a fold, or of all folds, ascending by time; I rows."""

    ts_ns_I: Int64
    end_ns_IH: Int64
    score_IH: Float64
    return_IH: Float64


class WalkForward(NamedTuple):
    """What walking forward gave."""

    folds: list[Fold]
    figures: list[dict[str, float]]  # of each fold: rows, test_rows, purged; ic and pearson, means over horizons
    pooled: Scores


def folds(
    ts_ns_N: Int64,
    *,
    count: int,
    first: float = 0.4,
    scheme: Literal["expanding", "rolling"] = "expanding",
    embargo_ns: int = 0,
) -> list[Fold]:
    """Return folds whose test parts follow one another and hold equally many of the N samples.

    Args:
        ts_ns_N: Event times of the samples, in any order.
        count: Of folds.
        first: Share of the samples before the first test part.
        scheme: ``expanding`` learns from all before a test part, ``rolling`` from the newest ``first`` of the samples.
        embargo_ns: Behind the cuts of each fold; its rows are in no part.

    Raises:
        InputError: Too few samples for so many folds, or a share that leaves none. A retry will not help.

    >>> [fold[:3] for fold in folds(np.arange(10), count=2, first=0.4, scheme="rolling")]
    [(0, 4, 7), (3, 7, 10)]
    """
    ordered_N = np.sort(ts_ns_N)
    total = len(ordered_N)
    places = [round(total * (first + (1 - first) * k / count)) for k in range(count + 1)]
    if count < 1 or not 0 < first < 1 or min(np.diff([0, *places])) < 1:
        raise InputError(f"{total} samples do not make {count} folds behind a first part of {first:.0%}")
    times = [int(ordered_N[place]) for place in places[:-1]] + [int(ordered_N[-1]) + 1]
    begins = [0 if scheme == "expanding" else place - places[0] for place in places[:-1]]
    return [
        Fold(int(ordered_N[begin]), test_ns, to_ns, embargo_ns)
        for begin, test_ns, to_ns in zip(begins, times[:-1], times[1:], strict=True)
    ]


def prepare(samples: Samples, spec: PipelineSpec, plan: FeaturePlan, fold: Fold) -> Processed:
    """Return the samples of a fold as `process` would give them with the fold's cuts; hold-out rows are its test rows.

    Validation rows are the last ``train.validation`` of those before the test part.

    Raises:
        NotEnoughDataError: As `fitted`, or nothing lies before the test part. More ticks, or fewer folds, may help.
    """
    ts_ns_N = samples.rows.ts_ns_N[samples.row_N]
    ordered_I = np.sort(ts_ns_N[(ts_ns_N >= fold.from_ns) & (ts_ns_N < fold.test_ns)])
    if not len(ordered_I):
        raise NotEnoughDataError(f"no rows to learn from before {fold.test_ns}")
    cut_ns = int(ordered_I[min(len(ordered_I) - 1, round(len(ordered_I) * (1 - spec.train.validation)))])
    parts = split(ts_ns_N, samples.end_ns_NH, Cut(cut_ns, fold.test_ns, fold.to_ns, fold.embargo_ns))
    parts = parts._replace(train_I=parts.train_I[ts_ns_N[parts.train_I] >= fold.from_ns])
    return fitted(samples, spec, plan, parts)


def walk_forward(
    frame: pd.DataFrame, spec: PipelineSpec, learner: Learner, *, count: int = 3, **how: Any
) -> WalkForward:
    """Return out-of-sample scores of ``learner`` on the later part of ``frame``, fold after fold.

    Args:
        frame: Ticks in arrival order; see `ml_core.frames`.
        spec: The pipeline.
        learner: Such as ``contenders.model(spec)`` or ``contenders.ridge()``.
        count: Of folds.
        how: As `folds`.

    Raises:
        InputError, NotEnoughDataError: As `folds` and `prepare`.
    """
    plan = FeaturePlan.from_spec(spec)
    samples = make_samples(frame, spec, plan)
    if not len(samples.row_N):
        raise NotEnoughDataError("no labelled rows")
    cuts = folds(samples.rows.ts_ns_N[samples.row_N], count=count, **how)
    return over(samples, spec, plan, cuts, learner)


def over(
    samples: Samples, spec: PipelineSpec, plan: FeaturePlan, cuts: Sequence[Fold], learner: Learner
) -> WalkForward:
    """Return what `walk_forward` does, for samples and folds at hand."""
    figures, parts = [], []
    for fold in cuts:
        processed = prepare(samples, spec, plan, fold)
        found = scores(processed, learner(processed))
        parts.append(found)
        figures.append(
            {
                "rows": len(processed.train_I) + len(processed.validation_I),
                "test_rows": len(processed.holdout_I),
                "purged": processed.report["purged"],
                "ic": _mean(measure.information_coefficient, found),
                "pearson": _mean(measure.pearson, found),
            }
        )
    pooled = Scores(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return WalkForward(list(cuts), figures, pooled)


def scores(processed: Processed, predict: Predict) -> Scores:
    """Return the scores of the hold-out rows, ascending by time."""
    dataset = processed.dataset
    chosen_I = processed.holdout_I[np.argsort(dataset.ts_ns_N[processed.holdout_I], kind="stable")]
    return Scores(
        dataset.ts_ns_N[chosen_I],
        dataset.end_ns_NH[chosen_I],
        np.asarray(predict(chosen_I), dtype=np.float64),
        dataset.return_NH[chosen_I],
    )


def _mean(measured: Callable[[Float64, Float64], float], found: Scores) -> float:
    values = [measured(found.score_IH[:, h], found.return_IH[:, h]) for h in range(found.score_IH.shape[1])]
    return float(np.mean([value for value in values if math.isfinite(value)] or [math.nan]))
