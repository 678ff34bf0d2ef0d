"""Ticks by hand: `quote` and `trade` at seconds after `START_NS`, and random ones for hypothesis."""

import itertools
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from ml_core import frames
from ml_core.data_processor.cleaning import select
from ml_core.data_processor.features import FeaturePlan, FeatureState, step
from ml_core.spec import PipelineSpec, parse
from ml_core.types import RowBatch, SymbolTable, TickBatch, TickKind

START_NS = 1_700_000_000 * 10**9
NAN = float("nan")


class Tick(NamedTuple):
    kind: TickKind
    at_s: float
    price: float = NAN
    size: float = NAN
    side: int = 0
    bid: float = NAN
    ask: float = NAN
    bid_size: float = NAN
    ask_size: float = NAN
    symbol: str = "A"
    seq: int = -1

    @property
    def ts_ns(self) -> int:
        return START_NS + round(self.at_s * 1e9)


def quote(at_s: float, bid: float, ask: float, bid_size: float = 1.0, ask_size: float = 1.0, **more: Any) -> Tick:
    return Tick(TickKind.QUOTE, at_s, bid=bid, ask=ask, bid_size=bid_size, ask_size=ask_size, **more)


def trade(at_s: float, price: float, size: float = 1.0, side: int = 1, **more: Any) -> Tick:
    return Tick(TickKind.TRADE, at_s, price=price, size=size, side=side, **more)


def batch(ticks: list[Tick], symbols: SymbolTable | None = None) -> TickBatch:
    table = SymbolTable() if symbols is None else symbols

    def column(name: str, dtype: type) -> Any:
        return np.array([getattr(tick, name) for tick in ticks], dtype=dtype)

    prices = {f"{name}_N": column(name, np.float64) for name in frames.PRICE_COLUMNS}
    return TickBatch(
        offset_N=np.arange(len(ticks), dtype=np.int64),
        index_N=np.zeros(len(ticks), dtype=np.int32),
        kind_N=column("kind", np.int8),
        symbol_N=np.array([table.add(tick.symbol) for tick in ticks], dtype=np.int32),
        ts_ns_N=column("ts_ns", np.int64),
        side_N=column("side", np.int8),
        seq_N=column("seq", np.int64),
        symbols=table.names,
        **prices,
    )


def frame(ticks: list[Tick]) -> Any:
    return frames.to_frame(batch(ticks))


def pipeline(use: list[str] | None = None, **parts: Any) -> PipelineSpec:
    features = parts.pop("features", {}) | ({"use": use} if use else {})
    return parse({"name": "test", "features": features, **parts})


def rows(ticks: list[Tick], use: list[str] | None = None, **features: Any) -> RowBatch:
    plan = FeaturePlan.from_spec(pipeline(use, features=features))
    symbols = SymbolTable()
    return step(batch(ticks, symbols), FeatureState(plan, symbols))


def cut(ticks: TickBatch, places: list[int]) -> list[TickBatch]:
    """Return ``ticks`` in consecutive batches, cut at ``places``."""
    bounds = [0, *sorted(min(place, len(ticks)) for place in places), len(ticks)]
    return [select(ticks, slice(first, last)) for first, last in itertools.pairwise(bounds)]


def joined(parts: list[RowBatch]) -> dict[str, bytes]:
    """Return the bytes of every column of consecutive batches of rows."""
    names = [name for name in RowBatch._fields if name != "symbols"]
    return {name: b"".join(np.ascontiguousarray(getattr(part, name)).tobytes() for part in parts) for name in names}


@st.composite
def markets(draw: st.DrawFn, symbols: int = 3, max_ticks: int = 120) -> list[Tick]:
    """Draw ticks of some symbols: bursts, silences, late and repeated ticks, locked, one-sided and sizeless quotes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, max_ticks))
    now_s, ticks, mid = 0.0, [], 100.0
    for i in range(count):
        now_s += float(rng.choice([0.0, 0.003, 0.2, 1.7, 25.0, 90.0], p=[0.15, 0.35, 0.3, 0.14, 0.04, 0.02]))
        at_s = now_s - float(rng.choice([0.0, 0.5, 200.0], p=[0.9, 0.08, 0.02]))
        mid *= float(np.exp(rng.normal(0, 1e-3)))
        more = {"symbol": f"S{rng.integers(symbols)}", "seq": int(rng.choice([-1, i, max(0, i - 1)]))}
        if rng.random() < 0.4:
            side = int(rng.integers(-1, 2))
            ticks.append(trade(at_s, round(mid, 2), float(rng.choice([0.5, 3.0, NAN])), side, **more))
            continue
        half = float(rng.choice([0.0, 0.01, 0.03, NAN, -0.01], p=[0.1, 0.5, 0.3, 0.05, 0.05]))
        sizes = rng.choice([1.0, 4.0, 9.0, NAN], 2, p=[0.4, 0.3, 0.25, 0.05])
        ticks.append(quote(at_s, round(mid - half, 2), round(mid + half, 2), float(sizes[0]), float(sizes[1]), **more))
    return ticks
