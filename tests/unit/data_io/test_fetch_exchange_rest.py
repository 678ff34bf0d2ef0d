import builtins
from collections.abc import Iterator
from typing import Any

import pytest

from data_io.data_fetcher.exchange_rest import TRIES, Asked, ExchangeBars, ExchangeTrades, open_exchange
from data_io.data_fetcher.port import join
from ml_core.errors import InputError, SetupError, SourceUnavailableError
from tests.exchange_lab import HOUR_MS, Exchange, exchange

T0_MS = 1_704_067_200_000  # 2024-01-01
MINUTE_MS = 60_000
FROM = "ccxt:binance:BTC/USDT?from=2024-01-01"


@pytest.fixture
def market() -> Iterator[Exchange]:
    with exchange() as market:
        market.now_ms = T0_MS + 24 * HOUR_MS
        market.trades["BTCUSDT"] = []
        market.candles["BTCUSDT"] = []
        yield market


def trade(number: int, ms: int, price: str = "10.5") -> tuple[int, int, str, str, bool]:
    return (number, T0_MS + ms, price, "2", number % 2 == 0)


def candle(minute: int, close: int) -> list[Any]:
    return [T0_MS + minute * MINUTE_MS, close, close + 1, close - 1, close, 5]


def trades_of(market: Exchange, text: str = FROM + "&to=2024-01-02", **options: Any) -> ExchangeTrades:
    return ExchangeTrades(Asked.parse(text), config=market.config, **options)


def bars_of(market: Exchange, text: str) -> ExchangeBars:
    return ExchangeBars(Asked.parse(text), config=market.config)


def test_trades_come_in_pages_and_each_once(market: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    # the first page of five ends among the trades of one ms
    times = [0, 5, 5, 5, 5, 9, 11]
    market.trades["BTCUSDT"] = [trade(i, ms) for i, ms in enumerate(times, start=100)]
    market.page = 5
    monkeypatch.setattr("data_io.data_fetcher.exchange_rest._PAGE", 5)

    frame = trades_of(market).fetch()

    assert frame["seq"].tolist() == [100, 101, 102, 103, 104, 105, 106]
    assert frame["ts_ns"].tolist() == [(T0_MS + ms) * 10**6 for ms in times]
    assert frame["side"].tolist() == [-1, 1, -1, 1, -1, 1, -1]  # the buyer is the maker: the seller took
    assert set(frame["price"]) == {10.5}
    assert set(frame["size"]) == {2.0}


def test_silent_hours_are_stepped_over(market: Exchange) -> None:
    market.trades["BTCUSDT"] = [trade(1, 0), trade(2, 5 * HOUR_MS + 1), trade(3, 9 * HOUR_MS)]
    assert trades_of(market).fetch()["seq"].tolist() == [1, 2, 3]


def test_a_range_holds_its_start_and_not_its_end(market: Exchange) -> None:
    market.trades["BTCUSDT"] = [trade(1, -1), trade(2, 0), trade(3, HOUR_MS - 1), trade(4, HOUR_MS)]
    assert trades_of(market, FROM + "T00:00:00&to=2024-01-01T01:00:00").fetch()["seq"].tolist() == [2, 3]


def test_without_an_end_the_range_ends_now_by_the_clock_of_the_exchange(market: Exchange) -> None:
    market.now_ms = T0_MS + 10
    market.trades["BTCUSDT"] = [trade(1, 9), trade(2, 10)]
    assert trades_of(market, FROM).fetch()["seq"].tolist() == [1]


def test_a_ms_with_more_trades_than_a_page_is_refused(market: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_io.data_fetcher.exchange_rest._PAGE", 2)
    market.trades["BTCUSDT"] = [trade(i, 5) for i in range(3)]
    with pytest.raises(InputError, match="more than 2 trades in one ms"):
        trades_of(market).fetch()


def test_an_exchange_that_pages_from_elsewhere_is_refused(market: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    market.trades["BTCUSDT"] = [trade(i, i) for i in range(9)]
    answer = Exchange.answer

    def later(self: Exchange, path: str, query: dict[str, str]) -> Any:
        moved = int(query.get("startTime", 0)) + 3 * (int(query.get("startTime", 0)) > T0_MS)
        return answer(self, path, query | {"startTime": str(moved)})

    monkeypatch.setattr(Exchange, "answer", later)
    market.page = 3
    with pytest.raises(InputError, match="does not page from the time on"):
        trades_of(market).fetch()


def test_a_candle_stands_at_its_end_and_one_that_is_not_over_is_left_out(market: Exchange) -> None:
    market.candles["BTCUSDT"] = [candle(0, 10), candle(1, 11), candle(2, 12)]
    market.now_ms = T0_MS + 3 * MINUTE_MS - 1

    bars = join(bars_of(market, FROM + "&kind=bars").bar_chunks())

    assert bars["ts_ns"].tolist() == [(T0_MS + m * MINUTE_MS) * 10**6 for m in (1, 2)]
    assert bars["start_ns"].tolist() == [(T0_MS + m * MINUTE_MS) * 10**6 for m in (0, 1)]
    assert bars[["open", "high", "low", "close", "volume"]].values.tolist() == [[10, 11, 9, 10, 5], [11, 12, 10, 11, 5]]

    market.now_ms += 1
    assert len(join(bars_of(market, FROM + "&kind=bars").bar_chunks())) == 3


def test_a_range_of_candles_is_that_of_their_ends(market: Exchange) -> None:
    market.candles["BTCUSDT"] = [candle(minute, 10) for minute in range(-3, 9)]
    bars = join(bars_of(market, FROM + "&kind=bars&to=2024-01-01T00:03:00").bar_chunks())
    assert bars["ts_ns"].tolist() == [(T0_MS + m * MINUTE_MS) * 10**6 for m in (0, 1, 2)]


def test_candles_come_in_pages_across_gaps(market: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_io.data_fetcher.exchange_rest._PAGE", 3)
    minutes = [0, 1, 2, 3, 20, 21, 22, 23, 24]
    market.candles["BTCUSDT"] = [candle(minute, 10 + minute) for minute in minutes]
    bars = join(bars_of(market, FROM + "&kind=bars&to=2024-01-01T01:00:00").bar_chunks())
    assert bars["close"].tolist() == [10 + minute for minute in minutes]


def test_a_busy_exchange_is_asked_again_ever_more_slowly(market: Exchange) -> None:
    waits: list[float] = []
    market.trades["BTCUSDT"] = [trade(1, 0)]
    market.refusals = [429, 503, 418]
    frame = trades_of(market, FROM + "&to=2024-01-01T00:30:00", sleep=waits.append).fetch()
    assert frame["seq"].tolist() == [1]
    assert waits == [1, 2, 4]


def test_one_that_stays_away_is_given_up(market: Exchange) -> None:
    waits: list[float] = []
    market.refusals = [429] * 50
    with pytest.raises(SourceUnavailableError, match=f"did not answer {TRIES} times: .*RateLimit|DDoS"):
        trades_of(market, sleep=waits.append).fetch()
    assert len(waits) == TRIES - 1


def test_what_the_exchange_refuses_is_not_asked_again(market: Exchange) -> None:
    with pytest.raises(InputError, match="NIX/USDT"):
        trades_of(market, FROM.replace("BTC", "NIX"), sleep=pytest.fail).fetch()
    with pytest.raises(InputError, match="no candles '1M' of one width"):
        bars_of(market, FROM + "&kind=bars&timeframe=1M").fetch()
    with pytest.raises(InputError, match="did you mean 'binance'"):
        open_exchange(FROM.replace("binance", "binanc")).fetch()


def test_nobody_asks_hour_by_hour_for_trades_of_the_future(market: Exchange) -> None:
    market.now_ms = 10**15
    clock = lambda: (T0_MS + 60_000) * 10**6  # noqa: E731  # shorter than a function
    for until in ("", "&to=9999-12-31"):
        market.asked.clear()
        assert trades_of(market, FROM + until, clock=clock).fetch().empty
        assert len(market.asked) < 40


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ccxt:binance?from=2024-01-01", "needs 2 words"),
        ("ccxt:binance:BTC/USDT", "from when on"),
        (FROM + "&kind=quotes", "trades or bars"),
        (FROM + "&kin=bars", "did you mean 'kind'"),
        (FROM + "&timeframe=1m", "trades have no timeframe"),
        (FROM + "&from=2024-01-02", "given twice"),
        (FROM + "&to=2023-01-01", "ends before it starts"),
        (FROM + "&to=later", "no time such as"),
        (FROM + "&to", "name=value"),
    ],
)
def test_a_text_that_says_something_else_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        open_exchange(text)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "ccxt":
            raise ModuleNotFoundError("No module named 'ccxt'", name="ccxt")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SetupError, match=r"tickwise\[exchanges\]"):
        open_exchange(FROM).fetch()
