"""A seeded market: quotes and trades of N symbols with an edge that a model can learn and that changes by script.

Each symbol has two hidden imbalances, both Ornstein-Uhlenbeck with unit variance: that of the *queue* shows in the
sizes of the best quotes, that of the *flow* in the sides of the trades. A regime says how much of each drives the mid:

    d mid / tick = DRIFT * edge * (w_queue * queue + w_flow * flow) dt + dW

so that what a model learned in one regime is wrong in the next. The mid moves on a grid of 50 ms, ticks come as a
Poisson stream, symbol k with a share of 1/k (Zipf). Shapes: N ticks, S symbols, G grid steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import numpy as np
import pandas as pd

from data_io.data_fetcher.port import Chunked, SourceReport
from ml_core import frames
from ml_core.errors import InputError, nearest
from ml_core.types import Float64, Int64, TickKind

PREFIX = "synthetic"
START_NS = 1_704_205_800 * 10**9  # 2024-01-02T14:30:00Z
REGIMES = ((1.0, 0.4), (-1.0, 0.4), (0.0, 1.1))
"""Weights (queue, flow) of the regimes, taken in turn: the edge, its sign changed, and moved to the other feature."""

TICK = 0.01
GRID_NS = 50_000_000
MEMORY_S = 4.0  # time constant of both imbalances: an edge for horizons of 1 s to 10 s
DRIFT = 0.9  # ticks per second at an imbalance of one; the noise is one tick per root second
TRADE_SHARE = 0.25
WIDE_SHARE = 0.08  # quotes three ticks wide instead of one; both sides step back, so the mid stays
_CHUNK_TICKS = 65_536
_CHUNK_CELLS = 4_000_000  # grid steps x symbols held at once: 32 MB an array


@dataclass(frozen=True)
class Market:
    """What a synthetic market is made of; equal values give equal ticks."""

    symbols: int = 4
    ticks: int = 100_000
    seed: int = 0
    rate: float = 500.0  # mean ticks per second of event time, all symbols together
    regimes: int = 1  # equal spans of event time, each with the next of REGIMES
    edge: float = 1.0  # strength of what can be learned; 0: nothing

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        bounds = {
            "symbols": (1, 10_000),
            "ticks": (0, 10**9),
            "seed": (0, 2**63 - 1),
            "rate": (1, 1e8),
            "regimes": (1, 10_000),
            "edge": (0, 10),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise InputError(f"synthetic market: {name}={value} is not within [{low}, {high}]")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the market of a text such as ``"synthetic:symbols=8,ticks=60000,seed=1,rate=500,regimes=2"``.

        Raises:
            InputError: The text names something unknown or out of range.
        """
        prefix, _, rest = text.partition(":")
        if prefix != PREFIX:
            raise InputError(f"{text!r} does not start with {PREFIX + ':'!r}")
        types = {f.name: float if f.type is float else int for f in fields(cls)}
        given: dict[str, float] = {}
        for part in filter(None, (word.strip() for word in rest.split(","))):
            name, _, value = part.partition("=")
            if name not in types:
                raise InputError(f"synthetic market: unknown option {name!r}{nearest(name, types)}")
            try:
                given[name] = types[name](value)
            except ValueError:
                raise InputError(f"synthetic market: {part!r} needs {types[name].__name__} after the '='") from None
        return cls(**given)  # type: ignore[arg-type]  # converted by the type of each field above


class Synthetic(Chunked):
    """Ticks of a `Market`; made chunk by chunk, so that a long market needs no more memory than a short one."""

    ts_source = "exchange"
    kinds: ClassVar[frozenset[str]] = frozenset(frames.KINDS)

    def __init__(self, market: Market) -> None:
        """Make the ticks of ``market``."""
        self.market = market
        self.report = SourceReport()

    def symbols(self) -> list[str]:
        """Return the names of all symbols, the busiest first."""
        width = max(2, len(str(self.market.symbols - 1)))
        return [f"SYN{i:0{width}d}" for i in range(self.market.symbols)]

    def _chunks(self) -> Iterator[pd.DataFrame]:
        self.report = SourceReport()
        market = self.market
        names = self.symbols()
        grid_steps = max(1, _CHUNK_CELLS // market.symbols)
        size = max(1, min(_CHUNK_TICKS, int(market.rate * grid_steps * GRID_NS / 1e9)))
        book = _Book(market)
        share_S = 1 / np.arange(1, market.symbols + 1)
        share_S /= share_S.sum()
        now_ns, done = 0, 0
        while done < market.ticks:
            rng = np.random.default_rng([market.seed, 1, done])
            gap_N = np.maximum(1, rng.exponential(1e9 / market.rate, size)).astype(np.int64)
            elapsed_N = now_ns + np.cumsum(gap_N)
            symbol_N = rng.choice(market.symbols, size, p=share_S).astype(np.int32)
            frame = _ticks(rng, book, elapsed_N, symbol_N, names, done)
            now_ns = int(elapsed_N[-1])
            frame = frame.iloc[: market.ticks - done]
            done += size
            self.report.count(frame)
            yield frame


class _Book:
    """Hidden state of all symbols, carried from chunk to chunk along the grid."""

    def __init__(self, market: Market) -> None:
        rng = np.random.default_rng([market.seed, 0])
        self.market = market
        self.start_price_S = np.round(rng.uniform(80.0, 400.0, market.symbols) / TICK)  # in ticks
        self.step = 0  # grid steps made
        self.imbalance_2S = rng.standard_normal((2, market.symbols))  # queue, flow
        self.walk_S = np.zeros(market.symbols)  # ticks from the start price

    def advance(self, rng: np.random.Generator, last_step: int) -> tuple[int, Float64, Float64]:
        """Move on to ``last_step``; return the first step held, imbalances (2, G, S) and walk (G, S) from it on."""
        first = self.step
        n, step_s = last_step - first, GRID_NS / 1e9
        keep = np.exp(-step_s / MEMORY_S)
        shock_2GS = rng.standard_normal((2, n, self.market.symbols)) * np.sqrt(1 - keep**2)
        imbalance_2GS = _decay_sum(np.concatenate([self.imbalance_2S[:, None], shock_2GS], axis=1), keep)
        weight_2G = self._weights(first, n)
        pull_GS = np.einsum("kg,kgs->gs", weight_2G, imbalance_2GS[:, :-1])
        noise_GS = rng.standard_normal((n, self.market.symbols)) * np.sqrt(step_s)
        move_GS = DRIFT * self.market.edge * step_s * pull_GS + noise_GS
        walk_GS = np.concatenate([self.walk_S[None], self.walk_S + np.cumsum(move_GS, axis=0)])
        self.step, self.imbalance_2S, self.walk_S = last_step, imbalance_2GS[:, -1], walk_GS[-1]
        return first, imbalance_2GS, walk_GS

    def _weights(self, first: int, n: int) -> Float64:
        span_ns = max(1.0, self.market.ticks / self.market.rate * 1e9 / self.market.regimes)
        regime_G = np.minimum((first + np.arange(n)) * GRID_NS // span_ns, self.market.regimes - 1)
        weights: Float64 = np.array(REGIMES)[regime_G.astype(np.int64) % len(REGIMES)].T
        return weights

    def bid_ticks(self, walk_N: Float64, symbol_N: np.ndarray) -> Float64:
        """Return the best bid in ticks; the price moves by factors, so it stays positive however far it walks."""
        start_N = self.start_price_S[symbol_N]
        bid_N: Float64 = np.maximum(2.0, np.floor(start_N * np.exp(walk_N / start_N)))  # 2: a wide quote bids 1
        return bid_N


def _decay_sum(value_2GS: Float64, keep: float) -> Float64:
    """Return ``y[g] = keep * y[g - 1] + value[g]`` along axis 1, in log steps until a term no longer counts."""
    total, reach = value_2GS, 1
    while reach < total.shape[1] and keep**reach > 1e-12:
        longer = total.copy()
        longer[:, reach:] += keep**reach * total[:, :-reach]
        total, reach = longer, reach * 2
    return total


def _ticks(
    rng: np.random.Generator, book: _Book, elapsed_N: Int64, symbol_N: np.ndarray, names: list[str], done: int
) -> pd.DataFrame:
    """Return the ticks at ``elapsed_N`` ns after the start, moving ``book`` on to the last of them."""
    n = len(elapsed_N)
    first, imbalance_2GS, walk_GS = book.advance(rng, max(book.step, int(elapsed_N[-1] // GRID_NS)))
    step_N = elapsed_N // GRID_NS - first
    queue_N, flow_N = imbalance_2GS[:, step_N, symbol_N]
    bid_N = book.bid_ticks(walk_GS[step_N, symbol_N], symbol_N)

    is_trade_N = rng.random(n) < TRADE_SHARE
    buys_N = rng.random(n) < 1 / (1 + np.exp(-2.5 * flow_N))
    price_N = (bid_N + buys_N) * TICK
    size_N = np.ceil(rng.lognormal(3.0, 1.0, n))

    wide_N = rng.random(n) < WIDE_SHARE
    depth_N = rng.normal(5.0, 0.5, n)
    lean_N = 0.6 * queue_N + rng.normal(0.0, 0.3, n)  # half the log ratio of the two queues
    quote = {
        "bid": (bid_N - wide_N) * TICK,
        "ask": (bid_N + 1 + wide_N) * TICK,
        "bid_size": np.ceil(np.exp(depth_N + lean_N)),
        "ask_size": np.ceil(np.exp(depth_N - lean_N)),
    }
    number_N = done + np.arange(n, dtype=np.int64)
    return frames.build(
        ts_ns=START_NS + elapsed_N,
        symbol=frames.category(symbol_N, names),
        kind=np.where(is_trade_N, TickKind.TRADE, TickKind.QUOTE).astype(np.int8),
        price=np.where(is_trade_N, np.round(price_N, 2), np.nan),
        size=np.where(is_trade_N, size_N, np.nan),
        side=np.where(is_trade_N, np.where(buys_N, 1, -1), 0),
        seq=number_N,
        offset=number_N,
        **{name: np.where(is_trade_N, np.nan, np.round(value, 2)) for name, value in quote.items()},
    )
