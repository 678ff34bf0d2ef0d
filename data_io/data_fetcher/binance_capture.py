"""Recorded Binance websocket streams: one line a message, ``<local ns> <json>``, plain or gzip.

Best quotes carry no venue time and trades are stamped by another clock than ours, so every tick stands on the receive
clock; the venue's own time of a trade is kept in ``exchange_ts_ns``. Depth updates are counted and left out.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from data_io.data_fetcher.binance_messages import BinanceTrade, read
from data_io.data_fetcher.lines import read_lines
from data_io.data_fetcher.port import Chunked, SourceReport
from data_io.data_fetcher.venue_values import UnusableMessageError
from ml_core import frames
from ml_core.errors import InputError
from ml_core.types import TickKind

_CHUNK = 16_384
_MAX_NS = 2**63 - 1
_NAN = math.nan


_Row = tuple[int, int, int, int, float, float, float, float, float, float, int, int, int]
"""offset, symbol code, kind, ts_ns, price, size, bid, ask, bid_size, ask_size, side, seq, exchange_ts_ns."""


class BinanceCapture(Chunked):
    """Trades and best quotes of one capture file."""

    ts_source = "receive"
    kinds: ClassVar[frozenset[str]] = frozenset(frames.KINDS)

    def __init__(self, path: Path) -> None:
        """Read ``path``, plain or gzip."""
        self.path = path
        self.report = SourceReport()

    def _chunks(self) -> Iterator[pd.DataFrame]:
        report = self.report = SourceReport()
        names: dict[str, int] = {}
        rows: list[_Row] = []
        try:
            for number, line in read_lines(self.path):
                try:
                    row = _row(number, line, names, report)
                except UnusableMessageError as reason:
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
        raise UnusableMessageError("no receive time")
    message = read(body)
    if isinstance(message, str):
        report.ignored[message] += 1
        return None
    code, ts_ns = names.setdefault(message.symbol, len(names)), int(stamp)
    if isinstance(message, BinanceTrade):
        _, seq, price, size, side, exchange_ns = message
        return number, code, TickKind.TRADE, ts_ns, price, size, _NAN, _NAN, _NAN, _NAN, side, seq, exchange_ns
    _, seq, bid, ask, bid_size, ask_size = message
    return number, code, TickKind.QUOTE, ts_ns, _NAN, _NAN, bid, ask, bid_size, ask_size, 0, seq, -1


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
