"""A lake: Parquet files in folders named ``key=value``, of which only those that a question needs are opened.

``symbol=...`` in a path is the symbol of all rows below it, and ``date=YYYY-MM-DD`` says of what day (UTC, give or take
a day for lakes that count by another zone) they are. Files are read day by day, those of a day in the order of their
paths, so the ticks of one symbol are in the order of its files and symbols of one day come one after the other.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import pandas as pd

from data_io.data_fetcher.port import END_OF_TIME_NS, SourceReport, select
from data_io.data_fetcher.tables import Tables
from ml_core.errors import InputError

DAY_NS = 24 * 3600 * 10**9
_FILE_BITS = 36  # of an offset, for the row within a file: skipped files need not be opened to be counted
_FOLDER = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")


class LakeFile(NamedTuple):
    """A file, and what its folders say of it."""

    path: Path
    symbol: str | None
    day_ns: int | None  # its midnight

    def may_hold(self, symbol: str | None, start_ns: int, end_ns: int) -> bool:
        """Return False where its folders rule ticks of a range out."""
        if symbol is not None and self.symbol is not None and symbol != self.symbol:
            return False
        return self.day_ns is None or (self.day_ns - DAY_NS < end_ns and self.day_ns + 2 * DAY_NS > start_ns)


class Lake(Tables):
    """Ticks of all Parquet files below a folder.

    Of a range of time or a symbol only the files are opened whose folders allow for it, and of those only the row
    groups are read whose statistics do.
    """

    def __init__(self, root: Path, *, columns: Mapping[str, str] | None = None, symbol: str | None = None) -> None:
        """Read the files below ``root``; ``columns`` and ``symbol`` as for `Tables`.

        Raises:
            InputError: There is none, a folder's date is none, or the mapping is wrong. A retry will not help.
        """
        self._files = files_of(root, symbol)
        self._symbols = sorted({file.symbol for file in self._files if file.symbol is not None})
        super().__init__([file.path for file in self._files], columns=columns, symbol=symbol)

    def chunks(
        self, symbol: str | None = None, *, start_ns: int = 0, end_ns: int = END_OF_TIME_NS
    ) -> Iterator[pd.DataFrame]:
        """Yield the ticks of ``symbol`` of a range, opening no file in vain; see `TickFetcher.chunks`."""
        return select(self._within(symbol, start_ns, end_ns), symbol, start_ns, end_ns)

    def _chunks(self) -> Iterator[pd.DataFrame]:
        return self._within(None, 0, END_OF_TIME_NS)

    def _within(self, symbol: str | None, start_ns: int, end_ns: int) -> Iterator[pd.DataFrame]:
        self.report = SourceReport()
        for number, file in enumerate(self._files):
            if file.may_hold(symbol, start_ns, end_ns):
                for _, frame in self._read(file.path, file.symbol, number << _FILE_BITS, start_ns, end_ns):
                    yield frame if file.symbol is None else _among(frame, self._symbols)


def files_of(root: Path, symbol: str | None = None) -> list[LakeFile]:
    """Return the files below ``root`` in the order in which they are read; ``symbol`` stands for that of all folders.

    Raises:
        InputError: There is none, or a folder's date is none. A retry will not help.
    """
    files = [_described(path, root, symbol) for path in sorted(root.rglob("*.parquet"))]
    files = [file for file in files if not any(part.startswith(".") for part in file.path.relative_to(root).parts)]
    if not files:
        raise InputError(f"there is no .parquet file below the folder {root}")
    # sorted keeps the order of paths within a day
    return sorted(files, key=lambda file: -1 if file.day_ns is None else file.day_ns)


def is_lake(folder: Path) -> bool:
    """Return True where a folder in ``folder`` is named ``key=value``."""
    return any(_FOLDER.fullmatch(inside.name) and inside.is_dir() for inside in folder.iterdir())


def folder_of(symbol: str, date: str) -> Path:
    """Return the folder of a symbol's ticks of one day, within a lake.

    >>> folder_of("BTC/USDT", "2024-01-02").as_posix()
    'symbol=BTC%2FUSDT/date=2024-01-02'
    """
    return Path(f"symbol={quote(symbol, safe='')}") / f"date={date}"


def _among(frame: pd.DataFrame, symbols: list[str]) -> pd.DataFrame:
    return frame.assign(symbol=frame["symbol"].cat.set_categories(symbols))


def _described(path: Path, root: Path, symbol: str | None) -> LakeFile:
    pairs = (_FOLDER.fullmatch(name) for name in path.relative_to(root).parts[:-1])
    told = {pair[1]: unquote(pair[2]) for pair in pairs if pair}
    try:
        day = datetime.strptime(told["date"], "%Y-%m-%d").replace(tzinfo=UTC) if "date" in told else None
    except ValueError as error:
        raise InputError(f"{path}: {told['date']!r} is no date such as 2024-01-02") from error
    return LakeFile(path, symbol or told.get("symbol"), int(day.timestamp()) * 10**9 if day else None)
