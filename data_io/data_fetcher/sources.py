"""Which adapter reads a source, by what its text, name or first bytes say."""

import glob
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from data_io.data_fetcher import daily, exchange_rest
from data_io.data_fetcher.bar_tables import BarTables, holds_bars
from data_io.data_fetcher.binance_capture import BinanceCapture
from data_io.data_fetcher.lake import Lake, files_of, is_lake
from data_io.data_fetcher.lean_ticks import LeanTicks
from data_io.data_fetcher.lines import read_lines
from data_io.data_fetcher.port import TickFetcher
from data_io.data_fetcher.synthetic import PREFIX, Market, Synthetic
from data_io.data_fetcher.table_files import SUFFIXES
from data_io.data_fetcher.tables import Tables
from data_io.datasets import manifest
from data_io.datasets.manifest import DatasetId
from data_io.datasets.reader import DatasetBars, DatasetTicks
from data_io.datasets.store import DatasetStore
from data_io.settings import CommonSettings
from ml_core.errors import InputError

UNDERSTOOD = (
    "a recorded Binance stream (lines of '<receive ns> <json>', plain or gzip), LEAN tick archives (a zip or a folder "
    "of YYYYMMDD_trade.zip and YYYYMMDD_quote.zip), CSV or Parquet tables (a file, a folder or a pattern), a lake (a "
    "folder of folders symbol=.../date=...), a data set (dataset:NAME@VERSION), "
    "an exchange (ccxt:binance:BTC/USDT?kind=trades&from=2024-01-01&to=2024-01-02, or kind=bars&timeframe=1m), daily "
    "prices (yfinance:IBM?from=2024-01-01&to=2024-02-01), "
    "or synthetic:symbols=8,ticks=60000,seed=1"
)
_NAMED: dict[str, Callable[[str], TickFetcher]] = {
    PREFIX: lambda text: Synthetic(Market.parse(text if ":" in text else text + ":")),
    exchange_rest.PREFIX: exchange_rest.open_exchange,
    daily.PREFIX: daily.open_daily,
}
_CAPTURE_LINE = re.compile(rb"\d{16,19} \{")


def open_source(
    text: str, *, symbol: str | None = None, columns: Mapping[str, str] | None = None, home: Path | None = None
) -> TickFetcher:
    """Return the fetcher of ``text``: a path, a pattern such as ``lake/*.parquet``, or ``dataset:...`` and the like.

    Args:
        text: The source. Relative paths start from the working directory.
        symbol: The symbol of all ticks, for tables without such a column and for LEAN archives.
        columns: Column of each field of a tick, for tables; see `tables`.
        home: The folder of data sets; None: that of the settings.

    Raises:
        NotFoundError: There is no such data set.
        InputError: There is no such source, none of the adapters reads it, or an option does not apply to it.
            A retry will not help.
    """
    prefix, colon, _ = text.partition(":")
    fetcher: TickFetcher
    if text.startswith(manifest.PREFIX):
        fetcher = DatasetStore(home or CommonSettings.read().home).open(DatasetId.parse(text))
    elif prefix in _NAMED and (colon or text == PREFIX):
        fetcher = _NAMED[prefix](text)
    else:
        fetcher = _open(text, symbol, columns)
    if columns is not None and not isinstance(fetcher, Tables):
        raise InputError(f"a column mapping applies to CSV and Parquet tables, not to {text!r}")
    if symbol is not None and not isinstance(fetcher, Tables | BarTables | LeanTicks):
        raise InputError(f"the symbols of {text!r} stand in its ticks; the option symbol does not apply")
    return fetcher


def source_hash(text: str, fetcher: TickFetcher) -> str | None:
    """Return the content hash of the data set ``text`` names, or the SHA-256 of one file; None for all other sources.

    ``fetcher`` is what `open_source` made of ``text``.
    """
    if isinstance(fetcher, DatasetTicks | DatasetBars):
        return fetcher.manifest.content_hash
    if not Path(text).is_file():
        return None
    with Path(text).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(text: str, symbol: str | None, columns: Mapping[str, str] | None) -> TickFetcher:
    path = Path(text)
    if path.is_dir():
        return _open_folder(path, symbol, columns)
    if path.exists():
        return _open_file(path, symbol, columns)
    found = sorted(Path(name) for name in glob.glob(text)) if glob.has_magic(text) else []  # noqa: PTH207  # may be absolute
    if not found:
        raise InputError(f"there is no file or folder {text!r}; a source is {UNDERSTOOD}")
    if all(file.suffix == ".zip" for file in found):
        return LeanTicks(found, symbol=symbol)
    return _tables(found, columns, symbol)


def _open_folder(path: Path, symbol: str | None, columns: Mapping[str, str] | None) -> TickFetcher:
    if any(path.glob("*_trade.zip")) or any(path.glob("*_quote.zip")):
        return LeanTicks.of_folder(path, symbol=symbol)
    tables = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES))
    if not tables and is_lake(path):
        files = files_of(path, symbol)
        if columns is None and holds_bars(files[0].path):
            return BarTables([(file.path, file.symbol) for file in files])
        return Lake(path, columns=columns, symbol=symbol)
    if not tables:
        raise InputError(f"nothing in the folder {str(path)!r} is understood; a source is {UNDERSTOOD}")
    return _tables(tables, columns, symbol)


def _open_file(path: Path, symbol: str | None, columns: Mapping[str, str] | None) -> TickFetcher:
    if path.name.endswith(SUFFIXES):
        return _tables([path], columns, symbol)
    if path.suffix == ".zip":
        return LeanTicks([path], symbol=symbol)
    if any(_CAPTURE_LINE.match(line) for line in _first_lines(path)):
        return BinanceCapture(path)
    raise InputError(f"{str(path)!r} is not understood; a source is {UNDERSTOOD}")


def _tables(paths: list[Path], columns: Mapping[str, str] | None, symbol: str | None) -> TickFetcher:
    if columns is None and holds_bars(paths[0]):
        return BarTables([(path, symbol) for path in paths])
    return Tables(paths, columns=columns, symbol=symbol)


def _first_lines(path: Path, limit: int = 20) -> Iterator[bytes]:
    """Yield the first lines of ``path``; where it breaks after one of them, reading it will tell."""
    number = 0
    try:
        for number, line in read_lines(path):
            if number > limit:
                return
            yield line
    except InputError:
        if number == 0:
            raise
