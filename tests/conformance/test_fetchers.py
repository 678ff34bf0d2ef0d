from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from data_io.data_fetcher import daily, exchange_rest
from data_io.data_fetcher.bar_tables import BarTables
from data_io.data_fetcher.binance_capture import BinanceCapture
from data_io.data_fetcher.lake import Lake
from data_io.data_fetcher.lean_ticks import LeanTicks
from data_io.data_fetcher.port import BarFetcher, TickFetcher, contents
from data_io.data_fetcher.synthetic import Market, Synthetic
from data_io.data_fetcher.tables import Tables
from data_io.datasets.manifest import DatasetId
from data_io.datasets.store import DatasetStore, Origin
from data_io.sinks.files import ParquetSink
from data_io.sinks.lake import LakeSink
from tests.conformance.tick_fetcher import BarFetcherSuite, TickFetcherSuite
from tests.exchange_lab import Exchange, exchange

DATA = Path(__file__).parents[1] / "data"


class TestBinanceCapture(TickFetcherSuite):
    @pytest.fixture
    def fetcher(self) -> TickFetcher:
        return BinanceCapture(DATA / "binance-capture.txt")


class TestLeanTicks(TickFetcherSuite):
    @pytest.fixture
    def fetcher(self) -> TickFetcher:
        return LeanTicks.of_folder(DATA / "lean", keep_suspicious=True)


class TestMappedCsv(TickFetcherSuite):
    @pytest.fixture
    def fetcher(self) -> TickFetcher:
        columns = {"ts": "time:ms", "symbol": "pair", "price": "p", "size": "q", "side": "taker"}
        return Tables([DATA / "trades.csv"], columns=columns)


class TestParquet(TickFetcherSuite):
    @pytest.fixture
    def fetcher(self, tmp_path: Path) -> TickFetcher:
        for i, seed in enumerate((1, 2)):
            Synthetic(Market(symbols=2, ticks=50, seed=seed)).fetch().to_parquet(tmp_path / f"{i}.parquet")
        return Tables(sorted(tmp_path.glob("*.parquet")))


class TestSynthetic(TickFetcherSuite):
    @pytest.fixture
    def fetcher(self) -> TickFetcher:
        return Synthetic(Market(symbols=3, ticks=2000, regimes=3))


class TestSyntheticOfSeveralChunks(TickFetcherSuite):
    @pytest.fixture
    def fetcher(self, monkeypatch: pytest.MonkeyPatch) -> TickFetcher:
        monkeypatch.setattr("data_io.data_fetcher.synthetic._CHUNK_TICKS", 700)
        return Synthetic(Market(symbols=3, ticks=2000))


class TestLake(TickFetcherSuite):
    @pytest.fixture
    def fetcher(self, tmp_path: Path) -> TickFetcher:
        frame = Synthetic(Market(symbols=2, ticks=400)).fetch()
        frame.loc[200:, "ts_ns"] += 24 * 3600 * 10**9
        LakeSink(tmp_path).write([frame], "exchange")
        return Lake(tmp_path)


def kept(source: TickFetcher, home: Path) -> TickFetcher:
    """Return ``source`` kept as a data set."""
    origin = Origin("source", source.ts_source)
    store = DatasetStore(home)
    store.put("kept", contents(source), origin, datetime(2024, 1, 1, tzinfo=UTC))
    return store.open(DatasetId("kept", 1))


class TestDatasetOfTicks(TickFetcherSuite):
    @pytest.fixture
    def fetcher(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TickFetcher:
        monkeypatch.setattr("data_io.sinks.parquet.GROUP_ROWS", 300)
        return kept(Synthetic(Market(symbols=3, ticks=1000)), tmp_path)


def daily_prices() -> daily.DailyPrices:
    days = pd.date_range("2024-01-01", periods=5, tz="America/New_York")
    close = [10.0, 11.0, 10.5, 12.0, 11.0]
    table = pd.DataFrame(
        {"Open": 10.0, "High": 13.0, "Low": 9.0, "Close": close, "Volume": [100, 0, 5, 7, 9]}, index=days
    )
    asked = daily.Asked.parse("yfinance:IBM,MSFT?from=2024-01-01")
    return daily.DailyPrices(asked, download=lambda *_: table)


class TestDailyPrices(BarFetcherSuite):
    @pytest.fixture
    def fetcher(self) -> BarFetcher:
        return daily_prices()


class TestBarTables(BarFetcherSuite):
    @pytest.fixture
    def fetcher(self, tmp_path: Path) -> BarFetcher:
        ParquetSink(tmp_path / "bars.parquet").write(daily_prices().bar_chunks(), "exchange")
        return BarTables([(tmp_path / "bars.parquet", None)])


class TestDatasetOfBars(BarFetcherSuite):
    @pytest.fixture
    def fetcher(self, tmp_path: Path) -> BarFetcher:
        return kept(daily_prices(), tmp_path)


@pytest.fixture
def market() -> Iterator[Exchange]:
    ms = 1_704_067_200_000
    with exchange() as market:
        market.now_ms = ms + 3_600_000
        for symbol in ("BTCUSDT", "ETHUSDT"):
            market.trades[symbol] = [(i, ms + 7 * i, f"10.{i}", "2", i % 2 == 0) for i in range(6)]
            market.candles[symbol] = [[ms + 60_000 * i, 10, 12, 9, 10 + i % 2, i % 3] for i in range(6)]
        yield market


class TestExchangeTrades(TickFetcherSuite):
    @pytest.fixture
    def fetcher(self, market: Exchange) -> TickFetcher:
        asked = exchange_rest.Asked.parse("ccxt:binance:BTC/USDT,ETH/USDT?from=2024-01-01")
        return exchange_rest.ExchangeTrades(asked, config=market.config)


class TestExchangeBars(BarFetcherSuite):
    @pytest.fixture
    def fetcher(self, market: Exchange) -> BarFetcher:
        asked = exchange_rest.Asked.parse("ccxt:binance:BTC/USDT,ETH/USDT?kind=bars&from=2024-01-01")
        return exchange_rest.ExchangeBars(asked, config=market.config)
