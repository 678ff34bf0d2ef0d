"""Messages of Binance's combined websocket streams: trades and best quotes.

Source: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
"""

from typing import NamedTuple

import msgspec

from data_io.data_fetcher.venue_values import BAD_JSON, UnusableMessageError, number, whole

_MS_NS = 1_000_000
_MAX_MS = (2**63 - 1) // _MS_NS


class BinanceTrade(NamedTuple):
    """An event of ``<symbol>@trade``."""

    symbol: str
    id: int
    price: float
    size: float
    side: int  # +1 the buyer took, -1 the seller took
    exchange_ns: int  # -1 unknown


class BinanceQuote(NamedTuple):
    """An event of ``<symbol>@bookTicker``; it has no time of the venue."""

    symbol: str
    update_id: int
    bid: float
    ask: float
    bid_size: float
    ask_size: float


class _Data(msgspec.Struct):
    """The fields used of a trade or a best quote; venue numbers come as text."""

    s: str = ""
    e: str = ""
    t: int = -1  # trade id
    p: str = ""
    q: str = ""
    T: int = -1  # trade time, ms
    m: bool | None = None  # the buyer is the maker
    u: int = -1  # order book update id
    b: msgspec.Raw = msgspec.Raw(b"")  # text in a best quote, a list in a depth update
    B: str = ""
    a: msgspec.Raw = msgspec.Raw(b"")
    A: str = ""


class _Message(msgspec.Struct):
    """A message of the combined streams; without ``stream`` it is an answer to a request, such as a depth snapshot."""

    stream: str = ""
    data: _Data | None = None


_decode = msgspec.json.Decoder(_Message).decode
_decode_text = msgspec.json.Decoder(str).decode


def read(body: bytes) -> BinanceTrade | BinanceQuote | str:
    """Return the trade or best quote of one message; of any other sound message, what it is.

    Raises:
        UnusableMessageError: It is not in the format of the streams.
    """
    try:
        message = _decode(body)
    except BAD_JSON as error:
        raise UnusableMessageError(f"bad json: {error}") from error
    data, kind = message.data, message.stream.partition("@")[2]
    if data is None or kind not in ("trade", "bookTicker"):
        return kind.partition("@")[0] or "no stream"
    if not data.s:
        raise UnusableMessageError("no symbol")
    if kind == "trade":
        if data.m is None:
            raise UnusableMessageError("no buyer-is-maker flag")
        price, size = number(data.p, "price"), number(data.q, "size")
        return BinanceTrade(
            data.s, whole(data.t, "trade id"), price, size, side(is_buyer_maker=data.m), ms_to_ns(data.T)
        )
    bid, ask = number(_text(data.b), "bid"), number(_text(data.a), "ask")
    bid_size, ask_size = number(data.B, "bid size", zero=True), number(data.A, "ask size", zero=True)
    return BinanceQuote(data.s, whole(data.u, "update id", least=-1), bid, ask, bid_size, ask_size)


def side(*, is_buyer_maker: bool) -> int:
    """Return who took: the buyer (+1), or the seller (-1) where the buyer made the order that was taken."""
    return -1 if is_buyer_maker else 1


def ms_to_ns(ms: int) -> int:
    """Return a time of the venue in ns, or -1 where it is none."""
    return ms * _MS_NS if 0 <= ms <= _MAX_MS else -1


def _text(raw: msgspec.Raw) -> str:
    try:
        return _decode_text(raw)
    except BAD_JSON as error:
        raise UnusableMessageError("no best bid or ask") from error
