"""Binance spot: every trade and every change of the best quote.

Trade ids are those of ``@trade`` and of ``historicalTrades``; aggregated trades count otherwise. The venue cuts every
connection after 24 hours.

Source: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
Source: https://developers.binance.com/docs/binance-spot-api-docs/rest-api/market-data-endpoints
"""

from collections.abc import Sequence

import msgspec

from data_io.data_fetcher import binance_messages
from data_io.data_fetcher.binance_messages import BinanceTrade, ms_to_ns, side
from data_io.data_fetcher.venue_values import BAD_JSON, UnusableMessageError, number, whole
from data_io.feeds.port import Message, Other, Quote, Request, Trade

PAGE = 1000


class _Past(msgspec.Struct):
    """A trade of ``historicalTrades``."""

    id: int
    price: str
    qty: str
    time: int
    isBuyerMaker: bool  # the venue's word


_decode = msgspec.json.Decoder(list[_Past]).decode


class Binance:
    """See `data_io.feeds.port.Venue`."""

    name = "binance"
    websocket = "wss://stream.binance.com:9443"
    rest = "https://api.binance.com"
    api_key_header: str | None = "X-MBX-APIKEY"  # past trades may want one
    request_interval_s = 0.25  # a question weighs 25, and 6,000 are allowed in a minute
    silence_s = 60.0

    def stream_path(self, symbols: Sequence[str]) -> str:
        """Return the path of the combined streams."""
        streams = [f"{symbol.lower()}@{kind}" for symbol in symbols for kind in ("trade", "bookTicker")]
        return "/stream?streams=" + "/".join(streams)

    def hello(self, symbols: Sequence[str]) -> bytes | None:  # the path has said it
        """Return None."""
        return None

    def read(self, payload: bytes) -> Message:
        """Return what a message of the combined streams says."""
        message = binance_messages.read(payload)
        if isinstance(message, str):
            return Other(message)
        if isinstance(message, BinanceTrade):
            return Trade(*message)
        symbol, update_id, bid, ask, bid_size, ask_size = message
        return Quote(symbol, bid, ask, bid_size, ask_size, update_id, -1)

    def request(self, symbol: str, first: int, last: int | None) -> Request:
        """Return the question for one page from ``first`` on."""
        limit = PAGE if last is None else min(PAGE, last - first + 1)
        return Request("/api/v3/historicalTrades", {"symbol": symbol, "fromId": str(first), "limit": str(limit)})

    def read_page(self, symbol: str, body: bytes) -> list[Trade]:
        """Return the trades of a page, as the venue sends them: ids ascending."""
        try:
            past = _decode(body)
        except BAD_JSON as error:
            raise UnusableMessageError(f"bad json: {error}") from error
        return [
            Trade(
                symbol,
                whole(each.id, "trade id"),
                number(each.price, "price"),
                number(each.qty, "size"),
                side(is_buyer_maker=each.isBuyerMaker),
                ms_to_ns(each.time),
            )
            for each in past
        ]

    def remaining(self, first: int, last: int | None, page: Sequence[Trade]) -> tuple[int, int | None] | None:
        """Return what lies behind the page; an empty one is behind the newest trade."""
        if not page or page[-1].id < first or (last is not None and page[-1].id >= last):
            return None
        return page[-1].id + 1, last
