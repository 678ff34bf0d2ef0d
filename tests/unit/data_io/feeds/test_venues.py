import json

import pytest

from data_io.data_fetcher.venue_values import UnusableMessageError
from data_io.feeds.binance import Binance
from data_io.feeds.coinbase import Coinbase
from data_io.feeds.port import ConnectionUselessError, Head, Other, Quote, RefusedError, Request, Trade, Venue
from data_io.feeds.venues import VENUES

VENUE = pytest.mark.parametrize("name", list(VENUES))
TIME = "2014-11-07T08:19:27.028459Z"
TIME_NS = 1415348367028459000
# made by hand as the documents of the venue show them: there is no recording
MATCH = {
    "type": "match",
    "trade_id": 10,
    "sequence": 50,
    "maker_order_id": "ac928c66-ca53-498f-9c13-a110027a60e8",
    "taker_order_id": "132fb6ae-456b-4654-b4e0-d681ac05cea1",
    "time": TIME,
    "product_id": "BTC-USD",
    "size": "5.23512",
    "price": "400.23",
    "side": "sell",
}
TICKER = {
    "type": "ticker",
    "sequence": 37475248783,
    "product_id": "ETH-USD",
    "price": "1285.22",
    "open_24h": "1310.79",
    "best_bid": "1285.04",
    "best_bid_size": "0.46688654",
    "best_ask": "1285.27",
    "best_ask_size": "1.56637040",
    "side": "buy",
    "time": TIME,
    "trade_id": 370843401,
    "last_size": "11.4396987",
}


def raw(message: object) -> bytes:
    return json.dumps(message).encode()


def test_binance_tells_of_trades_and_best_quotes() -> None:
    trade = {"e": "trade", "s": "BNBBTC", "t": 12345, "p": "0.001", "q": "100", "T": 1672515782136, "m": True}
    quote = {"u": 400900217, "s": "BNBUSDT", "b": "25.35", "B": "31.21", "a": "25.36", "A": "40.66"}
    read = Binance().read
    assert read(raw({"stream": "bnbbtc@trade", "data": trade})) == Trade(
        "BNBBTC", 12345, 0.001, 100.0, -1, 1672515782136 * 10**6
    )
    assert read(raw({"stream": "bnbusdt@bookTicker", "data": quote})) == Quote(
        "BNBUSDT", 25.35, 25.36, 31.21, 40.66, 400900217, -1
    )
    assert read(raw({"result": None, "id": 1})) == Other("no stream")


def test_coinbase_names_the_side_of_the_maker() -> None:
    read = Coinbase().read
    assert read(raw(MATCH)) == Trade("BTC-USD", 10, 400.23, 5.23512, 1, TIME_NS)
    assert read(raw(MATCH | {"side": "buy"})) == Trade("BTC-USD", 10, 400.23, 5.23512, -1, TIME_NS)


def test_coinbase_tells_of_best_quotes_and_of_the_newest_trade() -> None:
    read = Coinbase().read
    heartbeat = {"type": "heartbeat", "sequence": 90, "last_trade_id": 20, "product_id": "BTC-USD", "time": TIME}
    assert read(raw(TICKER)) == Quote("ETH-USD", 1285.04, 1285.27, 0.46688654, 1.5663704, 37475248783, TIME_NS)
    assert read(raw(heartbeat)) == Head("BTC-USD", 20)
    assert read(raw(MATCH | {"type": "last_match"})) == Head("BTC-USD", 10)
    assert read(raw({"type": "subscriptions", "channels": []})) == Other("subscriptions")


@pytest.mark.parametrize(
    ("message", "reason", "error"),
    [
        ("Failed to subscribe", "XYZ-USD is not a valid product", RefusedError),
        ("Failed to subscribe", "rate limit exceeded", ConnectionUselessError),
        ("Internal server error", "", ConnectionUselessError),
    ],
)
def test_coinbase_refuses_a_subscription_or_has_trouble_of_its_own(message, reason, error) -> None:
    with pytest.raises(error, match=message):
        Coinbase().read(raw({"type": "error", "message": message, "reason": reason}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"side": "up"}, "side is neither buy nor sell"),
        ({"price": "0"}, "price is not positive and finite"),
        ({"price": "nan"}, "price is not positive and finite"),
        ({"size": "much"}, "size is not a number"),
        ({"product_id": ""}, "no product"),
        ({"time": "yesterday"}, "bad json"),
        ({"trade_id": "10"}, "bad json"),
    ],
)
def test_a_coinbase_message_that_is_not_in_the_format_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(UnusableMessageError, match=reason):
        Coinbase().read(raw(MATCH | change))


@VENUE
@pytest.mark.parametrize("payload", [b"", b"\xff", b"[1]", b"{", b'"text"'])
def test_what_is_no_message_is_refused(name: str, payload: bytes) -> None:
    venue = VENUES[name]()
    with pytest.raises(UnusableMessageError):
        venue.read(payload)
    with pytest.raises(UnusableMessageError):
        venue.read_page("A", payload)


def test_each_venue_is_subscribed_to_in_its_own_way() -> None:
    assert Binance().stream_path(["BTCUSDT", "ETHUSDT"]) == (
        "/stream?streams=btcusdt@trade/btcusdt@bookTicker/ethusdt@trade/ethusdt@bookTicker"
    )
    assert Binance().hello(["BTCUSDT"]) is None
    assert json.loads(Coinbase().hello(["BTC-USD"]) or b"") == {
        "type": "subscribe",
        "product_ids": ["BTC-USD"],
        "channels": ["matches", "ticker", "heartbeat"],
    }


def test_each_venue_is_asked_for_past_trades_in_its_own_way() -> None:
    path = "/api/v3/historicalTrades"
    assert Binance().request("A", 5, 9) == Request(path, {"symbol": "A", "fromId": "5", "limit": "5"})
    assert Binance().request("A", 5, None) == Request(path, {"symbol": "A", "fromId": "5", "limit": "1000"})
    assert Coinbase().request("A", 5, 9) == Request("/products/A/trades", {"limit": "5", "after": "10"})
    assert Coinbase().request("A", 5, None) == Request("/products/A/trades", {"limit": "1000"})


def test_pages_are_read_with_ids_ascending() -> None:
    binance = {"price": "4", "qty": "12", "quoteQty": "48", "time": 1499865549590, "isBuyerMaker": True}
    page = Binance().read_page("A", raw([binance | {"id": 7}, binance | {"id": 8}]))
    assert page == [Trade("A", i, 4.0, 12.0, -1, 1499865549590 * 10**6) for i in (7, 8)]

    coinbase = {"time": TIME, "price": "10", "size": "0.01", "side": "buy"}
    page = Coinbase().read_page("A", raw([coinbase | {"trade_id": 8}, coinbase | {"trade_id": 7}]))
    assert page == [Trade("A", i, 10.0, 0.01, -1, TIME_NS) for i in (7, 8)]


@VENUE
@pytest.mark.parametrize("last", [57, None])
def test_page_by_page_all_of_a_hole_is_asked_for_once(name: str, last: int | None) -> None:
    venue, newest = VENUES[name](), 60
    got, left, asked = [], (3, last), 0
    while left is not None:
        asked += 1
        page = [trade for trade in served(venue, *left, newest) if trade.id >= 3]
        got += page
        left = venue.remaining(*left, page)
    assert sorted(trade.id for trade in got) == list(range(3, (last or newest) + 1))
    assert asked <= 7


def served(venue: Venue, first: int, last: int | None, newest: int) -> list[Trade]:
    """Return a page of at most ten trades, as the venue of ``request`` would."""
    parameters = venue.request("A", first, last).parameters
    limit = min(10, int(parameters["limit"]))
    if "fromId" in parameters:
        ids = list(range(int(parameters["fromId"]), newest + 1))[:limit]
    else:
        ids = list(range(1, min(int(parameters.get("after", newest + 1)), newest + 1)))[-limit:]
    return [Trade("A", i, 1.0, 1.0, 1, -1) for i in ids]


@VENUE
@pytest.mark.parametrize("wrong", [-1, 2**63, 10**30])
def test_a_trade_without_a_number_that_fits_is_refused(name: str, wrong: int) -> None:
    trade = {"s": "A", "t": wrong, "p": "1", "q": "1", "T": 1, "m": True}
    message = {"stream": "a@trade", "data": trade} if name == "binance" else MATCH | {"trade_id": wrong}
    with pytest.raises(UnusableMessageError, match="trade id is none"):
        VENUES[name]().read(raw(message))


@VENUE
def test_what_is_nested_without_end_is_refused(name: str) -> None:
    venue = VENUES[name]()
    with pytest.raises(UnusableMessageError, match="bad json"):
        venue.read(b'{"stream": "a@trade", "type": "match", "more": ' + b"[" * 100_000)
    with pytest.raises(UnusableMessageError, match="bad json"):
        venue.read_page("A", b'[{"more": ' + b"[" * 100_000)


def test_a_time_that_no_tick_can_have_is_unknown() -> None:
    for time in ("9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"):
        assert Coinbase().read(raw(MATCH | {"time": time})).exchange_ns == -1
