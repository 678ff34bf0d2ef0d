"""Recorded Binance websocket streams: one line a message, ``<local ns> <json>``, plain or gzip.

Best quotes carry no venue time and trades are stamped by another clock than ours, so every tick stands on the receive
clock; the venue's own time of a trade is kept in ``exchange_ts_ns``. Depth updates are counted and left out.

Source: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pandas as pd

from data_io.data_fetcher.lines import read_lines
from data_io.data_fetcher.port import BATCH_SIZE, END_OF_TIME_NS, Chunked, SourceReport, batches, collect
from ml_core import frames
from ml_core.errors import InputError
from ml_core.types import TickBatch, TickKind

_CHUNK = 16_384
_MS_NS = 1_000_000
_MAX_NS = 2**63 - 1
_NAN = math.nan


class _Data(msgspec.Struct):
    """The fields used of a trade or a best quote; venue numbers come as text."""

    s: str = ""
    e: str = ""
    t: int = -1  # trade id
    p: str = ""
    q: str = ""
    T: int = -1  # trade time, ms
    m: bool | None = None  # the buyer is the maker
    u: int = -1  # order book update id
    b: msgspec.Raw = msgspec.Raw(b"")  # text in a best quote, a list in a depth update
    B: str = ""
    a: msgspec.Raw = msgspec.Raw(b"")
    A: str = ""


class _Message(msgspec.Struct):
    """A message of the combined streams; without ``stream`` it is an answer to a request, such as a depth snapshot."""

    stream: str = ""
    data: _Data | None = None


_decode = msgspec.json.Decoder(_Message).decode
_decode_text = msgspec.json.Decoder(str).decode

_Row = tuple[int, int, int, int, float, float, float, float, float, float, int, int, int]
"""offset, symbol code, kind, ts_ns, price, size, bid, ask, bid_size, ask_size, side, seq, exchange_ts_ns."""


class _Unusable(Exception):  # noqa: N818  # control flow within this file, not an error for callers
    """The line is no tick; its text is the reason."""


class BinanceCapture(Chunked):
    """Trades and best quotes of one capture file."""

    ts_source = "receive"
    kinds: ClassVar[frozenset[str]] = frozenset(frames.KINDS)

    def __init__(self, path: Path) -> None:
        """Read ``path``, plain or gzip."""
        self.path = path
        self.report = SourceReport()

    def symbols(self) -> list[str]:
        """Return the symbols of the capture, sorted; reads all of it."""
        return sorted({str(name) for chunk in self._chunks() for name in chunk["symbol"].cat.categories})

    def fetch(self, symbol: str | None = None, *, start_ns: int = 0, end_ns: int = END_OF_TIME_NS) -> pd.DataFrame:
        """Return the ticks of ``symbol`` (None: of all) received in ``[start_ns, end_ns)``; see `TickFetcher.fetch`.

        Raises:
            InputError: The file is missing or breaks off, or no line of it is a message. A retry will not help.
        """
        return collect(self._chunks(), symbol, start_ns, end_ns)

    def stream(self, batch_size: int = BATCH_SIZE) -> Iterator[TickBatch]:
        """Yield all ticks in batches; see `TickFetcher.stream`."""
        return batches(self._chunks(), batch_size)

    def _chunks(self) -> Iterator[pd.DataFrame]:
        report = self.report = SourceReport()
        names: dict[str, int] = {}
        rows: list[_Row] = []
        try:
            for number, line in read_lines(self.path):
                try:
                    row = _row(number, line, names, report)
                except _Unusable as reason:
                    report.skip(str(reason), f"{self.path}, line {number}")
                    continue
                if row is not None:
                    rows.append(row)
                if len(rows) == _CHUNK:
                    yield _frame(rows, names, report)
                    rows = []
        except InputError:
            if rows:  # what stands before the break counts
                yield _frame(rows, names, report)
            raise
        if rows or not report.ticks:
            yield _frame(rows, names, report)
        if report.skipped and not report.ticks and not report.ignored:
            raise InputError(f"{self.path} is no capture of '<receive ns> <json>' lines: {report.examples[0]}")


def _row(number: int, line: bytes, names: dict[str, int], report: SourceReport) -> _Row | None:
    """Return the tick of one line, or None where it is sound but no tick."""
    if not line.strip():
        return None
    stamp, _, body = line.partition(b" ")
    if not stamp.isdigit() or int(stamp) > _MAX_NS:
        raise _Unusable("no receive time")
    try:
        message = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is one of them
        raise _Unusable(f"bad json: {error}") from error
    data, kind = message.data, message.stream.partition("@")[2]
    if data is None or kind not in ("trade", "bookTicker"):
        report.ignored[kind.partition("@")[0] or "no stream"] += 1
        return None
    if not data.s:
        raise _Unusable("no symbol")
    code = names.setdefault(data.s, len(names))
    ts_ns = int(stamp)
    if kind == "trade":
        if data.m is None:
            raise _Unusable("no buyer-is-maker flag")
        price, size = _number(data.p, "price"), _number(data.q, "size")
        side = -1 if data.m else 1  # the buyer made the order that the seller took
        exchange_ns = data.T * _MS_NS if 0 <= data.T <= _MAX_NS // _MS_NS else -1
        return number, code, TickKind.TRADE, ts_ns, price, size, _NAN, _NAN, _NAN, _NAN, side, data.t, exchange_ns
    bid, ask = _number(_text(data.b), "bid"), _number(_text(data.a), "ask")
    bid_size, ask_size = _number(data.B, "bid size", zero=True), _number(data.A, "ask size", zero=True)
    return number, code, TickKind.QUOTE, ts_ns, _NAN, _NAN, bid, ask, bid_size, ask_size, 0, data.u, -1


def _text(raw: msgspec.Raw) -> str:
    try:
        return _decode_text(raw)
    except msgspec.DecodeError as error:
        raise _Unusable("no best bid or ask") from error


def _number(text: str, what: str, *, zero: bool = False) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _Unusable(f"{what} is not a number") from None
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise _Unusable(f"{what} is not {'zero or more' if zero else 'positive'} and finite")
    return value


def _frame(rows: list[_Row], names: dict[str, int], report: SourceReport) -> pd.DataFrame:
    columns = [np.array(column) for column in zip(*rows, strict=True)] if rows else [np.empty(0)] * len(_FIELDS)
    given = dict(zip(_FIELDS, columns, strict=True))
    frame = frames.build(
        ts_ns=given.pop("ts_ns").astype(np.int64),
        symbol=frames.category(given.pop("symbol").astype(np.int32), list(names)),
        kind=given.pop("kind").astype(np.int8),
        **given,
    )
    report.count(frame)
    return frame


_FIELDS = (
    *("offset", "symbol", "kind", "ts_ns"),
    *frames.PRICE_COLUMNS,
    *("side", "seq", "exchange_ts_ns"),
)
