from pathlib import Path

import pytest

from data_io.data_fetcher.binance_capture import BinanceCapture
from data_io.data_fetcher.lean_ticks import LeanTicks
from data_io.data_fetcher.port import TickFetcher
from data_io.data_fetcher.synthetic import Market, Synthetic
from data_io.data_fetcher.tables import Tables
from tests.conformance.tick_fetcher import TickFetcherSuite

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
