"""The stretches of real ticks that models are measured on, and how each is cut."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from data_io.data_fetcher.binance_capture import BinanceCapture
from data_io.data_fetcher.lean_ticks import LeanTicks
from ml_core import spec as pipelines
from ml_core.data_processor.catalogue import DEFAULT_USE
from ml_core.data_processor.dataset import Processed
from ml_core.data_processor.features import FeaturePlan
from ml_core.data_processor.samples import Samples, make_samples
from ml_core.evaluation.compare import Rows
from ml_core.spec import PipelineSpec
from ml_core.walk_forward import Fold, folds, prepare

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
LEAN, CAPTURE = "lean-ibm-ticks", "binance-spot-btcusdt-20240808.gz"
TRAINED = 0.7  # of the capture


class Cell(NamedTuple):
    """A source, a horizon, and what the page says of it."""

    name: str
    source: str
    horizon: str
    said: str
    smoke: bool = True  # too little to rank models: the first point of each space is tried

    @property
    def calendar(self) -> str:
        return "XNYS" if self.source == LEAN else "24x7"

    @property
    def folds(self) -> int:
        """Of the walk-forward inside the training part."""
        return 4 if self.source == LEAN else 2

    @property
    def first(self) -> float:
        """Share of the training part before the first fold."""
        return 0.4 if self.source == LEAN else 0.5

    @property
    def validation(self) -> float:
        """Share of the rows before a fold; that of the capture must be longer than a label."""
        return 0.15 if self.source == LEAN else 0.35


CELLS = {
    cell.name: cell
    for cell in (
        Cell(
            "ibm-10s", LEAN, "10s", "learned on 7 October 2013, tested on the 8th, 9:30 to 16:00 New York", smoke=False
        ),
        Cell("ibm-60s", LEAN, "60s", "the same days, a minute ahead"),
        Cell("binance-1s", CAPTURE, "1s", "the first 70 % of 346 s, then the rest: a smoke figure"),
        Cell("binance-10s", CAPTURE, "10s", "the first 70 % of 346 s, then the rest: a smoke figure"),
    )
}

FEATURES: dict[str, Sequence[str]] = {
    "plain": (
        "return:1s,5s,30s", "ewma_vol:30s", "vol_ratio:5s", "mid_offset:10s", "relative_spread", "spread_ratio:30s",
        "queue_imbalance", "queue_imbalance_mean:1s", "microprice_offset", "trade_intensity:10s",
        "quote_intensity:10s", "since_trade",
    ),
    "default": DEFAULT_USE,
    "flow": (*DEFAULT_USE, "trade_flow", "vwap_offset"),
    "wide": (
        "return:0.1s,0.5s,1s,5s,10s,30s,60s", "ewma_vol:10s,30s,120s", "vol_ratio:5s", "mid_offset:1s,10s,60s",
        "relative_spread", "spread_ratio:30s", "queue_imbalance", "queue_imbalance_mean:0.1s,1s,10s",
        "microprice_offset", "depth_ratio", "signed_volume:1s,10s,30s,120s", "ofi:0.1s,1s,10s,30s",
        "trade_intensity:1s,10s", "quote_intensity:1s,10s", "since_trade", "last_trade_offset", "trade_streak",
        "trade_size", "is_trade",
    ),
}  # fmt: skip


def pipeline(cell: Cell, use: str, **parts: dict[str, Any]) -> PipelineSpec:
    """The pipeline file of a trial: the return over the horizon of the cell, from the mid."""
    data: dict[str, Any] = {
        "name": cell.name,
        "source": {"calendar": cell.calendar},
        "features": {"use": FEATURES[use]},
        "label": {"kind": "return", "horizons": [cell.horizon]},
        "train": {"weights": "none"},
    }
    return pipelines.parse(
        {key: data.get(key, {}) | parts.get(key, {}) if key != "name" else data[key] for key in data | parts}
    )


class Material(NamedTuple):
    """The labelled rows of a cell, the folds inside its training part, and the one cut that the test is behind."""

    samples: Samples
    plan: FeaturePlan
    inside: list[Fold]
    final: Fold

    def prepared(self, spec: PipelineSpec, fold: Fold) -> Processed:
        return prepare(self.samples, spec, self.plan, fold)

    def rows(self, chosen_I: np.ndarray, spec: PipelineSpec) -> Rows:
        """What came of rows; going in and out again crosses half a spread twice and pays the fee twice."""
        samples, row_I = self.samples, self.samples.row_N[chosen_I]
        spread_I = samples.rows.spread_N[row_I] / samples.rows.mid_N[row_I]
        cost_I = np.nan_to_num(spread_I) + 2e-4 * spec.costs.fee_bps
        look_ahead_ns = spec.label.delay + max(spec.label.horizons)
        return Rows(samples.rows.ts_ns_N[row_I], samples.return_NH[chosen_I, 0], cost_I, look_ahead_ns)


@cache
def ticks(source: str, data: Path) -> pd.DataFrame:
    return LeanTicks.of_folder(data / LEAN).fetch() if source == LEAN else BinanceCapture(data / CAPTURE).fetch()


@cache
def material(name: str, features: str, window: int, data: Path) -> Material:
    cell = CELLS[name]
    spec = pipeline(cell, features, features={"window": window})
    plan = FeaturePlan.from_spec(spec)
    samples = make_samples(ticks(cell.source, data), spec, plan)
    ts_ns_N = samples.rows.ts_ns_N[samples.row_N]
    cut_ns = _cut(cell, ts_ns_N)
    look_ahead_ns = spec.label.delay + max(spec.label.horizons)
    embargo_ns = 0 if cell.source == CAPTURE else look_ahead_ns  # the capture is too short for one
    inside = folds(ts_ns_N[ts_ns_N < cut_ns], count=cell.folds, first=cell.first, embargo_ns=embargo_ns)
    # a fold inside never reaches the test: labels of its last rows end before the cut
    inside[-1] = inside[-1]._replace(to_ns=min(inside[-1].to_ns, cut_ns - look_ahead_ns))
    return Material(samples, plan, inside, Fold(int(ts_ns_N.min()), cut_ns, int(ts_ns_N.max()) + 1, embargo_ns))


def _cut(cell: Cell, ts_ns_N: np.ndarray) -> int:
    if cell.source == LEAN:
        return int(datetime(2013, 10, 8, tzinfo=ZoneInfo("America/New_York")).timestamp()) * 10**9
    return int(np.sort(ts_ns_N)[round(TRAINED * len(ts_ns_N))])
