"""An exchange on loopback: it plays messages to whoever listens, as badly as it is told to.

The market goes on while nobody is connected. The REST side gives every trade that has happened, but for those it
withholds.

    python -m tests.feeds_lab CAPTURE     plays a recorded Binance capture, cutting the connection now and then
"""

import asyncio
import json
import random
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec
from aiohttp import WSMsgType, web

from data_io.data_fetcher import binance_messages
from data_io.data_fetcher.binance_messages import BinanceTrade
from data_io.data_fetcher.lines import read_lines
from data_io.feeds.port import Trade


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - sockets and tasks of others set it
        await asyncio.sleep(0.001)


class Event(NamedTuple):
    """One message; ``trade`` is what it tells, if it is one."""

    payload: str
    trade: Trade | None


@dataclass(frozen=True)
class Faults:
    """What goes wrong; shares are of the messages."""

    cuts: int = 0  # of the connection, spread over the messages; each finds it whole
    half_open: float = 0.1  # of the cuts: nothing comes any more, pongs neither
    drop: float = 0.0
    twice: float = 0.0
    delay: float = 0.0  # until some messages later
    withheld: frozenset[int] = frozenset()  # trades that the REST side does not give
    refused: frozenset[int] = frozenset()  # trades that it refuses to be asked for
    stumble: float = 0.0  # of the answers: too many requests, or an error of the server
    busy: int = 0  # so many first answers say: too many requests, come again in 7 s
    mute: bool = False  # the REST side does not answer
    moved: str = ""  # where it sends who asks
    seed: int = 1


@dataclass
class Exchange:
    """The market, its listeners and its faults."""

    events: Sequence[Event]
    faults: Faults = field(default_factory=Faults)
    page: int = 1000
    step: int = 20  # messages at once
    step_s: float = 0.004
    cuts: int = 0
    dropped: int = 0
    doubled: int = 0
    asked: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self.rng = random.Random(self.faults.seed)
        self.past: dict[int, Trade] = {}
        self.listener: web.WebSocketResponse | None = None
        self.hello: str | None = None
        self.late: deque[tuple[int, str]] = deque()

    async def play(self) -> None:
        """Let all events happen; the last one happens to a whole connection, so that nothing is missing behind it."""
        length = (len(self.events) - 1) // (self.faults.cuts + 1)
        cut_at = {k * length + self.rng.randrange(length) for k in range(self.faults.cuts)}
        for i, event in enumerate(self.events):
            if i in cut_at:
                await self._cut(await self.whole())
            if event.trade:
                self.past[event.trade.id] = event.trade
            if i == len(self.events) - 1:
                await self.whole()
                await self._send(event.payload)
                break
            await self._tell(event)
            if i % self.step == 0:
                await asyncio.sleep(self.step_s)

    async def whole(self) -> web.WebSocketResponse:
        """Return the connection, once there is one."""
        await until(lambda: self.listener is not None and not self.listener.closed)
        assert self.listener is not None
        return self.listener

    async def _cut(self, socket: web.WebSocketResponse) -> None:
        self.cuts += 1
        self.listener = None
        self.late.clear()
        if self.rng.random() < self.faults.half_open:
            return
        if self.rng.random() < 0.5:
            await socket.close()
        elif socket._req is not None and socket._req.transport is not None:
            socket._req.transport.abort()

    async def _tell(self, event: Event) -> None:
        faults, rng = self.faults, self.rng
        for n in range(len(self.late)):
            steps, payload = self.late[n]
            self.late[n] = steps - 1, payload
        while self.late and self.late[0][0] <= 0:
            await self._send(self.late.popleft()[1])
        if rng.random() < faults.drop:
            self.dropped += 1
        elif rng.random() < faults.delay:
            self.late.append((rng.randint(1, 5), event.payload))
        else:
            await self._send(event.payload)
            if rng.random() < faults.twice:
                self.doubled += 1
                await self._send(event.payload)

    async def _send(self, payload: str) -> None:
        if self.listener is not None:
            try:
                await self.listener.send_str(payload)
            except ConnectionError:  # the client has gone
                self.listener = None

    async def websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        if "streams" not in request.query:
            self.hello = (await socket.receive(timeout=5)).data
        self.listener = socket
        async for message in socket:
            if message.type is WSMsgType.PING and self.listener is socket:
                with suppress(ConnectionError):
                    await socket.pong(message.data)
        return socket

    async def _think(self) -> None:
        self.asked += 1
        if self.faults.mute:
            await asyncio.sleep(60)

    def _stumbles(self) -> web.Response | None:
        if self.faults.moved:
            return web.Response(status=302, headers={"Location": self.faults.moved})
        if self.asked <= self.faults.busy:
            return web.Response(status=429, headers={"Retry-After": "7"})
        if self.rng.random() < self.faults.stumble:
            return self.rng.choice([web.Response(status=429, headers={"Retry-After": "0"}), web.Response(status=503)])
        return None

    def _page(self, ids: Iterable[int], limit: int) -> list[Trade] | None:
        """Return the first trades of ``ids`` that are given; None: refused."""
        page = list(islice((i for i in ids if i not in self.faults.withheld), min(limit, self.page)))
        return None if self.faults.refused.intersection(page) else [self.past[i] for i in page]

    async def binance_trades(self, request: web.Request) -> web.Response:
        first = int(request.query["fromId"])
        await self._think()
        found = self._page((i for i in self.past if i >= first), int(request.query["limit"]))
        if found is None:
            return web.Response(status=403)
        return self._stumbles() or web.json_response(
            [
                {
                    "id": each.id,
                    "price": str(each.price),
                    "qty": str(each.size),
                    "time": each.exchange_ns // 1_000_000,
                    "isBuyerMaker": each.side < 0,
                }
                for each in found
            ]
        )

    async def coinbase_trades(self, request: web.Request) -> web.Response:
        before = int(request.query.get("after", 2**62))
        await self._think()
        found = self._page((i for i in reversed(self.past) if i < before), int(request.query["limit"]))
        if found is None:
            return web.Response(status=403)
        return self._stumbles() or web.json_response([coinbase_fields(each) for each in found])

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Exchange"]:
        """Serve at ``url``, for the websocket and for REST."""
        app = web.Application()
        app.router.add_get("/stream", self.websocket)
        app.router.add_get("/", self.websocket)
        app.router.add_get("/api/v3/historicalTrades", self.binance_trades)
        app.router.add_get("/products/{product}/trades", self.coinbase_trades)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()


def recorded(path: Path, *, quotes: int = 1) -> list[Event]:
    """Return the trades and every ``quotes``-th best quote of a Binance capture, ending with a trade."""
    events, seen = [], 0
    for _, line in read_lines(path):
        body = line.partition(b" ")[2]
        message = binance_messages.read(body)
        if isinstance(message, BinanceTrade):
            events.append(Event(body.decode(), Trade(*message)))
        elif not isinstance(message, str):
            seen += 1
            if seen % quotes == 0:
                events.append(Event(body.decode(), None))
    while events[-1].trade is None:
        events.pop()
    return events


def made_binance(trades: int, *, symbol: str = "BTCUSDT", first: int = 1000) -> list[Event]:
    """Return trades in the format of Binance, with a best quote after every other one."""
    events = []
    for trade in _made(trades, symbol, first):
        data = {
            "e": "trade",
            "s": symbol,
            "t": trade.id,
            "p": str(trade.price),
            "q": str(trade.size),
            "T": trade.exchange_ns // 1_000_000,
            "m": trade.side < 0,
        }
        quote = {"u": trade.id, "s": symbol, "b": "99.5", "B": "1.0", "a": "100.5", "A": "2.0"}
        if trade.id % 2:
            events.append(Event(json.dumps({"stream": f"{symbol.lower()}@bookTicker", "data": quote}), None))
        events.append(Event(json.dumps({"stream": f"{symbol.lower()}@trade", "data": data}), trade))
    return events


def made_coinbase(trades: int, *, symbol: str = "BTC-USD", first: int = 1000) -> list[Event]:
    """Return trades as the documents of Coinbase write them, with a ticker after each and a heartbeat now and then."""
    events = []
    for trade in _made(trades, symbol, first):
        fields = coinbase_fields(trade)
        quote = {"best_bid": "99.5", "best_bid_size": "1", "best_ask": "100.5", "best_ask_size": "2"}
        named = {"product_id": symbol, "sequence": trade.id * 3}
        events.append(Event(json.dumps({"type": "ticker", **fields, **named, **quote}), None))
        if trade.id % 40 == 0:
            heartbeat = {"type": "heartbeat", "last_trade_id": trade.id - 1, "time": fields["time"]}
            events.append(Event(json.dumps(heartbeat | named), None))
        events.append(Event(json.dumps({"type": "match", **fields, **named}), trade))
    return events


def coinbase_fields(trade: Trade) -> dict[str, object]:
    """Return the fields of a match that the websocket and the REST side share."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=trade.exchange_ns // 1000)
    return {
        "trade_id": trade.id,
        "price": str(trade.price),
        "size": str(trade.size),
        "side": "sell" if trade.side > 0 else "buy",  # of the maker
        "time": at.isoformat().replace("+00:00", "Z"),
    }


def _made(trades: int, symbol: str, first: int) -> list[Trade]:
    start_ns = 1_700_000_000 * 10**9
    return [
        Trade(symbol, i, 100.0 + i % 7 / 4, 0.5 + i % 3, 1 if i % 3 else -1, start_ns + (i - first) * 10**6)
        for i in range(first, first + trades)
    ]


async def _serve(path: Path) -> None:
    exchange = Exchange(recorded(path), Faults(cuts=10, drop=0.001), step=10, step_s=0.01)
    async with exchange.open():
        sys.stdout.write(f"{exchange.url}\n")
        sys.stdout.flush()
        await exchange.whole()
        await exchange.play()
        sys.stdout.write(msgspec.json.encode({"trades": len(exchange.past), "cuts": exchange.cuts}).decode() + "\n")
        sys.stdout.flush()
        await asyncio.sleep(5)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
