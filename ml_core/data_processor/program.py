"""From feature names to the tables of the kernel: sums, means, volatilities and rings are shared by all who ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ml_core.data_processor import kernels as k
from ml_core.data_processor.catalogue import SIGMA_NS, VOL_RATIO_SPAN
from ml_core.data_processor.kernel_tables import Program, UInt32
from ml_core.types import SECOND_NS, Int64, TickKind


class Column(NamedTuple):
    """One column of a row: a feature of the catalogue, and its duration where it takes one (0 where not)."""

    feature: str
    duration_ns: int


_Noted = int | tuple[int, int]  # what is noted of a row: the float in a slot, the past price of a ring, or:
_SINCE_TRADE = -1


class _Builder:
    """Hands out slots; equal requests get the same slot."""

    def __init__(self) -> None:
        self.start = [np.nan] * k.FIXED_FLOATS
        self.ints = k.FIXED_INTS
        self.taus: dict[int, tuple[int, int]] = {}  # tau -> its number, slot of its weight
        self.sums: dict[tuple[int, int], int] = {}
        self.means: dict[tuple[int, int], int] = {}
        self.vols: dict[int, tuple[int, int]] = {}
        self.rings: dict[int, tuple[int, int]] = {}
        self.ops: list[tuple[int, tuple[_Noted, ...], int, float]] = []  # operation, of what, column, factor
        self.columns = 0
        self.look_back_ns = 0

    def sum(self, impulse: int, tau_ns: int) -> int:
        """Return the slot of an EW sum of what ticks add."""
        number, _ = self._tau(tau_ns)
        if (impulse, number) not in self.sums:
            self.sums[impulse, number] = self._floats(0.0)
        return self.sums[impulse, number]

    def weight(self, tau_ns: int) -> int:
        """Return the slot of the share of an exponential window that has been seen."""
        return self._tau(tau_ns)[1]

    def mean(self, held: int, tau_ns: int) -> int:
        """Return the slot of the EW mean, over time, of the value in slot ``held``."""
        number, _ = self._tau(tau_ns)
        if (held, number) not in self.means:
            self.means[held, number] = self._floats(np.nan)
        return self.means[held, number]

    def sigma(self, tau_ns: int = SIGMA_NS) -> int:
        """Return the slot of a volatility; the slot after it holds its logarithm in basis points."""
        self._look_back(tau_ns)
        if tau_ns not in self.vols:
            base = self._floats(0.0, 0.0, np.nan, np.nan, np.nan)
            self.vols[tau_ns] = (base, self._int())
        return self.vols[tau_ns][0] + 3

    def ring(self, horizon_ns: int) -> tuple[int, int]:
        """Return the float and the int slot of a ring of past log prices."""
        self._look_back(horizon_ns)
        if horizon_ns not in self.rings:
            base = self._floats(*[np.nan] * k.BUCKETS)
            self.rings[horizon_ns] = (base, self._int())
        return self.rings[horizon_ns]

    def grids(self) -> list[tuple[int, ...]]:
        """Return the grids of time of volatilities and rings."""
        vols: list[tuple[int, ...]] = [
            (k.VOLATILITY, tau // k.VOL_BUCKETS, base, slot) for tau, (base, slot) in self.vols.items()
        ]
        return vols + [(k.RING, span // k.BUCKETS, base, slot) for span, (base, slot) in self.rings.items()]

    def op(self, op: int, a: _Noted, *others: _Noted, factor: float = 1.0) -> None:
        """Add the operation of the next column, of one to four things noted: a, b, c, d."""
        of = (a, *others, *[a] * (3 - len(others)))
        self.ops.append((op, of, self.columns, factor))
        self.columns += 1

    def skip(self) -> None:
        """Leave the next column to somebody else."""
        self.columns += 1

    def _tau(self, tau_ns: int) -> tuple[int, int]:
        self._look_back(tau_ns)
        if tau_ns not in self.taus:
            self.taus[tau_ns] = (len(self.taus), self._floats(0.0))
        return self.taus[tau_ns]

    def _floats(self, *start: float) -> int:
        self.start.extend(start)
        return len(self.start) - len(start)

    def _int(self) -> int:
        self.ints += 1
        return self.ints - 1

    def _look_back(self, span_ns: int) -> None:
        self.look_back_ns = max(self.look_back_ns, span_ns)


def _root_s(span_ns: int) -> float:
    return float((span_ns / SECOND_NS) ** 0.5)


def _return(build: _Builder, span_ns: int) -> None:
    build.op(k.DISTANCE, k.LOG_REF, build.ring(span_ns), build.sigma(), factor=_root_s(span_ns))


def _mid_offset(build: _Builder, span_ns: int) -> None:
    build.op(k.DISTANCE, k.LOG_REF, build.mean(k.LOG_REF, span_ns), build.sigma(), factor=_root_s(span_ns))


def _vwap_offset(build: _Builder, span_ns: int) -> None:
    turnover, volume = build.sum(k.TURNOVER, span_ns), build.sum(k.VOLUME, span_ns)
    build.op(k.FROM_MEAN, k.REF, turnover, volume, build.mean(k.SPREAD, SIGMA_NS))


def _vol_ratio(build: _Builder, span_ns: int) -> None:
    build.op(k.DIFFERENCE, build.sigma(span_ns) + 1, build.sigma(VOL_RATIO_SPAN * span_ns) + 1)


def _trade_size(build: _Builder, span_ns: int) -> None:
    build.op(k.LOG_RATIO, k.SIZE, build.sum(k.VOLUME, span_ns), build.sum(k.TRADE_COUNT, span_ns))


def _value(slot: int) -> Recipe:
    return lambda build, _: build.op(k.VALUE, slot)


def _excess(slot: int) -> Recipe:
    return lambda build, span_ns: build.op(k.EXCESS, slot, build.mean(slot, span_ns))


def _share(part: int, whole: int) -> Recipe:
    return lambda build, span_ns: build.op(k.SHARE, build.sum(part, span_ns), build.sum(whole, span_ns))


def _rate(impulse: int) -> Recipe:
    return lambda build, span_ns: build.op(
        k.LOG_RATE, build.sum(impulse, span_ns), build.weight(span_ns), factor=span_ns / SECOND_NS
    )


Recipe = Callable[[_Builder, int], None]

_RECIPES: dict[str, Recipe] = {
    "return": _return,
    "ewma_vol": lambda build, span_ns: build.op(k.VALUE, build.sigma(span_ns) + 1),
    "vol_ratio": _vol_ratio,
    "mid_offset": _mid_offset,
    "relative_spread": _value(k.SPREAD_BPS),
    "spread_ratio": _excess(k.SPREAD),
    "queue_imbalance": _value(k.QUEUE),
    "queue_imbalance_mean": lambda build, span_ns: build.op(k.VALUE, build.mean(k.QUEUE, span_ns)),
    "microprice_offset": lambda build, _: build.op(k.PER_VOL, k.MICRO, k.MICRO, build.sigma()),
    "depth_ratio": _excess(k.DEPTH),
    "signed_volume": _share(k.SIGNED_VOLUME, k.VOLUME),
    "trade_flow": lambda build, span_ns: build.op(
        k.SHARE, build.sum(k.TRADE_SIDE, span_ns), build.sum(k.TRADE_COUNT, SIGMA_NS)
    ),
    "vwap_offset": _vwap_offset,
    "ofi": _share(k.OFI, k.ABS_OFI),
    "trade_intensity": _rate(k.TRADE_COUNT),
    "quote_intensity": _rate(k.QUOTE_COUNT),
    "since_trade": lambda build, _: build.op(k.LOG_MS, _SINCE_TRADE),
    "last_trade_offset": lambda build, _: build.op(k.DISTANCE, k.TRADE, k.REF, k.SPREAD),
    "trade_streak": _value(k.STREAK),
    "trade_size": _trade_size,
    "is_trade": _value(k.IS_TRADE),
}


class Compiled(NamedTuple):
    """A program and the size of the state it works on."""

    program: Program
    floats: int
    ints: int


def compile_program(
    columns: list[Column | None], *, rows_on: tuple[str, ...], gap_ns: int, max_age_ns: int, edge_E: Int64
) -> Compiled:
    """Return the program that writes ``columns``, in that order; None leaves a column to an own feature."""
    builder = _Builder()
    for column in columns:
        if column is None:
            builder.skip()
        else:
            _RECIPES[column.feature](builder, column.duration_ns)
    watched = sorted({slot for _, of, _, _ in builder.ops for slot in of if isinstance(slot, int) and slot >= 0})
    noted: list[_Noted] = [*watched, *builder.rings.values(), _SINCE_TRADE]
    grids = builder.grids()
    program = Program(
        start_K=np.array(builder.start),
        rate_D=1.0 / np.array(list(builder.taus), dtype=np.float64),
        weight_D=np.array([slot for _, slot in builder.taus.values()], dtype=np.uint32),
        sum_3U=_table([(*key, slot) for key, slot in builder.sums.items()], 3),
        mean_3M=_table([(*key, slot) for key, slot in builder.means.items()], 3),
        grid_3G=_table([(kind, base, slot) for kind, _, base, slot in grids], 3),
        width_G=np.array([width for _, width, _, _ in grids], dtype=np.int64),
        watch_W=np.array(watched, dtype=np.uint32),
        ring_2H=_table(list(builder.rings.values()), 2),
        op_6F=_table([(op, *map(noted.index, of), column) for op, of, column, _ in builder.ops], 6),
        factor_F=np.array([factor for *_, factor in builder.ops], dtype=np.float64),
        rows_on_2=np.array([kind.name.lower() in rows_on for kind in TickKind]),
        gap_ns=gap_ns,
        max_age_ns=max_age_ns,
        look_back_ns=builder.look_back_ns,
        edge_E=edge_E,
    )
    return Compiled(program, len(builder.start), builder.ints)


def _table(entries: Sequence[tuple[int, ...]], width: int) -> UInt32:
    """Return a table with a column for each entry."""
    return np.ascontiguousarray(np.array(entries, dtype=np.uint32).reshape(-1, width).T)
