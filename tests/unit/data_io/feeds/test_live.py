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
from tests.feeds_lab import Exchange, Faults, made_binance, made_coinbase, recorded, until

RECORDED = Path(__file__).parents[4] / ".." / "shared" / "data" / "binance-spot-btcusdt-20240808.gz"
QUICK = Limits(
    ping_s=0.2,
    close_s=0.05,
    first_pause_s=0.002,
    longest_pause_s=0.02,
    settle_s=0.01,
    attempts=8,
    request_interval_s=0.001,
)
BAD = Faults(cuts=50, half_open=0.06, drop=0.01, twice=0.02, delay=0.02, stumble=0.1)
WAIT_S = 30.0


@dataclass
class Heard:
    """What a feed has given."""

    batches: list[LiveBatch] = field(default_factory=list)
    newest: int = -1  # trade

    def column(self, name: str) -> np.ndarray:
        return np.concatenate([np.empty(0, np.int64), *(getattr(batch.ticks, name) for batch in self.batches)])

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
            heard.newest = max([heard.newest, *batch.ticks.seq_N[batch.ticks.kind_N == TickKind.TRADE]])

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
            await exchange.whole()
            await exchange.play()
            last = max(exchange.past)
            await until(lambda: heard.newest == last)
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
    assert exchange.cuts == 50
    assert exchange.dropped > 50
    assert feed.report.duplicates > 50
    assert feed.report.backfilled > 500
    assert feed.report.missing > 50


@pytest.mark.parametrize(
    ("venue", "symbol", "made"), [(Binance(), "BTCUSDT", made_binance), (Coinbase(), "BTC-USD", made_coinbase)]
)
async def test_after_fifty_cuts_no_made_trade_is_missing_doubled_or_unmarked(venue, symbol, made) -> None:
    events = made(2500)
    withheld = frozenset(range(2000, 2100)) | frozenset(range(2500, 3500, 20))
    exchange = Exchange(events, replace(BAD, withheld=withheld), page=50, step=10)

    heard, feed = await play_all(exchange, venue, symbol)

    check_whole(exchange, heard, feed)
    assert exchange.cuts == 50
    assert feed.report.backfilled > 200
    assert feed.report.missing > 5
    assert exchange.hello is None or '"subscribe"' in exchange.hello


async def hear(feed: LiveFeed, exchange: Exchange, ids: list[int]) -> None:
    """Let the exchange tell of the trades ``ids``; all of its trades have happened."""
    exchange.past = {event.trade.id: event.trade for event in exchange.events if event.trade}
    socket = await exchange.whole()
    for event in exchange.events:
        if event.trade and event.trade.id in ids:
            await socket.send_str(event.payload)


@asynccontextmanager
async def lab(faults: Faults, limits: Limits, *, page: int = 1000) -> AsyncIterator[tuple[Exchange, LiveFeed, Heard]]:
    exchange = Exchange(made_binance(200), faults, page=page)
    async with exchange.open():
        feed = LiveFeed(Binance(), ["BTCUSDT"], websocket=exchange.url, rest=exchange.url, limits=limits)
        async with listening(feed) as heard:
            yield exchange, feed, heard


async def test_a_hole_that_the_rest_side_refuses_is_one_mark_between_its_neighbours() -> None:
    async with lab(Faults(refused=frozenset({1005})), QUICK) as (exchange, feed, heard):
        await hear(feed, exchange, [1000, 1001, 1010])
        await until(lambda: heard.trades == [1000, 1001, 1010])

    ts_ns = heard.column("ts_ns_N").tolist()
    assert [gap for gap in heard.gaps if gap.kind == "trade"] == [
        Gap("BTCUSDT", "trade", ts_ns[1], ts_ns[2], "refused", 1002, 1009)
    ]
    assert exchange.asked == 1, "what is refused is asked for once"


async def test_a_hole_of_many_pages_is_filled_at_the_first_attempt() -> None:
    async with lab(Faults(), replace(QUICK, attempts=1), page=3) as (exchange, feed, heard):
        await hear(feed, exchange, [1000, 1011])
        await until(lambda: heard.trades == [*range(1000, 1012)])
    assert exchange.asked == 4


async def test_a_hole_too_large_to_be_filled_is_marked_unasked() -> None:
    async with lab(Faults(), replace(QUICK, fill_trades=8)) as (exchange, feed, heard):
        await hear(feed, exchange, [1000, 1010, 1015])
        await until(lambda: heard.trades == [1000, *range(1010, 1016)])
    assert [(gap.reason, gap.trades) for gap in heard.gaps if gap.kind == "trade"] == [("too_large", 9)]


async def test_while_the_rest_side_is_mute_only_so_many_ticks_are_held() -> None:
    async with lab(Faults(mute=True), replace(QUICK, hold=20)) as (exchange, feed, heard):
        await hear(feed, exchange, [1000, *range(1050, 1100)])
        await until(lambda: heard.trades == [1000, *range(1050, 1100)])
    assert [(gap.reason, gap.trades) for gap in heard.gaps if gap.kind == "trade"] == [("overflow", 49)]
    assert feed.report.most_held == 20


async def test_a_mute_rest_side_is_given_up_in_time() -> None:
    async with lab(Faults(mute=True), replace(QUICK, fill_s=0.05)) as (exchange, feed, heard):
        await hear(feed, exchange, [1000, 1002])
        await until(lambda: heard.trades == [1000, 1002])
    assert [gap.reason for gap in heard.gaps] == ["started", "timeout"]


async def test_a_tick_waits_no_longer_behind_many_holes_than_behind_one() -> None:
    ids = list(range(1000, 1200, 2))
    async with lab(Faults(mute=True), replace(QUICK, fill_s=WAIT_S / 60)) as (exchange, feed, heard):
        await hear(feed, exchange, ids)
        await until(lambda: heard.trades == ids)
    assert [gap.reason for gap in heard.gaps if gap.kind == "trade"] == ["timeout"] * 99


async def test_a_stopped_feed_hands_out_what_it_holds_within_its_bound() -> None:
    async with lab(Faults(mute=True), replace(QUICK, drain_s=0.05)) as (exchange, feed, heard):
        await hear(feed, exchange, [1000, 1003])
        await until(lambda: feed.report.holes == 1 and heard.trades == [1000])
        feed.stop()
        await until(lambda: heard.trades == [1000, 1003])
    assert [(gap.reason, gap.trades) for gap in heard.gaps] == [("started", 0), ("stopped", 2)]


async def test_trades_that_were_asked_for_stand_between_their_neighbours_and_say_so() -> None:
    async with lab(Faults(), QUICK) as (exchange, feed, heard):
        await hear(feed, exchange, [1000, 1004])
        await until(lambda: heard.trades == [1000, 1001, 1002, 1003, 1004])
    assert (np.diff(heard.column("ts_ns_N")) >= 0).all()
    exchange_ns = np.concatenate([batch.exchange_ns_N for batch in heard.batches])
    assert exchange_ns.tolist() == [exchange.past[i].exchange_ns for i in range(1000, 1005)]
    backfilled = np.concatenate([batch.is_backfilled_N for batch in heard.batches])
    assert backfilled.tolist() == [False, True, True, True, False]


async def test_a_reader_that_falls_behind_stops_the_reading() -> None:
    feed = LiveFeed(Binance(), ["BTCUSDT"], limits=replace(QUICK, queue=4))  # the mark of the start is one
    payloads = [event.payload.encode() for event in made_binance(4) if event.trade]
    for payload in payloads[:2]:
        await feed.received(payload)
    stuck = asyncio.create_task(feed.received(payloads[2]))
    await asyncio.sleep(0)
    assert not stuck.done()
    stuck.cancel()
    await asyncio.wait([stuck])


async def test_messages_that_no_venue_should_send_are_counted_and_cost_nothing_else() -> None:
    feed = LiveFeed(Binance(), ["BTCUSDT"], limits=QUICK)
    deep = b'{"stream":' + b"[" * 100_000
    for payload in (deep, b"", b"\xff", *(b'{"stream":"x@%d"}' % i for i in range(1000))):
        await feed.received(payload)
    assert feed.report.skipped.total() == 3
    assert feed.report.ignored.total() == 1000
    assert len(feed.report.ignored) <= 101, "names that a venue makes up are not kept without bound"


async def test_a_subscription_that_is_refused_ends_the_feed() -> None:
    exchange = Exchange(made_coinbase(2))
    async with exchange.open():
        feed = LiveFeed(Coinbase(), ["NO-SUCH"], websocket=exchange.url, rest=exchange.url, limits=QUICK)
        reading = asyncio.create_task(anext(feed.batches()))
        socket = await exchange.whole()
        await socket.send_str('{"type":"error","message":"Failed to subscribe","reason":"not a product"}')
        with pytest.raises(InputError, match="coinbase refuses NO-SUCH: Failed to subscribe not a product"):
            await reading


async def test_an_error_of_the_venue_costs_a_connection_and_not_the_feed() -> None:
    exchange = Exchange(made_coinbase(2))
    async with exchange.open():
        feed = LiveFeed(Coinbase(), ["BTC-USD"], websocket=exchange.url, rest=exchange.url, limits=QUICK)
        async with listening(feed) as heard:
            socket = await exchange.whole()
            await socket.send_str('{"type":"error","message":"Internal server error"}')
            await until(lambda: socket.closed)
            await exchange.play()
            await until(lambda: heard.trades == [1000, 1001])
    assert feed.report.lost == {"error of the venue": 1}


@pytest.mark.parametrize("symbols", [[], ["A", "A"]])
def test_a_feed_of_no_symbol_or_of_one_twice_is_refused(symbols: list[str]) -> None:
    with pytest.raises(InputError, match="each once"):
        LiveFeed(Binance(), symbols)


def test_a_limit_that_bounds_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="fill_s = inf"):
        Limits(fill_s=float("inf"))
