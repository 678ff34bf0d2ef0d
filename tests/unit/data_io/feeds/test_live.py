import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from data_io.feeds.binance import Binance
from data_io.feeds.coinbase import Coinbase
from data_io.feeds.gaps import Gap
from data_io.feeds.limits import Limits
from data_io.feeds.live import LiveBatch, LiveFeed
from data_io.feeds.port import Venue
from ml_core.errors import InputError
from ml_core.types import TickKind
from tests.feeds_lab import Exchange, Faults, made_binance, made_coinbase, recorded

RECORDED = Path(__file__).parents[4] / ".." / "shared" / "data" / "binance-spot-btcusdt-20240808.gz"
QUICK = Limits(
    ping_s=0.1, close_s=0.05, first_pause_s=0.002, longest_pause_s=0.02, settle_s=0.01, request_interval_s=0.001
)
BAD = Faults(half_open=0.1, drop=0.01, twice=0.02, delay=0.02, stumble=0.1)
WAIT_S = 60.0


@dataclass
class Heard:
    """What a feed has given."""

    batches: list[LiveBatch] = field(default_factory=list)

    def column(self, name: str) -> np.ndarray:
        return np.concatenate([getattr(batch.ticks, name) for batch in self.batches])

    @property
    def trades(self) -> list[int]:
        return self.column("seq_N")[self.column("kind_N") == TickKind.TRADE].tolist()

    @property
    def gaps(self) -> list[Gap]:
        return [gap for batch in self.batches for gap in batch.gaps]

    @property
    def marked(self) -> Counter[int]:
        """How many marks each missing trade is in."""
        return Counter(i for gap in self.gaps if gap.kind == "trade" for i in range(gap.first_seq, gap.last_seq + 1))


@asynccontextmanager
async def listening(feed: LiveFeed) -> AsyncIterator[Heard]:
    heard = Heard()

    async def read() -> None:
        async for batch in feed.batches():
            heard.batches.append(batch)

    task = asyncio.create_task(read())
    try:
        async with asyncio.timeout(WAIT_S):
            yield heard
            feed.stop()
            await task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def play_all(exchange: Exchange, venue: Venue, symbol: str, limits: Limits = QUICK) -> tuple[Heard, LiveFeed]:
    """Return what a feed hears of all that ``exchange`` has, from its first message on."""
    async with exchange.open():
        feed = LiveFeed(venue, [symbol], websocket=exchange.url, rest=exchange.url, limits=limits)
        async with listening(feed) as heard:
            while exchange.listener is None:
                await asyncio.sleep(0.001)
            await exchange.play()
            last = max(exchange.past)
            while not (heard.batches and heard.trades and heard.trades[-1] == last):
                await asyncio.sleep(0.01)
    return heard, feed


def check_whole(exchange: Exchange, heard: Heard, feed: LiveFeed) -> None:
    """Each trade since the first one came once, or stands in one mark because the REST side does not give it."""
    trades = heard.trades
    happened = [i for i in exchange.past if i >= trades[0]]
    assert trades[0] <= min(exchange.past) + 10
    assert trades == sorted(set(trades)), "none is doubled, and ids ascend"
    lacking = set(happened) - set(trades)
    assert lacking <= exchange.faults.withheld | exchange.faults.refused
    assert heard.marked == Counter(dict.fromkeys(lacking, 1))
    assert feed.report.missing == len(lacking)
    ts_ns = heard.column("ts_ns_N")
    assert (np.diff(ts_ns) >= 0).all()
    assert feed.report.most_held <= 50_000


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded capture is not here")
async def test_after_fifty_cuts_no_recorded_trade_is_missing_doubled_or_unmarked() -> None:
    events = recorded(RECORDED, quotes=5)
    ids = [event.trade.id for event in events if event.trade]
    withheld = frozenset(ids[2000:2200]) | frozenset(ids[5000:5600]) | frozenset(ids[7000::50])
    exchange = Exchange(events, replace(BAD, withheld=withheld), page=100, step=40)

    heard, feed = await play_all(exchange, Binance(), "BTCUSDT")

    check_whole(exchange, heard, feed)
    assert exchange.cuts >= 50
    assert exchange.dropped > 50
    assert feed.report.duplicates > 50
    assert feed.report.backfilled > 500
    assert feed.report.missing > 50


@pytest.mark.parametrize(
    ("venue", "symbol", "made"), [(Binance(), "BTCUSDT", made_binance), (Coinbase(), "BTC-USD", made_coinbase)]
)
async def test_after_fifty_cuts_no_made_trade_is_missing_doubled_or_unmarked(venue, symbol, made) -> None:
    events = made(4000)
    withheld = frozenset(range(2000, 2100)) | frozenset(range(3000, 5000, 20))
    exchange = Exchange(events, replace(BAD, withheld=withheld, cut_every=(10, 60), half_open=0.05), page=50, step=10)

    heard, feed = await play_all(exchange, venue, symbol)

    check_whole(exchange, heard, feed)
    assert exchange.cuts >= 50
    assert feed.report.backfilled > 500
    assert feed.report.missing > 5
    assert exchange.hello is None or '"subscribe"' in exchange.hello
