"""The features and flags that outputs are judged by, against their formulas in plain Python.

Shapes: N ticks of a symbol in their order, F features.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ml_core.data_processor.plan import FeaturePlan
from ml_core.spec import PipelineSpec
from ml_core.types import Float64, Int64, RowFlag, TickKind, UInt8
from tests.benchmarks.oracle import WrongOutputError, feature_rows
from tests.benchmarks.workload import SEED, Workload
from tests.unit.ml_core.data_processor.oracle import History

SYMBOLS, LONGEST = 4, 15_000  # ticks of each from its first on: 30 s of the busiest of a hundred symbols
SAMPLED = 8  # rows of each whose features are computed
# Both sides compute in float64 and add up in another order; contenders round to 6e-8.
RELATIVE, ABSOLUTE = 1e-7, 1e-9


class _Tick(NamedTuple):
    kind: int
    ts_ns: int
    price: float
    size: float
    side: int
    bid: float
    ask: float
    bid_size: float
    ask_size: float


def check(work: Workload, spec: PipelineSpec) -> None:
    """Compare some symbols' flags, and features of some of their rows.

    Raises:
        WrongOutputError: The kernel's differ by more than order of addition explains.
    """
    plan, rng = FeaturePlan.from_spec(spec), np.random.default_rng(SEED)
    present_S, count_S = np.unique(work.ticks.symbol_N, return_counts=True)
    some_S = rng.choice(present_S, min(SYMBOLS, len(present_S)), replace=False)
    for symbol in {int(present_S[count_S.argmax()]), *some_S.tolist()}:
        number_N = np.flatnonzero(work.ticks.symbol_N == symbol)[:LONGEST]
        silence_N = np.flatnonzero(np.diff(work.ticks.ts_ns_N[number_N]) > spec.features.gap)
        number_N = number_N[: silence_N[0] + 1] if len(silence_N) else number_N
        x_NF, flags_N = _of_kernel(work, number_N, spec)
        formulas = Formulas(_ticks(work, number_N), spec, plan.look_back_ns)
        name = work.ticks.symbols[symbol]
        if (wrong_N := np.flatnonzero(flags_N != formulas.flags())).size:
            at = int(wrong_N[0])
            raise WrongOutputError(f"kernel, tick {at} of {name}: flags are {flags_N[at]}, not {formulas.flags()[at]}")
        for at in rng.choice(len(number_N), min(SAMPLED, len(number_N)), replace=False).tolist():
            _compare(x_NF[at], formulas.row(at), plan.names, f"kernel, tick {at} of {name}")


def _compare(x_F: Float64, row: dict[str, float], names: tuple[str, ...], where: str) -> None:
    for name, found in zip(names, x_F.tolist(), strict=True):
        wanted = row[name]
        is_close = math.isclose(found, wanted, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        if not is_close and not (math.isnan(found) and math.isnan(wanted)):
            raise WrongOutputError(f"{where}: {name} is {found!r}, not {wanted!r}")


def _of_kernel(work: Workload, number_N: Int64, spec: PipelineSpec) -> tuple[Float64, UInt8]:
    """Return features and flags of ticks of one symbol, from a run over all ticks of their partition."""
    partition = int(work.partition_N[number_N[0]])
    place_N = np.searchsorted(work.of_partition(partition), number_N)
    parts, begin = [], 0
    for x_nF, flags_n in feature_rows(work, partition, 1, spec):
        here_N = place_N[(place_N >= begin) & (place_N < begin + len(flags_n))] - begin
        parts.append((x_nF[here_N], flags_n[here_N]))
        begin += len(flags_n)
        if begin > place_N[-1]:
            break
    return np.concatenate([x_NF for x_NF, _ in parts]), np.concatenate([flags_N for _, flags_N in parts])


def _ticks(work: Workload, number_N: Int64) -> list[_Tick]:
    columns = [getattr(work.ticks, f"{name}_N")[number_N].tolist() for name in _Tick._fields]
    return [_Tick(*fields) for fields in zip(*columns, strict=True)]


class Formulas:
    """The features of `tests/benchmarks/pipeline.toml`, each over the whole past of one symbol in order of time."""

    def __init__(self, ticks: list[Any], spec: PipelineSpec, look_back_ns: int) -> None:
        """Take the symbol's ticks from its first on, none later than the one before by more than the gap bound."""
        self._ticks, self._past = ticks, History(ticks)
        self._max_age_ns, self._look_back_ns = spec.features.max_age, look_back_ns

    def flags(self) -> UInt8:
        """Return the flags of each row."""
        flags, quoted_ns = [], None
        for tick, price in zip(self._ticks, self._past.log_price, strict=True):
            if tick.kind == TickKind.QUOTE and 0 < tick.bid <= tick.ask:
                quoted_ns = tick.ts_ns
            flag = RowFlag(0)
            if math.isnan(price):
                flag |= RowFlag.NO_PRICE
            if tick.ts_ns < self._ticks[0].ts_ns + self._look_back_ns:
                flag |= RowFlag.WARM_UP
            if quoted_ns is not None and tick.ts_ns - quoted_ns > self._max_age_ns:
                flag |= RowFlag.STALE
            flags.append(int(flag))
        return np.array(flags, np.uint8)

    def row(self, n: int) -> dict[str, float]:
        """Return the features of tick n by name."""
        past, ticks = self._past, self._ticks
        book = next((t for t in reversed(ticks[: n + 1]) if t.kind == TickKind.QUOTE and 0 < t.bid <= t.ask), None)
        traded = [k for k in range(n + 1) if ticks[k].kind == TickKind.TRADE]
        before = [k for k in traded if k < n]
        mid, spread, sigma = math.exp(past.log_price[n]), past.spread[n], past.sigma(n)
        micro = math.nan
        if book is not None:
            mid = (book.bid + book.ask) / 2
            micro = (book.bid * book.ask_size + book.ask * book.bid_size) / (book.bid_size + book.ask_size)
        last = ticks[traded[-1]].price if traded else math.nan
        gap_ms = (past.ts[n] - past.ts[before[-1]]) / 1e6 if before else math.nan
        return {
            **{f"return:{horizon_s}s": past.change(n, float(horizon_s)) for horizon_s in (1, 5, 30)},
            "ewma_vol:30s": math.log(1e4 * sigma),
            "mid_offset:10s": (past.log_price[n] - past.mean(n, 10.0, past.log_price)) / (sigma * math.sqrt(10)),
            "relative_spread": 1e4 * spread / mid,
            "spread_ratio:30s": spread / past.mean(n, 30.0, past.spread) - 1,
            "queue_imbalance": past.queue[n],
            "queue_imbalance_mean:1s": past.mean(n, 1.0, past.queue),
            "microprice_offset": (micro - mid) / mid / sigma,
            "signed_volume:10s": self._share(n, 10.0, lambda k: ticks[k].side * self._volume(k), self._volume),
            **{f"ofi:{tau_s}s": self._ofi(n, float(tau_s)) for tau_s in (1, 10)},
            "trade_intensity:10s": self._rate(n, 10.0),
            "since_trade": math.log(1 + gap_ms),
            "last_trade_offset": (last - mid) / spread,
        }

    def _volume(self, k: int) -> float:
        return self._ticks[k].size if self._ticks[k].kind == TickKind.TRADE else 0.0

    def _ofi(self, n: int, tau_s: float) -> float:
        flow = self._past.flow
        return self._share(n, tau_s, flow.__getitem__, lambda k: abs(flow[k]))

    def _share(self, n: int, tau_s: float, part: Callable[[int], float], whole: Callable[[int], float]) -> float:
        total = self._past.sum(n, tau_s, whole)
        return self._past.sum(n, tau_s, part) / total if total else math.nan

    def _rate(self, n: int, tau_s: float) -> float:
        """Return the log of trades a second, unbiased from the symbol's first tick on."""
        trades = self._past.sum(n, tau_s, lambda k: float(self._ticks[k].kind == TickKind.TRADE))
        seen_s = tau_s * -math.expm1(-(self._past.ts[n] - self._past.ts[0]) / 1e9 / tau_s)
        return math.log(trades / seen_s) if trades and seen_s else math.nan
