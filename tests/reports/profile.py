"""Where the skill of a cell comes from: hour by hour of the test, and inside the training part feature by feature.

Shapes: N rows, F features.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ml_core.contenders import Learner, Predict
from ml_core.data_processor.dataset import Processed
from ml_core.evaluation.compare import Rows
from ml_core.evaluation.metrics import information_coefficient, pearson
from ml_core.types import Float64
from ml_core.walk_forward import over
from model_ops_manager.card import Shown
from tests.reports import models
from tests.reports.cells import material
from tests.reports.models import Trial

SHARES = (0.25, 0.5, 1.0)  # of the rows before a fold, the newest ones
HOUR_NS = 3_600_000_000_000
GROUPS = {
    "past returns": ("return", "mid_offset"),
    "volatility": ("ewma_vol", "vol_ratio"),
    "spread": ("relative_spread", "spread_ratio"),
    "queues": ("queue_imbalance", "queue_imbalance_mean", "microprice_offset", "depth_ratio"),
    "pace": ("trade_intensity", "quote_intensity", "since_trade"),
    "signed trades": ("signed_volume", "trade_streak", "last_trade_offset", "trade_size", "is_trade"),
    "trade_flow": ("trade_flow",),
    "vwap_offset": ("vwap_offset",),
    "ofi": ("ofi",),
}


class Part(NamedTuple):
    """The coefficients of what is left of a model, or of a stretch of time."""

    what: str
    rows: int
    ics: list[float]  # Spearman's, one a model
    pearsons: list[float]


def by_hour(shown: Sequence[Shown], rows: Rows) -> list[Part]:
    """Return the coefficients of models in each hour of the test part."""
    hour_N = (rows.ts_ns_N - rows.ts_ns_N[0]) // HOUR_NS
    return [_part(f"hour {hour + 1}", [each.score_N for each in shown], rows.return_N, hour_N == hour)
            for hour in np.unique(hour_N).tolist()]  # fmt: skip


def of_ridge(cell: str, trial: Trial, data: Path) -> list[Part]:
    """Return how a chosen ridge does inside the training part without some features, and with fewer rows to learn."""
    given = material(cell, trial.features, trial.window, data)
    learner = models.learner(cell, trial)
    used = {name.partition(":")[0] for name in given.plan.names}
    changed = {f"without {name}": _without(learner, group) for name, group in GROUPS.items() if used & set(group)}
    changed |= {f"the newest {share:.0%} of the rows": _newest(learner, share) for share in SHARES}

    def walked(learner: Learner, what: str) -> Part:
        found = over(given.samples, models.spec_of(cell, trial), given.plan, given.inside, learner).pooled
        score_N, return_N = found.score_IH[:, 0], found.return_IH[:, 0]
        return _part(what, [score_N], return_N, np.ones(len(return_N), np.bool_))

    return [walked(learner, what) for what, learner in changed.items()]


def lines(hours: Sequence[Part], names: Sequence[str], parts: Sequence[Part]) -> Iterator[str]:
    """Yield the tables of a page."""
    yield f"| test part | rows | {' | '.join(f'IC, {name}' for name in names)} |"
    yield "|" + " --- |" * (2 + len(names))
    for each in hours:
        yield f"| {each.what} | {each.rows:,} | {' | '.join(f'{ic:.3f}' for ic in each.ics)} |"
    yield ""
    yield "| ridge inside the training part | IC | Pearson |"
    yield "| --- | --- | --- |"
    for each in parts:
        yield f"| {each.what} | {each.ics[0]:.3f} | {each.pearsons[0]:.3f} |"
    yield ""


def _part(what: str, scores: Sequence[Float64], return_N: Float64, chosen_N: np.ndarray) -> Part:
    def each(measured: Callable[[Float64, Float64], float]) -> list[float]:
        return [measured(score_N[chosen_N], return_N[chosen_N]) for score_N in scores]

    return Part(what, int(chosen_N.sum()), each(information_coefficient), each(pearson))


def _without(learner: Learner, group: Sequence[str]) -> Learner:
    def learn(processed: Processed) -> Predict:
        x_MF = processed.dataset.x_MF.copy()
        x_MF[:, [name.partition(":")[0] in group for name in processed.plan.names]] = np.nan
        return learner(processed._replace(dataset=processed.dataset._replace(x_MF=x_MF)))

    return learn


def _newest(learner: Learner, share: float) -> Learner:
    def learn(processed: Processed) -> Predict:
        ordered_I = processed.train_I[np.argsort(processed.dataset.ts_ns_N[processed.train_I], kind="stable")]
        kept = round(share * (len(ordered_I) + len(processed.validation_I))) - len(processed.validation_I)
        return learner(processed._replace(train_I=ordered_I[len(ordered_I) - max(kept, 1) :]))

    return learn
