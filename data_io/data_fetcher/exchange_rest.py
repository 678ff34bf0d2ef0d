"""Trades and candles of exchanges over REST, through ccxt: ``ccxt:binance:BTC/USDT?kind=trades&from=2024-01-01``.

Both are asked for page by page from a time on. Each page begins with what ended the one before, so that nothing is
missing between them; an exchange that pages otherwise is refused. Times are the exchange's own; a candle stands at its
end, and one that is not over is left out. ``seq`` is the exchange's number of a trade (of an *aggregate* trade at
Binance, another count than that of its websocket). What one symbol gives comes after all of the one before it.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd

from data_io.data_fetcher import source_text
from data_io.data_fetcher.port import BAR, Barred, Chunked, SourceReport
from ml_core import frames
from ml_core.errors import InputError, SetupError, SourceUnavailableError, nearest
from ml_core.types import TickKind

PREFIX = "ccxt"
TRIES = 6  # of one request; the waits between them are 1, 2, 4, 8, 16 s
_PAGE = 1000
_MS_NS = 1_000_000
_STEP_MS = 3_600_000  # Binance answers of an hour at most
_DAY_MS = 86_400_000
_SIDES = {"buy": 1, "sell": -1}


class Asked(NamedTuple):
    """What of which exchange is wanted."""

    exchange: str
    symbols: tuple[str, ...]
    kind: str
    timeframe: str  # of candles
    start_ns: int
    end_ns: int | None  # left out; None: up to now

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what ``"ccxt:binance:BTC/USDT,ETH/USDT?kind=bars&timeframe=1m&from=2024-01-01&to=2024-01-02"`` asks.

        Raises:
            InputError: The text names something unknown, or no beginning. A retry will not help.
        """
        (exchange, names), options = source_text.parse(text, 2, ("kind", "timeframe", "from", "to"))
        kind = options.get("kind", "trades")
        if kind not in ("trades", "bars"):
            raise InputError(f"{text!r}: the kind is trades or bars")
        if "from" not in options:
            raise InputError(f"{text!r}: say from when on, such as ?from=2024-01-01")
        if "timeframe" in options and kind == "trades":
            raise InputError(f"{text!r}: trades have no timeframe; kind=bars has")
        start_ns = source_text.time_ns(options["from"])
        end_ns = source_text.time_ns(options["to"]) if "to" in options else None
        if end_ns is not None and end_ns <= start_ns:
            raise InputError(f"{text!r} ends before it starts")
        return cls(exchange, source_text.symbols(names), kind, options.get("timeframe", "1m"), start_ns, end_ns)


class _Item(NamedTuple):
    """A trade or candle: what tells it from others, its time, and what ccxt makes of it."""

    id: str
    ts_ms: int
    value: Any


class _Session:
    """One exchange, asked patiently."""

    def __init__(self, name: str, config: Mapping[str, Any], sleep: Callable[[float], None]) -> None:
        try:
            import ccxt
        except ModuleNotFoundError as error:
            raise SetupError("exchanges need ccxt: pip install 'tickwise[exchanges]'") from error
        if name not in ccxt.exchanges:
            raise InputError(f"ccxt knows no exchange {name!r}{nearest(name, ccxt.exchanges)}")
        self._ccxt, self._sleep = ccxt, sleep
        self.exchange = getattr(ccxt, name)(dict(config))

    def close(self) -> None:
        self.exchange.session.close()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Return the exchange's answer; where it is busy or away, it is asked again, ever more slowly.

        Raises:
            InputError: It refuses. A retry will not help.
            SourceUnavailableError: It did not answer, or wants to be left alone. A retry is safe.
        """
        name = self.exchange.id
        for attempt in range(TRIES):
            try:
                return getattr(self.exchange, method)(*arguments)
            except self._ccxt.OperationFailed as error:  # rate limits, time-outs, maintenance
                if attempt == TRIES - 1:
                    raise SourceUnavailableError(f"{name} did not answer {TRIES} times: {_short(error)}") from error
                self._sleep(2.0**attempt)
            except self._ccxt.BaseError as error:
                raise InputError(f"{name} refuses {method}{arguments}: {_short(error)}") from error
        raise AssertionError("the last attempt returns or raises")

    def now_ms(self, clock: Callable[[], int]) -> int:
        """Return the exchange's time, ours where it does not tell, or tells of one that is far off."""
        ours_ms = clock() // _MS_NS
        return min(int(self.ask("fetch_time")), ours_ms + _DAY_MS) if self.exchange.has.get("fetchTime") else ours_ms

    def pages(
        self, page_of: Callable[[int], list[_Item]], since_ms: int, until_ms: int, step_ms: int
    ) -> Iterator[list[_Item]]:
        """Yield what lies in ``[since_ms, until_ms)``, in order and each once.

        Args:
            page_of: Returns up to a page of items from a time on, that time included.
            since_ms: Begin.
            until_ms: End, left out.
            step_ms: How far an answer without anything new reaches.
        """
        seen: set[str] = set()
        while since_ms < until_ms:
            page = sorted((i for i in page_of(since_ms) if i.ts_ms >= since_ms), key=lambda item: item.ts_ms)
            new = [item for item in page if item.id not in seen]
            if seen and page and len(new) == len(page):
                raise InputError(f"{self.exchange.id} does not page from the time on that is asked for")
            if not new:
                if len(page) >= _PAGE:
                    raise InputError(f"{self.exchange.id} has more than {_PAGE} trades in one ms; some would be missed")
                since_ms, seen = since_ms + step_ms, set()
                continue
            if inside := [item for item in new if item.ts_ms < until_ms]:
                yield inside
            last_ms = new[-1].ts_ms
            seen = {item.id for item in page if item.ts_ms == last_ms}
            since_ms = last_ms


class _Rest:
    """What both kinds share."""

    ts_source = "exchange"

    def __init__(
        self,
        asked: Asked,
        *,
        config: Mapping[str, Any] | None = None,
        clock: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Ask for ``asked``.

        Args:
            asked: What is wanted.
            config: Settings of ccxt's exchange, such as ``urls``.
            clock: Now, ns since the epoch, for exchanges that do not tell their time.
            sleep: Waits so many seconds before a request is made again.
        """
        self.asked, self._config, self._clock, self._sleep = asked, config or {}, clock, sleep
        self.report = SourceReport()

    def symbols(self) -> list[str]:
        """Return the symbols that are asked for, sorted."""
        return sorted(self.asked.symbols)

    def _session(self) -> _Session:
        self.report = SourceReport()
        return _Session(self.asked.exchange, self._config, self._sleep)

    def _symbol(self, symbol: str, n: int) -> "pd.Categorical[Any]":
        return frames.category(np.full(n, self.asked.symbols.index(symbol)), list(self.asked.symbols))


class ExchangeTrades(_Rest, Chunked):
    """Trades of one exchange."""

    kinds: ClassVar[frozenset[str]] = frozenset({"trade"})

    def _chunks(self) -> Iterator[pd.DataFrame]:
        done = 0
        with closing(self._session()) as session:
            # there are no trades of the future, and to ask for them hour by hour would take for ever
            latest_ns = self._clock() + _DAY_MS * _MS_NS
            end_ns = min(self.asked.end_ns or session.now_ms(self._clock) * _MS_NS, latest_ns)
            for symbol in self.asked.symbols:
                pages = session.pages(_trades(session, symbol), self.asked.start_ns // _MS_NS, _ms_up(end_ns), _STEP_MS)
                for page in pages:
                    frame = self._frame(page, symbol, done)
                    done += len(page)
                    yield frame

    def _frame(self, page: list[_Item], symbol: str, done: int) -> pd.DataFrame:
        price_N, size_N = (np.array([item.value[name] or 0 for item in page], float) for name in ("price", "amount"))
        good_N = (price_N > 0) & (size_N > 0) & np.isfinite(price_N) & np.isfinite(size_N)
        for i in np.flatnonzero(~good_N).tolist():
            self.report.skip("price or size is not positive and finite", f"{symbol}, trade {page[i].id}")
        side_N = np.array([_SIDES.get(item.value["side"], 0) for item in page])
        frame = frames.build(
            ts_ns=np.array([item.ts_ms for item in page], dtype=np.int64)[good_N] * _MS_NS,
            symbol=self._symbol(symbol, int(good_N.sum())),
            kind=TickKind.TRADE,
            price=price_N[good_N],
            size=size_N[good_N],
            side=side_N[good_N],
            seq=np.array([_number(item.id) for item in page], dtype=np.int64)[good_N],
            offset=done + np.flatnonzero(good_N),
        )
        self.report.count(frame)
        return frame


class ExchangeBars(_Rest, Barred):
    """Candles of one exchange."""

    kinds: ClassVar[frozenset[str]] = frozenset({BAR})

    def _bars(self) -> Iterator[pd.DataFrame]:
        done, frame = 0, self.asked.timeframe
        with closing(self._session()) as session:
            if frame not in (session.exchange.timeframes or {}) or frame[-1] in "My":
                fixed = [name for name in session.exchange.timeframes or {} if name[-1] not in "My"]
                raise InputError(f"{session.exchange.id} has no candles {frame!r} of one width{nearest(frame, fixed)}")
            width_ms = session.exchange.parse_timeframe(frame) * 1000
            over_ms = session.now_ms(self._clock) - width_ms + 1  # candles that begin before it are over
            end_ms = over_ms if self.asked.end_ns is None else min(over_ms, _ms_up(self.asked.end_ns) - width_ms)
            start_ms = max(0, _ms_up(self.asked.start_ns) - width_ms)
            for symbol in self.asked.symbols:
                for page in session.pages(_candles(session, symbol, frame), start_ms, end_ms, width_ms * _PAGE):
                    yield self._frame(page, symbol, done, width_ms)
                    done += len(page)

    def _frame(self, page: list[_Item], symbol: str, done: int, width_ms: int) -> pd.DataFrame:
        value_N5 = np.array([item.value[1:6] for item in page], dtype=np.float64)
        good_N = np.isfinite(value_N5).all(axis=1)
        for i in np.flatnonzero(~good_N).tolist():
            self.report.skip("a candle with a hole", f"{symbol}, {page[i].ts_ms} ms")
        start_N = np.array([item.ts_ms for item in page], dtype=np.int64)[good_N] * _MS_NS
        return frames.build_bars(
            ts_ns=start_N + width_ms * _MS_NS,
            symbol=self._symbol(symbol, len(start_N)),
            offset=done + np.flatnonzero(good_N),
            start_ns=start_N,
            **dict(zip(("open", "high", "low", "close", "volume"), value_N5[good_N].T, strict=True)),
        )


def open_exchange(text: str) -> ExchangeTrades | ExchangeBars:
    """Return the fetcher of a text such as ``ccxt:binance:BTC/USDT?kind=trades&from=...``; see `Asked.parse`."""
    asked = Asked.parse(text)
    return ExchangeTrades(asked) if asked.kind == "trades" else ExchangeBars(asked)


def _trades(session: _Session, symbol: str) -> Callable[[int], list[_Item]]:
    def page_of(since_ms: int) -> list[_Item]:
        trades = session.ask("fetch_trades", symbol, since_ms, _PAGE)
        if any(trade["id"] is None for trade in trades):
            raise InputError(f"{session.exchange.id} gives trades without ids; pages of them cannot be joined")
        return [_Item(str(trade["id"]), int(trade["timestamp"]), trade) for trade in trades]

    return page_of


def _candles(session: _Session, symbol: str, timeframe: str) -> Callable[[int], list[_Item]]:
    def page_of(since_ms: int) -> list[_Item]:
        candles = session.ask("fetch_ohlcv", symbol, timeframe, since_ms, _PAGE)
        return [_Item(str(candle[0]), int(candle[0]), candle) for candle in candles]

    return page_of


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 19 else -1


def _ms_up(ts_ns: int) -> int:
    return -(-ts_ns // _MS_NS)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"
