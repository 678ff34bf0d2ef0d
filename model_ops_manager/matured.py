"""Outcomes of rows that were scored as ticks came in, and how good the scores were; memory is bounded.

    row t        t + delay + horizon          lateness later, by the virtual clock
    |------------|----------------------------|
                 its price is known           nothing that still counts can change it: the row has matured

A price or a row that comes more than ``source.lateness`` behind the clock does not count. So the outcome of a row and
the order in which rows mature are functions of the ticks, wherever these are cut into batches.

Shapes: N rows, H horizons, O outputs, K rows of a stretch, P points of a price path.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ml_core.contract import ModelContract
from ml_core.data_processor import cleaning, costs, labels
from ml_core.data_processor.calendars import is_open
from ml_core.data_processor.dataset import targets
from ml_core.data_processor.features import FeatureState, move
from ml_core.data_processor.labels import PricePath, price_path
from ml_core.data_processor.samples import mids_plan, of_kind, price_path_of
from ml_core.evaluation import metrics as measure
from ml_core.spec import PipelineSpec, format_duration
from ml_core.types import CLASS_LABELS, Bool, Float32, Float64, Int32, Int64, RowBatch, SymbolTable, TickBatch

STRETCH_ROWS = 65_536  # matured rows of a version whose figures are taken together; sums of these are kept
_HELD_POINTS = 262_144  # of the price path, before outcomes are looked for


class Pending(NamedTuple):
    """Scored rows that wait for their outcomes, in the order of arrival."""

    clock_N: Int64  # the virtual clock when they were scored, ascending
    version_N: Int32
    symbol_N: Int32
    ts_ns_N: Int64
    mid_N: Float64
    spread_N: Float64
    score_NH: Float32
    y_NO: Float32

    def select(self, chosen: slice | Bool) -> "Pending":
        """Return the chosen rows, in order."""
        columns: list[Any] = [column[chosen] for column in self]
        return Pending(*columns)


class Outcomes:
    """Waits for the outcomes of scored rows and sums up how good the scores of each version were."""

    def __init__(self, spec: PipelineSpec, symbols: SymbolTable) -> None:
        """Start with nothing scored; ticks will name their symbols by ``symbols``."""
        self._spec = spec
        every_mid = mids_plan(spec)
        self._mids = None if every_mid is None else FeatureState(every_mid, symbols)
        self._settled_after_ns = spec.label.delay + max(spec.label.horizons) + spec.source.lateness
        self._back_ns = spec.label.volatility_span if spec.label.barrier_widths else 0
        self._tallies: dict[int, Tally] = {}
        self._pending: list[Pending] = []
        self._path: list[PricePath] = []
        self._points, self._limit = 0, _HELD_POINTS

    def begin(self, version: int, contract: ModelContract) -> None:
        """Expect rows scored by ``version``."""
        self._tallies[version] = Tally(self._spec, contract)

    def figures(self, version: int) -> dict[str, Any]:
        """Return how many rows of ``version`` have ``matured`` with a label and without one, and metrics of the former.

        ``log_loss``, ``prior_log_loss`` and ``accuracy`` of classes, ``squared_error`` and ``prior_squared_error`` of
        numbers are means over horizons, ``ic`` and ``net_edge_bps`` are of one. The prior is that of the rows the
        version was trained on, ``ic`` the mean over stretches of STRETCH_ROWS rows. What is undefined is absent.
        """
        return self._tallies[version].figures()

    def see(self, ticks: TickBatch, lag_N: Int64, rows: RowBatch, clock_N: Int64, before_ns: int) -> None:
        """Take in the prices of ``ticks``.

        Args:
            ticks: The next ones.
            lag_N: What `features.move` says of them.
            rows: Those they made.
            clock_N: The clock at each row.
            before_ns: The clock before them.
        """
        priced = rows if self._mids is None else move(ticks, self._mids).rows  # between two rows the mid moves as well
        priced, is_mid = without_features(priced), self._spec.label.price == "mid"
        row_N = np.searchsorted(rows.offset_N, priced.offset_N if is_mid else ticks.offset_N, side="right") - 1
        now_ns_N = np.concatenate([clock_N, [before_ns]])[row_N]  # -1: before the first row
        in_time_N = now_ns_N - (priced.ts_ns_N if is_mid else ticks.ts_ns_N) <= self._spec.source.lateness
        if is_mid:
            priced = priced if in_time_N.all() else priced.select(in_time_N)
        else:
            ticks, lag_N = cleaning.select(ticks, in_time_N), lag_N[in_time_N]
        path = price_path_of(ticks, lag_N, priced, self._spec)
        self._path.append(path)
        self._points += len(path.ts_ns_P)

    def add(self, version: int, rows: RowBatch, clock_N: Int64, score_NH: Float32, y_NO: Float32) -> None:
        """Take in rows that ``version`` scored; those whose time is not between lateness ago and now do not count."""
        behind_N = clock_N - rows.ts_ns_N
        counts_N = (behind_N >= 0) & (behind_N <= self._spec.source.lateness)
        version_N = np.full(len(rows), version, np.int32)
        of_rows = (rows.symbol_N, rows.ts_ns_N, rows.mid_N, rows.spread_N)
        self._pending.append(Pending(clock_N, version_N, *of_rows, score_NH, y_NO).select(counts_N))

    def settle(self, clock_ns: int, *, last: bool = False) -> None:
        """Look for outcomes where that is due by what is held, or for the ``last`` time."""
        if self._points < self._limit and not last:
            return
        path = _joined_path(self._path)
        oldest_ns = clock_ns - self._spec.source.lateness
        if self._pending:
            held = Pending(*(np.concatenate(columns) for columns in zip(*self._pending, strict=True)))
            matured = int(np.searchsorted(held.clock_N, clock_ns - self._settled_after_ns, side="left"))
            self._judge(held.select(slice(matured)), path)
            left = held.select(slice(matured, None))
            self._pending = [left]
            oldest_ns = min(oldest_ns, int(left.ts_ns_N.min(initial=oldest_ns)))
        path = _since(path, oldest_ns - self._back_ns)
        self._path, self._points = [path], len(path.ts_ns_P)
        self._limit = max(_HELD_POINTS, 2 * self._points)  # so that each point is looked at a few times at most

    def _judge(self, rows: Pending, path: PricePath) -> None:
        if not len(rows.clock_N):
            return
        spec, drops = self._spec, cleaning.Drops(len(rows.clock_N))
        after = labels.label(
            rows.symbol_N,
            rows.ts_ns_N,
            path,
            horizons_ns=spec.label.horizons,
            delay_ns=spec.label.delay,
            max_age_ns=spec.features.max_age,
            drops=cleaning.Drops(len(rows.clock_N)),  # the clock decides here what has matured, not the symbol's own
        )
        is_old_N: Bool = np.asarray(np.isnan(after.return_NH).any(axis=1))
        drops.add("old_price", is_old_N)
        drops.add("closed", ~is_open(after.end_ns_NH.max(axis=1), spec.source.calendar))
        after = of_kind(after, _as_rows(rows), path, spec, drops)
        for version in np.unique(rows.version_N).tolist():
            mine_N = rows.version_N == version
            tally = self._tallies[version]
            chosen_N = mine_N & drops.kept_N
            tally.unlabelled += int(np.count_nonzero(mine_N & ~chosen_N))
            tally.add(rows.select(chosen_N), after.return_NH[chosen_N], after.target_NH[chosen_N])


class Tally:
    """Sums over the matured rows of one version, stretch by stretch."""

    def __init__(self, spec: PipelineSpec, contract: ModelContract) -> None:
        """Start with no rows."""
        self._spec, self._contract = spec, contract
        self._is_class = contract.label_kind in CLASS_LABELS
        self.unlabelled = 0  # matured rows that have no label: their prices are too old, or the market was closed
        self._rows = 0
        self._held: list[tuple[Pending, Float64, Float64]] = []
        self._held_rows = 0
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, rows: Pending, return_NH: Float64, target_NH: Float64) -> None:
        """Take in matured rows, in the order of arrival."""
        self._rows += len(return_NH)
        self._held.append((rows, return_NH, target_NH))
        self._held_rows += len(return_NH)
        while self._held_rows >= STRETCH_ROWS:
            self._fold(STRETCH_ROWS)

    def figures(self) -> dict[str, Any]:
        """Return the figures; nothing is added behind this."""
        if self._held_rows:
            self._fold(self._held_rows)
        means = {name: total / self._weights[name] for name, total in self._sums.items()}
        metrics = {name: value for name, value in means.items() if math.isfinite(value)}
        return {"matured": self._rows, "unlabelled": self.unlabelled, "metrics": metrics}

    def _fold(self, count: int) -> None:
        """Sum up the first ``count`` of the rows that are held."""
        pending = Pending(*(np.concatenate(columns) for columns in zip(*(each[0] for each in self._held), strict=True)))
        return_NH, target_NH = (np.concatenate([each[part] for each in self._held]) for part in (1, 2))
        first, rest = slice(count), slice(count, None)
        self._held = [(pending.select(rest), return_NH[rest], target_NH[rest])]
        self._held_rows -= count
        self._sum(pending.select(first), return_NH[first], target_NH[first])

    def _sum(self, rows: Pending, return_KH: Float64, target_KH: Float64) -> None:
        contract = self._contract
        y_KH = targets(return_KH, target_KH, contract.label_kind, contract.dead_zone)
        if self._is_class:
            self._mean("log_loss", measure.log_losses(rows.y_NO, y_KH))
            self._mean("prior_log_loss", _prior_log_losses(contract, y_KH))
            self._mean("accuracy", measure.accuracy(rows.y_NO, y_KH), len(y_KH))
        else:
            mean_H = np.array([mean for mean, _ in contract.prior])
            self._mean("squared_error", measure.squared_errors(rows.score_NH, y_KH))
            self._mean("prior_squared_error", measure.squared_errors(np.broadcast_to(mean_H, y_KH.shape), y_KH))
        is_volatility = contract.label_kind == "volatility"  # has no sign, so there is nothing to trade on
        cost_K = costs.one_way_bps(self._spec.costs, rows.spread_N, rows.mid_N)
        came_KH = y_KH.astype(np.float64) if is_volatility else return_KH
        for h, horizon_ns in enumerate(contract.horizons_ns):
            tail = "" if len(contract.horizons_ns) == 1 else f"_{format_duration(horizon_ns)}"
            score_K, came_K = rows.score_NH[:, h], came_KH[:, h]
            self._mean(f"ic{tail}", measure.information_coefficient(score_K, came_K), len(score_K))
            if not is_volatility:
                taken_K = (score_K != 0) & np.isfinite(cost_K)
                gain_K = 1e4 * np.sign(score_K[taken_K]) * came_K[taken_K] - 2 * cost_K[taken_K]
                self._mean(f"net_edge_bps{tail}", gain_K)

    def _mean(self, name: str, value: Float64 | float, weight: int | None = None) -> None:
        """Add values, or a mean of ``weight`` of them that is left out where it is undefined."""
        count = np.size(value) if weight is None else weight
        total = float(np.sum(value)) if weight is None else float(value) * weight
        if count and math.isfinite(total):
            self._sums[name] = self._sums.get(name, 0.0) + total
            self._weights[name] = self._weights.get(name, 0.0) + count


def _prior_log_losses(contract: ModelContract, y_KH: npt.NDArray[Any]) -> Float64:
    log_HC = np.log(np.maximum(np.array(contract.prior), 1e-6))
    chosen_KH: Float64 = -log_HC[np.arange(y_KH.shape[1]), y_KH]
    return np.asarray(chosen_KH.mean(axis=1), dtype=np.float64)


def without_features(rows: RowBatch) -> RowBatch:
    """Return ``rows`` with no column of features: what outcomes take."""
    return RowBatch(*rows[:6], rows.x_NF[:, :0], *rows[7:])


def _as_rows(rows: Pending) -> RowBatch:
    n = len(rows.clock_N)
    none_N, none_NF = np.zeros(n, np.int64), np.empty((n, 0), np.float32)
    columns = (rows.symbol_N, rows.ts_ns_N, rows.mid_N, rows.spread_N)
    return RowBatch(none_N, none_N.astype(np.int32), *columns, none_NF, none_N.astype(np.uint8), ())


def _joined_path(parts: list[PricePath]) -> PricePath:
    """Return parts, the earlier ticks first, as one path."""
    symbol_P, ts_ns_P, price_P = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return price_path(symbol_P, ts_ns_P, price_P, np.ones(len(ts_ns_P), np.bool_))


def _since(path: PricePath, first_ns: int) -> PricePath:
    """Return the part of a path that says what any price from ``first_ns`` on is, however old it may be."""
    before_P = path.ts_ns_P < first_ns
    goes_on_P = np.append(before_P[1:] & (path.symbol_P[1:] == path.symbol_P[:-1]), False)
    kept_P = ~(before_P & goes_on_P)
    return PricePath(path.symbol_P[kept_P], path.ts_ns_P[kept_P], path.price_P[kept_P])
