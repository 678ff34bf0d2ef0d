"""LEAN equity tick archives: ``YYYYMMDD_trade.zip`` and ``YYYYMMDD_quote.zip``, one CSV file in each.

Times are whole ms since midnight in New York, prices are x 10,000. A quote line has one side (the other is 0 and means
absent): a bid line followed by an ask line of the same ms is one consolidated best quote. Within one ms the order of
trades and quotes is unknown; here quotes come first, so that a trade, the last event of its ms, knows all of it.

Source: https://github.com/QuantConnect/Lean/blob/master/Data/equity/readme.md
"""

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_io.data_fetcher.port import Chunked, SourceReport
from ml_core import frames
from ml_core.errors import InputError, SourceUnavailableError
from ml_core.types import Bool, Float64, Int64, TickKind

NEW_YORK = ZoneInfo("America/New_York")
SCALE = 10_000
_MS_NS = 1_000_000
_DAY_MS = 24 * 3600 * 1000
_FILE_NAME = re.compile(r"(\d{8})_(trade|quote)\.zip")
_INNER_NAME = re.compile(r"\d{8}_([a-z0-9.]+)_", re.IGNORECASE)
_TEXT_COLUMNS = ("exchange", "conditions")
_TRADE_COLUMNS = ("ms", "price", "size", "exchange", "conditions", "suspicious")
_QUOTE_COLUMNS = ("ms", "bid", "bid_size", "ask", "ask_size", "exchange", "conditions", "suspicious")


class _Ticks(NamedTuple):
    """Ticks of one kind of one day in file order; N ticks."""

    kind: TickKind
    ms_N: Int64
    values: dict[str, Float64]
    venue_N: list[str]
    conditions_N: list[str]
    suspicious_N: Bool


class LeanTicks(Chunked):
    """Trades and consolidated best quotes of one equity, day after day."""

    ts_source = "exchange"
    kinds: ClassVar[frozenset[str]] = frozenset(frames.KINDS)

    def __init__(self, paths: Sequence[Path], *, symbol: str | None = None, keep_suspicious: bool = False) -> None:
        """Read the archives ``paths``.

        Args:
            paths: Files named ``YYYYMMDD_trade.zip`` or ``YYYYMMDD_quote.zip``, of one symbol, in any order.
            symbol: Their symbol; by default that in the name of the file inside the first archive.
            keep_suspicious: Keep ticks that the archive marks as suspicious; by default they are only counted.

        Raises:
            InputError: No path, or one of another name.
        """
        days: dict[str, dict[str, Path]] = {}
        for path in paths:
            match = _FILE_NAME.fullmatch(path.name)
            if match is None:
                raise InputError(f"{path} is not named YYYYMMDD_trade.zip or YYYYMMDD_quote.zip")
            days.setdefault(match[1], {})[match[2]] = path
        if not days:
            raise InputError("no LEAN tick archive given")
        self._days = dict(sorted(days.items()))
        self._symbol = symbol
        self.keep_suspicious = keep_suspicious
        self.report = SourceReport()

    @classmethod
    def of_folder(cls, folder: Path, *, symbol: str | None = None, keep_suspicious: bool = False) -> "LeanTicks":
        """Return the fetcher of all tick archives in ``folder``."""
        found = [path for path in folder.glob("*.zip") if _FILE_NAME.fullmatch(path.name)]
        if not found:
            raise InputError(f"no YYYYMMDD_trade.zip or YYYYMMDD_quote.zip in the folder {folder}")
        return cls(found, symbol=symbol, keep_suspicious=keep_suspicious)

    def symbols(self) -> list[str]:
        """Return the one symbol."""
        if self._symbol is None:
            first = next(iter(next(iter(self._days.values())).values()))
            name, _ = _read_csv(first, content=False)
            match = _INNER_NAME.match(name)
            if match is None:
                raise InputError(f"{first}: the name {name!r} does not tell the symbol; give it as an option")
            self._symbol = match[1].upper()
        return [self._symbol]

    def _chunks(self) -> Iterator[pd.DataFrame]:
        self.report = SourceReport()
        symbol = self.symbols()[0]
        done = 0
        for day, files in self._days.items():
            # quotes before trades: the sort by time is stable, so they also stand first within a ms
            parts = [_PARSERS[kind](files[kind], self.report) for kind in ("quote", "trade") if kind in files]
            frame = self._merge(parts, _midnight_ns(day), symbol, done)
            done += len(frame)
            self.report.count(frame)
            yield frame

    def _merge(self, parts: list[_Ticks], midnight_ns: int, symbol: str, done: int) -> pd.DataFrame:
        ms_N = np.concatenate([part.ms_N for part in parts])
        order_N = np.argsort(ms_N, kind="stable")
        suspicious_N = np.concatenate([part.suspicious_N for part in parts])
        if not self.keep_suspicious:
            order_N = order_N[~suspicious_N[order_N]]
            if suspicious_N.any():
                self.report.ignored["suspicious"] += int(suspicious_N.sum())

        def joined(name: str) -> Float64:
            values: Float64 = np.concatenate([part.values.get(name, np.full(len(part.ms_N), np.nan)) for part in parts])
            return values[order_N]

        texts = {
            "venue": [text for part in parts for text in part.venue_N],
            "conditions": [text for part in parts for text in part.conditions_N],
        }
        return frames.build(
            ts_ns=midnight_ns + ms_N[order_N] * _MS_NS,
            symbol=frames.category(np.zeros(len(order_N), dtype=np.int8), [symbol]),
            kind=np.concatenate([np.full(len(part.ms_N), part.kind, dtype=np.int8) for part in parts])[order_N],
            **{name: joined(name) for name in frames.PRICE_COLUMNS},
            **{name: pd.Categorical(np.array(text, dtype=object))[order_N] for name, text in texts.items()},
            suspicious=suspicious_N[order_N],
            offset=np.arange(done, done + len(order_N), dtype=np.int64),
        )


def _midnight_ns(day: str) -> int:
    try:
        local = datetime.strptime(day, "%Y%m%d").replace(tzinfo=NEW_YORK)
    except ValueError as error:
        raise InputError(f"{day} is no date") from error
    return int(local.astimezone(UTC).timestamp()) * 10**9


def _read_csv(path: Path, *, content: bool = True) -> tuple[str, bytes]:
    """Return name and bytes of the one file in the archive ``path``."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise InputError(f"{path} holds {len(names)} files; a tick archive holds one")
            return names[0], archive.read(names[0]) if content else b""
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InputError(f"{path} is no whole zip archive: {error}") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except OSError as error:
        raise SourceUnavailableError(f"reading {path} failed: {error}") from error


def _table(
    path: Path, columns: tuple[str, ...], report: SourceReport
) -> tuple[Int64, dict[str, Float64], pd.DataFrame]:
    """Return line numbers, numbers and texts of the N sound lines of ``path``; the others are skipped and counted."""
    numbers, lines = [], []
    for number, line in enumerate(_read_csv(path)[1].decode("utf-8", "replace").splitlines(), start=1):
        cells = line.split(",")
        if len(cells) == len(columns):
            numbers.append(number)
            lines.append(cells)
        elif line.strip():
            report.skip(f"{len(cells)} fields instead of {len(columns)}", f"{path}, line {number}")
    raw = pd.DataFrame(lines, columns=list(columns), dtype=object)
    parsed = {
        name: pd.to_numeric(raw[name], errors="coerce").to_numpy(dtype=np.float64)
        for name in columns
        if name not in _TEXT_COLUMNS
    }
    sound_N = np.ones(len(raw), dtype=bool)
    for value_N in parsed.values():
        sound_N &= np.isfinite(value_N) & (value_N >= 0)
    sound_N &= parsed["ms"] < _DAY_MS
    for position in np.flatnonzero(~sound_N):
        report.skip("a field is no number of 0 or more", f"{path}, line {numbers[position]}")
    kept = {name: value_N[sound_N] for name, value_N in parsed.items()}
    return np.array(numbers, dtype=np.int64)[sound_N], kept, raw.loc[sound_N, list(_TEXT_COLUMNS)]


def _trades(path: Path, report: SourceReport) -> _Ticks:
    line_N, number, text = _table(path, _TRADE_COLUMNS, report)
    keep_N = (number["price"] > 0) & (number["size"] > 0)
    for line in line_N[~keep_N]:
        report.skip("price or size is 0", f"{path}, line {line}")
    return _Ticks(
        kind=TickKind.TRADE,
        ms_N=number["ms"][keep_N].astype(np.int64),
        values={"price": number["price"][keep_N] / SCALE, "size": number["size"][keep_N]},
        venue_N=text["exchange"][keep_N].tolist(),
        conditions_N=text["conditions"][keep_N].tolist(),
        suspicious_N=number["suspicious"][keep_N] > 0,
    )


def _quotes(path: Path, report: SourceReport) -> _Ticks:
    """Join each bid line with the ask line that follows it in the same ms; a line of two sides is a quote by itself."""
    line_N, number, text = _table(path, _QUOTE_COLUMNS, report)
    has_bid_N, has_ask_N, ms_N = number["bid"] > 0, number["ask"] > 0, number["ms"]
    whole_N = has_bid_N & has_ask_N
    opens_N = np.zeros(len(ms_N), dtype=bool)
    opens_N[:-1] = (has_bid_N & ~has_ask_N)[:-1] & (has_ask_N & ~has_bid_N)[1:] & (ms_N[:-1] == ms_N[1:])
    closes_N = np.roll(opens_N, 1) if len(opens_N) else opens_N  # the last line opens nothing, so nothing wraps round
    for line in line_N[~(whole_N | opens_N | closes_N)]:
        report.skip("one side of a quote without the other", f"{path}, line {line}")
    bid_I = np.flatnonzero(whole_N | opens_N)  # I quotes
    ask_I = bid_I + opens_N[bid_I]
    venue, conditions = (np.array(text[name], dtype=object) for name in _TEXT_COLUMNS)
    return _Ticks(
        kind=TickKind.QUOTE,
        ms_N=ms_N[bid_I].astype(np.int64),
        values={
            "bid": number["bid"][bid_I] / SCALE,
            "ask": number["ask"][ask_I] / SCALE,
            "bid_size": number["bid_size"][bid_I],
            "ask_size": number["ask_size"][ask_I],
        },
        venue_N=_either(venue[bid_I], venue[ask_I]),
        conditions_N=_either(conditions[bid_I], conditions[ask_I]),
        suspicious_N=(number["suspicious"][bid_I] > 0) | (number["suspicious"][ask_I] > 0),
    )


def _either(bid_I: npt.NDArray[np.object_], ask_I: npt.NDArray[np.object_]) -> list[str]:
    """Return the text of each quote: that of both sides, or ``bid/ask`` where they differ."""
    return [bid if bid == ask else f"{bid}/{ask}" for bid, ask in zip(bid_I, ask_I, strict=True)]


_PARSERS = {"quote": _quotes, "trade": _trades}
