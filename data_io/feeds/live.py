"""A live feed: messages of a venue in, batches of ticks and marks of gaps out."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, NamedTuple

import aiohttp
import numpy as np
import structlog
from pydantic import SecretStr

from data_io.data_fetcher.port import BATCH_SIZE
from data_io.data_fetcher.venue_values import UnusableMessageError
from data_io.feeds import backfill
from data_io.feeds.backfill import Rest
from data_io.feeds.gaps import Gap
from data_io.feeds.limits import Limits
from data_io.feeds.order import Placed, SymbolOrder
from data_io.feeds.port import Head, Other, Quote, RefusedError, Trade, Venue
from data_io.feeds.receive_clock import ReceiveClock
from data_io.feeds.report import FeedReport
from data_io.feeds.session import Session, Sleep
from data_io.feeds.steady_clock import SteadyClock
from ml_core import frames
from ml_core.errors import ConflictError, InputError
from ml_core.types import Bool, Int64, SymbolTable, TickBatch, TickKind

log = structlog.get_logger()

_NAN = float("nan")


class LiveBatch(NamedTuple):
    """N ticks, and the gaps that have become known since the batch before."""

    ticks: TickBatch
    exchange_ns_N: Int64  # the venue's time, -1 unknown
    is_backfilled_N: Bool  # asked for afterwards, and placed on the receive clock by the venue's time
    gaps: list[Gap]


class LiveFeed:
    """Trades and best quotes of some symbols of a venue, from now on until it is stopped.

    Best quotes need not have a time of the venue, so every tick stands on the receive clock. Of a symbol times never
    go back, and every trade the REST side can give comes once, in the order of the venue's ids, which are ``seq_N``.
    """

    ts_source = "receive"
    kinds: ClassVar[frozenset[str]] = frozenset(frames.KINDS)

    def __init__(
        self,
        venue: Venue,
        symbols: Sequence[str],
        *,
        websocket: str | None = None,
        rest: str | None = None,
        api_key: SecretStr | None = None,
        limits: Limits | None = None,
        clock: Callable[[], int] | None = None,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        """Nothing is contacted yet.

        Args:
            venue: The format.
            symbols: As the venue writes them.
            websocket: URL instead of the venue's own, without path.
            rest: Likewise.
            api_key: For the REST side; goes to no other.
            limits: Bounds of waits and queues.
            clock: The receive clock, ns since the epoch, which never goes back; None: that of the machine.
            sleep: How waits between attempts are made.
            rng: For jitter.

        Raises:
            InputError: There is no symbol, or one twice.
        """
        if not symbols or len(set(symbols)) < len(symbols):
            raise InputError(f"a feed needs symbols, each once, not {list(symbols)}")
        self.report = FeedReport()
        self._venue, self._symbols, self._limits = venue, list(symbols), limits or Limits()
        self._websocket, self._rest_url = (websocket or venue.websocket).rstrip("/"), rest or venue.rest
        self._api_key, self._clock, self._sleep, self._rng = api_key, clock or SteadyClock(), sleep, rng
        receive_clock = self._receive_clock = ReceiveClock()
        self._orders = {
            symbol: SymbolOrder(symbol, self._out, receive_clock, self.report, self._limits.hold) for symbol in symbols
        }
        self._table = SymbolTable()
        self._heard_ns = 0
        self._given = 0
        self._items: deque[Placed | Gap] = deque()
        self._ready, self._space, self._stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._is_closing = self._ended = False
        self._rest: Rest | None = None
        self._fills: dict[str, asyncio.Task[None]] = {}
        self._work: asyncio.Task[None] | None = None

    def symbols(self) -> list[str]:
        """Return the symbols, sorted."""
        return sorted(self._symbols)

    def stop(self) -> None:
        """End the feed: what is under way is handed out, within `Limits.drain_s`."""
        self._stop.set()

    async def stream(self, batch_size: int = BATCH_SIZE) -> AsyncGenerator[TickBatch, None]:
        """Yield ticks as they come, in batches of at most ``batch_size``; see `batches`."""
        async with aclosing(self.batches(batch_size)) as found:
            async for batch in found:
                if len(batch.ticks):
                    yield batch.ticks

    async def batches(self, batch_size: int = BATCH_SIZE) -> AsyncGenerator[LiveBatch, None]:
        """Yield ticks and gaps as they come, at most ``batch_size`` of both at once, until the feed is stopped.

        A reader that falls behind makes the feed fall behind, until the venue cuts the connection; what is missed then
        is asked for as after any other cut.

        Raises:
            InputError: The venue refuses the subscription. A retry will not help.
            SourceUnavailableError: Its trade ids went back. A new feed begins with those it finds.
            ConflictError: The feed has been read before.
        """
        if self._work is not None:
            raise ConflictError("a feed can be read once")
        self._work = asyncio.create_task(self._run(), name=f"feed-{self._venue.name}")
        try:
            while self._items or not self._ended:
                if self._items:
                    yield self._taken(batch_size)
                else:
                    self._ready.clear()
                    await self._ready.wait()
            await self._work
        finally:
            await _end(self._work)

    def connected(self) -> None:
        """See `Listener`."""
        self.report.connections += 1
        self._heard_ns = self._clock()
        for order in self._orders.values():
            order.connected(self._heard_ns)
            self._look_after(order)

    def lost(self, reason: str) -> None:
        """See `Listener`."""
        self.report.lost[reason] += 1
        for order in self._orders.values():
            order.lost(self._heard_ns)

    async def received(self, payload: bytes) -> None:
        """See `Listener`."""
        now_ns = self._heard_ns = self._clock()
        try:
            message = self._venue.read(payload)
        except UnusableMessageError as reason:
            self.report.skip(str(reason), payload[:200].decode(errors="backslashreplace"))
            return
        except RefusedError as error:
            raise InputError(f"{self._venue.name} refuses {', '.join(self._symbols)}: {error}") from error
        if isinstance(message, Other) or message.symbol not in self._orders:
            self.report.ignore(message.name if isinstance(message, Other) else "another symbol")
            return
        order = self._orders[message.symbol]
        if not isinstance(message, Head) and message.exchange_ns >= 0:
            self._receive_clock.learn(now_ns, message.exchange_ns)
        match message:
            case Trade():
                order.trade(message, now_ns)
            case Quote():
                order.quote(message, now_ns)
            case Head():
                order.head(message.id)
        self._look_after(order)
        while len(self._items) >= self._limits.queue:
            self._space.clear()
            await self._space.wait()

    async def _run(self) -> None:
        """Read until told to stop, then hand out the rest."""
        tasks: list[asyncio.Task[Any]] = []
        try:
            # waits are bounded where they are made
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as http:
                self._rest = Rest(
                    http,
                    self._rest_url,
                    self._venue,
                    self._limits,
                    self.report,
                    api_key=self._api_key,
                    sleep=self._sleep,
                    rng=self._rng,
                )
                reading = asyncio.create_task(self._session(http).run(self), name="feed-websocket")
                asked = asyncio.create_task(self._stop.wait(), name="feed-asked-to-stop")
                tasks = [reading, asked]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                await _end(reading)
                if self._fills:  # the answers that are under way
                    await asyncio.wait(list(self._fills.values()), timeout=self._limits.drain_s)
                if not reading.cancelled():
                    reading.result()
        finally:
            self._is_closing = True
            for task in (*tasks, *self._fills.values()):
                await _end(task)
            for order in self._orders.values():
                order.close(self._clock())
            self._ended = True
            self._ready.set()

    def _session(self, http: aiohttp.ClientSession) -> Session:
        return Session(
            http,
            self._websocket + self._venue.stream_path(self._symbols),
            self._venue.hello(self._symbols),
            self._limits,
            silence_s=self._limits.silence_s or self._venue.silence_s,
            sleep=self._sleep,
            rng=self._rng,
        )

    def _look_after(self, order: SymbolOrder) -> None:
        """See to it that a hole of ``order`` is filled."""
        if order.hole is None or order.symbol in self._fills or self._rest is None:
            return

        def done(task: asyncio.Task[None]) -> None:
            del self._fills[order.symbol]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("filling a hole failed", action="feed", symbol=order.symbol, exc_info=error)
                order.close(self._clock())
            elif not self._is_closing:
                self._look_after(order)  # a hole may have opened since

        task = asyncio.create_task(backfill.fill(order, self._rest, self._clock), name=f"feed-fill-{order.symbol}")
        self._fills[order.symbol] = task
        task.add_done_callback(done)

    def _out(self, item: Placed | Gap) -> None:
        if isinstance(item, Gap):
            self.report.gaps[item.reason] += 1
            if item.reason != "started":
                log.warning("ticks are missing", action="feed", **_fields(item))
        self._items.append(item)
        self._ready.set()

    def _taken(self, batch_size: int) -> LiveBatch:
        """Return the next items as a batch."""
        items = [self._items.popleft() for _ in range(min(batch_size, len(self._items)))]
        self._space.set()
        placed = [item for item in items if isinstance(item, Placed)]
        gaps = [item for item in items if isinstance(item, Gap)]
        batch = self._batch(placed)
        for kind, n in enumerate(np.bincount(batch.kind_N, minlength=len(frames.KINDS)).tolist()):
            if n:
                self.report.ticks[frames.KINDS[kind]] += n
        return LiveBatch(
            batch,
            np.array([item.tick.exchange_ns for item in placed], np.int64),
            np.array([item.is_backfilled for item in placed], np.bool_),
            gaps,
        )

    def _batch(self, placed: list[Placed]) -> TickBatch:
        n = len(placed)
        rows = [_row(item.tick) for item in placed]
        kind, price, size, side, bid, ask, bid_size, ask_size, seq = zip(*rows, strict=True) if rows else [()] * 9
        first, self._given = self._given, self._given + n
        return TickBatch(
            offset_N=np.arange(first, first + n, dtype=np.int64),
            index_N=np.zeros(n, np.int32),
            kind_N=np.array(kind, np.int8),
            symbol_N=np.array([self._table.add(item.tick.symbol) for item in placed], np.int32),
            ts_ns_N=np.array([item.ts_ns for item in placed], np.int64),
            price_N=np.array(price, np.float64),
            size_N=np.array(size, np.float64),
            side_N=np.array(side, np.int8),
            bid_N=np.array(bid, np.float64),
            ask_N=np.array(ask, np.float64),
            bid_size_N=np.array(bid_size, np.float64),
            ask_size_N=np.array(ask_size, np.float64),
            seq_N=np.array(seq, np.int64),
            symbols=self._table.names,
        )


_Row = tuple[int, float, float, int, float, float, float, float, int]
"""kind, price, size, side, bid, ask, bid_size, ask_size, seq."""


def _row(tick: Trade | Quote) -> _Row:
    if isinstance(tick, Trade):
        return TickKind.TRADE, tick.price, tick.size, tick.side, _NAN, _NAN, _NAN, _NAN, tick.id
    return TickKind.QUOTE, _NAN, _NAN, 0, tick.bid, tick.ask, tick.bid_size, tick.ask_size, tick.seq


def _fields(gap: Gap) -> dict[str, str | int]:
    return {name: getattr(gap, name) for name in gap.__struct_fields__}


async def _end(task: asyncio.Task[Any]) -> None:
    """Cancel ``task`` and wait for its end; what it ended with is asked elsewhere."""
    task.cancel()
    await asyncio.wait([task])
