"""Coinbase Exchange: every match, and the best quote at each match.

A connection without a subscription is cut after 5 s. The heartbeat of each second names the newest trade, so that one
that was lost is noticed without the next.

Source: https://docs.cdp.coinbase.com/exchange/websocket-feed/channels
Source: https://docs.cdp.coinbase.com/api-reference/exchange-api/rest-api/products/get-product-trades
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from data_io.data_fetcher.venue_values import BAD_JSON, UnusableMessageError, number, whole
from data_io.feeds.port import ConnectionUselessError, Head, Message, Other, Quote, RefusedError, Request, Trade

PAGE = 1000
_REFUSAL = "failed to subscribe"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_SIDES = {"buy": -1, "sell": 1}  # of the maker: who took is the other one


class _Message(msgspec.Struct):
    """The fields used of any message; venue numbers come as text."""

    type: str
    product_id: str = ""
    trade_id: int = -1
    last_trade_id: int = -1
    sequence: int = -1
    time: datetime | None = None
    price: str = ""
    size: str = ""
    side: str = ""
    best_bid: str = ""
    best_ask: str = ""
    best_bid_size: str = ""
    best_ask_size: str = ""
    message: str = ""
    reason: str = ""


class _Past(msgspec.Struct):
    """A trade of the REST side."""

    trade_id: int
    price: str
    size: str
    side: str
    time: datetime | None = None


_decode = msgspec.json.Decoder(_Message).decode
_decode_page = msgspec.json.Decoder(list[_Past]).decode


class Coinbase:
    """See `data_io.feeds.port.Venue`."""

    name = "coinbase"
    websocket = "wss://ws-feed.exchange.coinbase.com"
    rest = "https://api.exchange.coinbase.com"
    api_key_header: str | None = None
    request_interval_s = 0.15  # 10 questions a second are allowed
    silence_s = 10.0  # there is a heartbeat a second

    def stream_path(self, symbols: Sequence[str]) -> str:  # the subscription says it
        """Return the root."""
        return "/"

    def hello(self, symbols: Sequence[str]) -> bytes | None:
        """Return the subscription."""
        channels = ["matches", "ticker", "heartbeat"]
        return msgspec.json.encode({"type": "subscribe", "product_ids": list(symbols), "channels": channels})

    def read(self, payload: bytes) -> Message:
        """Return what a message says; the last match before the subscription is the newest trade there is."""
        try:
            message = _decode(payload)
        except BAD_JSON as error:
            raise UnusableMessageError(f"bad json: {error}") from error
        match message.type:
            case "match":
                return _trade(_named(message), message)
            case "ticker":
                return _quote(message)
            case "heartbeat":
                return Head(_named(message), whole(message.last_trade_id, "newest trade"))
            case "last_match":
                return Head(_named(message), whole(message.trade_id, "newest trade"))
            case "error":
                raise _error(message)
        return Other(message.type)

    def request(self, symbol: str, first: int, last: int | None) -> Request:
        """Return the question for one page that ends with ``last``, or with the newest trade."""
        limit = PAGE if last is None else min(PAGE, last - first + 1)
        before = {} if last is None else {"after": str(last + 1)}  # the venue's word for older than
        return Request(f"/products/{symbol}/trades", {"limit": str(limit), **before})

    def read_page(self, symbol: str, body: bytes) -> list[Trade]:
        """Return the trades of a page, which the venue sends with ids descending."""
        try:
            past = _decode_page(body)
        except BAD_JSON as error:
            raise UnusableMessageError(f"bad json: {error}") from error
        return [_trade(symbol, each) for each in reversed(past)]

    def remaining(self, first: int, last: int | None, page: Sequence[Trade]) -> tuple[int, int | None] | None:
        """Return what lies before the page."""
        if not page or page[0].id <= first or (last is not None and page[0].id > last):
            return None
        return first, page[0].id - 1


def _error(message: _Message) -> Exception:
    said = " ".join(filter(None, (message.message, message.reason)))
    is_refusal = message.message.lower().startswith(_REFUSAL) and "rate limit" not in said.lower()
    return RefusedError(said) if is_refusal else ConnectionUselessError(said)


def _named(message: _Message) -> str:
    if not message.product_id:
        raise UnusableMessageError("no product")
    return message.product_id


def _trade(symbol: str, message: _Message | _Past) -> Trade:
    if message.side not in _SIDES:
        raise UnusableMessageError("side is neither buy nor sell")
    trade_id = whole(message.trade_id, "trade id")
    price, size = number(message.price, "price"), number(message.size, "size")
    return Trade(symbol, trade_id, price, size, _SIDES[message.side], _ns(message.time))


def _quote(message: _Message) -> Message:
    bid, ask = number(message.best_bid, "bid"), number(message.best_ask, "ask")
    bid_size = number(message.best_bid_size, "bid size", zero=True)
    ask_size = number(message.best_ask_size, "ask size", zero=True)
    sequence = whole(message.sequence, "sequence", least=-1)
    return Quote(_named(message), bid, ask, bid_size, ask_size, sequence, _ns(message.time))


def _ns(time: datetime | None) -> int:
    if time is None or time.tzinfo is None:
        return -1
    ts_ns = (time - _EPOCH) // _US * 1000
    return ts_ns if 0 <= ts_ns < 2**63 else -1
