"""Features the slow way: each from its formula over the whole past of one symbol, for ticks in order of time."""

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable

from ml_core.types import TickKind
from tests.unit.ml_core.data_processor.market import NAN, Tick

SIGMA_S = 30.0
S_NS = 10**9


class History:
    """What was in force after each tick of one symbol."""

    def __init__(self, ticks: list[Tick]) -> None:
        self.ticks = ticks
        self.ts = [tick.ts_ns for tick in ticks]
        self.log_price, self.queue, self.spread = [], [], []  # in force after each tick
        self.flow: list[float] = []  # e_n of each tick
        book: Tick | None = None
        last_trade = NAN
        for tick in ticks:
            self.flow.append(0.0)
            if tick.kind == TickKind.TRADE:
                last_trade = tick.price
            elif 0 < tick.bid <= tick.ask:
                if book is not None:
                    self.flow[-1] = _flow(book, tick)
                book = tick
            price = (book.bid + book.ask) / 2 if book else last_trade
            self.log_price.append(math.log(price))
            self.queue.append(_queue(book))
            self.spread.append(book.ask - book.bid if book else NAN)

    def price_before(self, n: int, end_ns: int) -> float:
        """The log price in force just before ``end_ns``, of ticks before tick n; NaN where there is none."""
        known = bisect_left(self.ts, end_ns, 0, n)
        return self.log_price[known - 1] if known else NAN

    def sum(self, n: int, tau_s: float, value: Callable[[int], float]) -> float:
        return sum(value(k) * math.exp(-(self.ts[n] - self.ts[k]) / S_NS / tau_s) for k in range(n + 1))

    def mean(self, n: int, tau_s: float, held: list[float]) -> float:
        """EW mean over time of a value held from tick to tick, which starts at the first value there is."""
        mean = NAN
        for k in range(1, n + 1):
            if self.ts[k] == self.ts[k - 1]:
                continue
            if math.isnan(mean):
                mean = held[k - 1]
            elif not math.isnan(held[k - 1]):
                keep = math.exp(-(self.ts[k] - self.ts[k - 1]) / S_NS / tau_s)
                mean = keep * mean + (1 - keep) * held[k - 1]
        return mean

    def sigma(self, n: int, tau_s: float = SIGMA_S) -> float:
        """Volatility from prices sampled at ends of buckets tau/64 wide in which, or before which, ticks came."""
        width = int(tau_s * S_NS) // 64
        ends = sorted({(self.ts[k] // width + 1) * width for k in range(n + 1)} - {(self.ts[n] // width + 1) * width})
        starts = {end: self.ts[bisect_left(self.ts, end, 0, n + 1)] // width for end in ends}
        samples = [(starts[end], self.price_before(n, end)) for end in ends]
        squares = seconds = 0.0
        for (b0, p0), (b1, p1) in itertools.pairwise(samples):
            keep = math.exp(-(b1 - b0) / 64)
            squares, seconds = squares * keep + (p1 - p0) ** 2, seconds * keep + (b1 - b0) * width / S_NS
        return math.sqrt(squares / seconds) if squares > 0 else NAN

    def change(self, n: int, horizon_s: float) -> float:
        width = int(horizon_s * S_NS) // 16
        past = self.price_before(n, (self.ts[n] // width - 15) * width)
        return (self.log_price[n] - past) / (self.sigma(n) * math.sqrt(horizon_s))


def _flow(old: Tick, new: Tick) -> float:
    return (
        (new.bid_size if new.bid >= old.bid else 0)
        - (old.bid_size if new.bid <= old.bid else 0)
        - (new.ask_size if new.ask <= old.ask else 0)
        + (old.ask_size if new.ask >= old.ask else 0)
    )


def _queue(book: Tick | None) -> float:
    return (book.bid_size - book.ask_size) / (book.bid_size + book.ask_size) if book else NAN
