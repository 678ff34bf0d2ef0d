import builtins
from datetime import date
from typing import Any

import pandas as pd
import pytest

from data_io.data_fetcher.daily import Asked, DailyPrices, open_daily
from data_io.data_fetcher.port import join
from ml_core.errors import InputError, SetupError, SourceUnavailableError

LATE_NS = pd.Timestamp("2030-01-01", tz="UTC").value


def prices(days: list[str], zone: str = "America/New_York", **columns: Any) -> pd.DataFrame:
    index = pd.DatetimeIndex(days).tz_localize(zone)
    value = {"Open": 10.0, "High": 12.0, "Low": 9.0, "Close": 11.0, "Volume": 500} | columns
    return pd.DataFrame(value, index=index)


def daily(table: pd.DataFrame, text: str = "yfinance:IBM?from=2024-01-01", now_ns: int = LATE_NS) -> DailyPrices:
    return DailyPrices(Asked.parse(text), download=lambda *_: table, clock=lambda: now_ns)


def ends(fetcher: DailyPrices) -> list[str]:
    return [str(pd.Timestamp(ts_ns)) for ts_ns in join(fetcher.bar_chunks())["ts_ns"]]


def test_a_bar_stands_at_the_close_of_its_session_in_winter_and_in_summer() -> None:
    # clocks go forward on March 10
    assert ends(daily(prices(["2024-03-08", "2024-03-11"]))) == ["2024-03-08 21:00:00", "2024-03-11 20:00:00"]


def test_other_zones_close_at_their_own_time() -> None:
    assert ends(daily(prices(["2024-01-02"], "Asia/Tokyo"))) == ["2024-01-02 06:30:00"]
    assert ends(daily(prices(["2024-01-02"], "UTC"))) == ["2024-01-03 00:00:00"]
    paris = prices(["2024-01-02"], "Europe/Paris")
    assert ends(daily(paris, "yfinance:AIR?from=2024-01-01&close=17:35")) == ["2024-01-02 16:35:00"]
    with pytest.raises(InputError, match="close in Europe/Paris is not known"):
        daily(paris).fetch()


def test_a_session_that_is_not_over_and_one_with_a_hole_are_left_out() -> None:
    table = prices(["2024-01-02", "2024-01-03", "2024-01-04"], Close=[11.0, float("nan"), 11.0])
    now_ns = pd.Timestamp("2024-01-04 20:59:59", tz="UTC").value
    fetcher = daily(table, now_ns=now_ns)
    assert ends(fetcher) == ["2024-01-02 21:00:00"]
    assert fetcher.report.ignored == {"session not over": 1}
    assert fetcher.report.skipped == {"a session with a hole": 1}


def test_what_is_asked_for_reaches_the_download_prices_as_traded_unless_said() -> None:
    calls: list[tuple[Any, ...]] = []

    def download(*asked: Any) -> pd.DataFrame:
        calls.append(asked)
        return prices(["2024-01-02"])

    for rest in ("", "&adjusted=yes"):
        text = "yfinance:IBM,MSFT?from=2024-01-01&to=2024-02-01" + rest
        assert DailyPrices(Asked.parse(text), download=download).fetch()["symbol"].tolist() == ["IBM", "MSFT"]

    start, end = date(2024, 1, 1), date(2024, 2, 1)
    assert calls == [(name, start, end, adjusted) for adjusted in (False, True) for name in ("IBM", "MSFT")]


def test_a_table_of_another_make_is_refused() -> None:
    with pytest.raises(InputError, match="no column 'Close'"):
        daily(prices(["2024-01-02"]).drop(columns="Close")).fetch()
    with pytest.raises(InputError, match="do not tell the time zone"):
        daily(prices(["2024-01-02"]).tz_localize(None)).fetch()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("yfinance:", "needs 1 words"),
        ("yfinance:IBM", "from when on"),
        ("yfinance:IBM?from=2024", "no day such as"),
        ("yfinance:IBM?from=2024-01-02&to=2024-01-02", "ends before it starts"),
        ("yfinance:IBM?from=2024-01-02&adjusted=maybe", "yes or no"),
        ("yfinance:IBM?from=2024-01-02&close=noon", "no time of day"),
    ],
)
def test_a_text_that_says_something_else_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        open_daily(text)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "yfinance":
            raise ModuleNotFoundError("No module named 'yfinance'", name="yfinance")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SetupError, match=r"tickwise\[daily\]"):
        open_daily("yfinance:IBM?from=2024-01-01").fetch()


def test_yfinance_is_asked_for_days_and_its_errors_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    import yfinance

    calls: list[dict[str, Any]] = []

    def history(ticker: Any, **asked: Any) -> pd.DataFrame:
        calls.append({"symbol": ticker.ticker, **asked})
        if ticker.ticker == "NIX":
            raise yfinance.exceptions.YFPricesMissingError("NIX", "")
        if ticker.ticker == "BUSY":
            raise yfinance.exceptions.YFRateLimitError
        return prices(["2024-01-02"])

    monkeypatch.setattr(yfinance.Ticker, "history", history)
    text = "yfinance:{}?from=2024-01-01&to=2024-02-01"

    assert len(open_daily(text.format("IBM")).fetch()) == 1
    with pytest.raises(InputError, match="no daily prices of NIX"):
        open_daily(text.format("NIX")).fetch()
    with pytest.raises(SourceUnavailableError, match="BUSY: YFRateLimitError"):
        open_daily(text.format("BUSY")).fetch()
    assert calls[0] == {
        "symbol": "IBM",
        "interval": "1d",
        "start": date(2024, 1, 1),
        "end": date(2024, 2, 1),
        "auto_adjust": False,
        "actions": False,
    }
