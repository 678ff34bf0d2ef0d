"""Daily prices of listed instruments, through yfinance: ``yfinance:IBM,MSFT?from=2024-01-01&to=2024-02-01``.

A bar stands at the close of its session in the time zone of its exchange: before that nobody knew it. On half days the
regular close is taken, which is later than the true one and so looks at nothing ahead. A session that is not over is
left out. Prices are adjusted for splits, ``adjusted=yes`` gives them adjusted for dividends too: past ones change with
every split, or dividend, to come.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd

from data_io.data_fetcher import source_text
from data_io.data_fetcher.port import BAR, Barred, SourceReport
from ml_core import frames
from ml_core.errors import InputError, SetupError, SourceUnavailableError, nearest
from ml_core.types import Int64

PREFIX = "yfinance"
CLOSES = {
    "America/New_York": timedelta(hours=16),
    "Europe/London": timedelta(hours=16, minutes=35),  # the end of the closing auction, which makes the price
    "Asia/Tokyo": timedelta(hours=15, minutes=30),
    "UTC": timedelta(days=1),  # currencies and coins, which trade all day
}
"""Regular close of the sessions in a time zone, after local midnight."""

_NAMES = {"Open": "open", "High": "high", "Low": "low", "Close": "close", "Volume": "volume"}

Download = Callable[[str, date, date, bool], pd.DataFrame]
"""Symbol, first day, day behind the last, adjusted -> a row a session: index local midnights with the exchange's time
zone, columns Open, High, Low, Close, Volume."""


class Asked(NamedTuple):
    """Which daily prices are wanted."""

    symbols: tuple[str, ...]
    start: date
    end: date | None  # left out; None: up to today
    is_adjusted: bool
    close: timedelta | None  # after local midnight; None: by `CLOSES`

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what ``"yfinance:IBM?from=2024-01-01&to=2024-02-01&adjusted=no&close=16:00"`` asks for.

        Raises:
            InputError: The text names something unknown, or no beginning. A retry will not help.
        """
        (names,), options = source_text.parse(text, 1, ("from", "to", "adjusted", "close"))
        if "from" not in options:
            raise InputError(f"{text!r}: say from when on, such as ?from=2024-01-01")
        adjusted = options.get("adjusted", "no")
        if adjusted not in ("yes", "no"):
            raise InputError(f"{text!r}: adjusted is yes or no")
        start, end = _day(options["from"]), _day(options["to"]) if "to" in options else None
        if end is not None and end <= start:
            raise InputError(f"{text!r} ends before it starts")
        close = _time_of_day(options["close"]) if "close" in options else None
        return cls(source_text.symbols(names), start, end, adjusted == "yes", close)


class DailyPrices(Barred):
    """One bar a session, symbol after symbol."""

    ts_source = "exchange"
    kinds: ClassVar[frozenset[str]] = frozenset({BAR})

    def __init__(
        self, asked: Asked, *, download: Download | None = None, clock: Callable[[], int] = time.time_ns
    ) -> None:
        """Ask for ``asked``.

        Args:
            asked: What is wanted.
            download: What asks for it; None: yfinance.
            clock: Now, ns since the epoch, UTC.
        """
        self.asked, self._download, self._clock = asked, download or _yahoo, clock
        self.report = SourceReport()

    def symbols(self) -> list[str]:
        """Return the symbols that are asked for, sorted."""
        return sorted(self.asked.symbols)

    def _bars(self) -> Iterator[pd.DataFrame]:
        self.report = SourceReport()
        now_ns, done = self._clock(), 0
        # to the east it may be tomorrow already
        end = self.asked.end or datetime.fromtimestamp(now_ns / 1e9, UTC).date() + timedelta(days=2)
        for symbol in self.asked.symbols:
            table = self._download(symbol, self.asked.start, end, self.asked.is_adjusted)
            if not len(table):
                continue
            yield self._frame(table, symbol, done, now_ns)
            done += len(table)

    def _frame(self, table: pd.DataFrame, symbol: str, done: int, now_ns: int) -> pd.DataFrame:
        missing = [
            f"no column {name!r}{nearest(name, map(str, table.columns))}" for name in _NAMES if name not in table
        ]
        if missing:
            raise InputError(f"daily prices of {symbol}: {'; '.join(missing)}")
        start_N, end_N = self._sessions(table, symbol)
        value = {new: table[old].to_numpy(dtype=np.float64) for old, new in _NAMES.items()}
        whole_N = np.isfinite(np.stack(list(value.values()))).all(axis=0)
        if not whole_N.all():
            self.report.skipped["a session with a hole"] += int((~whole_N).sum())
        over_N = end_N <= now_ns
        if not over_N.all():
            self.report.ignored["session not over"] += int((~over_N).sum())
        keep_N = whole_N & over_N
        return frames.build_bars(
            ts_ns=end_N[keep_N],
            symbol=frames.category(np.full(int(keep_N.sum()), self.asked.symbols.index(symbol)), [*self.asked.symbols]),
            offset=done + np.flatnonzero(keep_N),
            start_ns=start_N[keep_N],
            **{name: value_N[keep_N] for name, value_N in value.items()},
        )

    def _sessions(self, table: pd.DataFrame, symbol: str) -> tuple[Int64, Int64]:
        """Return the local midnight and the close of each session, ns since the epoch."""
        index = table.index
        if not isinstance(index, pd.DatetimeIndex) or index.tz is None:
            raise InputError(f"daily prices of {symbol} do not tell the time zone of their exchange")
        zone = str(index.tz)
        close = CLOSES.get(zone) if self.asked.close is None else self.asked.close
        if close is None:
            raise InputError(f"when the sessions of {symbol} close in {zone} is not known: add close=17:30")
        # by the wall clock: a day may have 23 or 25 hours
        midnight = index.tz_localize(None).normalize()
        return _utc_ns(midnight, index.tz), _utc_ns(midnight + close, index.tz)


def open_daily(text: str) -> DailyPrices:
    """Return the fetcher of a text such as ``yfinance:IBM?from=2024-01-01``; see `Asked.parse`."""
    return DailyPrices(Asked.parse(text))


def _utc_ns(local: pd.DatetimeIndex, zone: Any) -> Int64:
    ts_ns_N: Int64 = local.as_unit("ns").tz_localize(zone, ambiguous=False, nonexistent="shift_forward").asi8
    return ts_ns_N


def _yahoo(symbol: str, start: date, end: date, is_adjusted: bool) -> pd.DataFrame:
    try:
        import yfinance
    except ModuleNotFoundError as error:
        raise SetupError("daily prices need yfinance: pip install 'tickwise[daily]'") from error
    yfinance.config.debug.hide_exceptions = False
    try:
        table: pd.DataFrame = yfinance.Ticker(symbol).history(
            interval="1d", start=start, end=end, auto_adjust=is_adjusted, actions=False
        )
    except yfinance.exceptions.YFTickerMissingError as error:
        raise InputError(f"there are no daily prices of {symbol} from {start} to {end}: {error}") from error
    except Exception as error:  # of any layer below; a symbol that does not exist has been told apart
        raise SourceUnavailableError(f"daily prices of {symbol}: {type(error).__name__}: {error}") from error
    return table


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{text!r} is no day such as 2024-01-02") from error


def _time_of_day(text: str) -> timedelta:
    if text == "24:00":
        return timedelta(days=1)
    try:
        time_ = datetime.strptime(text, "%H:%M")  # noqa: DTZ007  # a time of day has no zone
    except ValueError as error:
        raise InputError(f"{text!r} is no time of day such as 16:00") from error
    return timedelta(hours=time_.hour, minutes=time_.minute)
