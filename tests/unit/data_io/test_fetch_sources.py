from pathlib import Path

import pytest

from data_io.data_fetcher.binance_capture import BinanceCapture
from data_io.data_fetcher.daily import DailyPrices
from data_io.data_fetcher.exchange_rest import ExchangeBars, ExchangeTrades
from data_io.data_fetcher.lean_ticks import LeanTicks
from data_io.data_fetcher.sources import open_source
from data_io.data_fetcher.synthetic import Synthetic
from data_io.data_fetcher.tables import Tables
from ml_core.errors import InputError

DATA = Path(__file__).parents[2] / "data"


@pytest.mark.parametrize(
    ("text", "adapter"),
    [
        (str(DATA / "binance-capture.txt"), BinanceCapture),
        (str(DATA / "lean"), LeanTicks),
        (str(DATA / "lean" / "20240102_trade.zip"), LeanTicks),
        (str(DATA / "lean" / "*.zip"), LeanTicks),
        (str(DATA / "trades.csv"), Tables),
        (str(DATA / "*.csv"), Tables),
        ("synthetic", Synthetic),
        ("synthetic:symbols=2,seed=5", Synthetic),
        ("ccxt:binance:BTC/USDT?from=2024-01-01", ExchangeTrades),
        ("ccxt:binance:BTC/USDT:USDT?kind=bars&from=2024-01-01", ExchangeBars),
        ("yfinance:IBM?from=2024-01-01", DailyPrices),
    ],
)
def test_the_source_itself_tells_its_adapter(text: str, adapter: type) -> None:
    assert isinstance(open_source(text), adapter)


def test_a_folder_of_tables_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("ts,price,size\n2,1,1\n")
    (tmp_path / "a.csv").write_text("ts,price,size\n1,1,1\n")
    (tmp_path / "notes.md").touch()
    assert open_source(str(tmp_path), symbol="A").fetch()["ts_ns"].tolist() == [1, 2]


@pytest.mark.parametrize("name", ["missing", "missing.gz", "missing.csv", "none/*.parquet"])
def test_what_is_not_there_is_an_input_error_that_says_what_a_source_is(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"no file or folder .*missing|none.* a source is a recorded Binance stream"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("content", [b"", b"hello\n" * 50, bytes(range(256)) * 10])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match="is not understood; a source is"):
        open_source(str(tmp_path / "file"))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing in the folder"):
        open_source(str(tmp_path))


def test_a_gzip_that_breaks_before_its_first_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "capture.gz").write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
    with pytest.raises(InputError, match="ends early"):
        open_source(str(tmp_path / "capture.gz"))


def test_options_that_do_not_apply_are_refused() -> None:
    with pytest.raises(InputError, match="mapping applies to CSV and Parquet"):
        open_source("synthetic", columns={"ts": "t"})
    with pytest.raises(InputError, match="option symbol does not apply"):
        open_source(str(DATA / "binance-capture.txt"), symbol="A")
