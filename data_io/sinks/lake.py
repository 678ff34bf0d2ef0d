"""Ticks or bars as a lake: Parquet files in ``symbol=.../date=...``, the day being that of UTC.

A row that came late across midnight stays behind the row before it, in the folder of that one's day. Shapes: I rows of
one symbol.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from data_io import disk
from data_io.data_fetcher.lake import DAY_NS, folder_of
from data_io.sinks.parquet import ParquetWriter
from ml_core.errors import NotEnoughDataError
from ml_core.types import Int64

WAITING_ROWS = 1 << 21  # in memory, of all partitions together: some 200 MB
_Key = tuple[str, str]  # symbol, date


class LakeSink:
    """A folder that becomes a lake."""

    def __init__(self, root: Path) -> None:
        """Write to ``root``, a folder that does not exist or is empty."""
        self.root = root

    def write(self, chunks: Iterable[pd.DataFrame], ts_source: str) -> int:
        """Write all rows, each symbol's in their order; see `Sink.write`."""
        with disk.whole(self.root) as hidden:
            hidden.mkdir()
            lake = _Lake(hidden, ts_source)
            for chunk in chunks:
                lake.add(chunk)
            lake.flush(down_to=0)
            if not lake.rows:
                raise NotEnoughDataError(f"there is nothing to write to {self.root}")
            return lake.rows


class _Lake:
    def __init__(self, root: Path, ts_source: str) -> None:
        self.rows = 0
        self._root, self._ts_source = root, ts_source
        self._waiting: dict[_Key, list[pd.DataFrame]] = defaultdict(list)
        self._waiting_rows: Counter[_Key] = Counter()
        self._files: Counter[_Key] = Counter()
        self._day: dict[str, int] = {}  # of the folder of each symbol's last row

    def add(self, chunk: pd.DataFrame) -> None:
        self.rows += len(chunk)
        for key, part in self._partitions(chunk):
            self._waiting[key].append(part)
            self._waiting_rows[key] += len(part)
        if self._waiting_rows.total() > WAITING_ROWS:
            self.flush(down_to=WAITING_ROWS // 2)

    def flush(self, down_to: int) -> None:
        """Write the partitions with the most rows, until at most ``down_to`` rows wait."""
        for key, _ in self._waiting_rows.most_common():
            if self._waiting_rows.total() <= down_to:
                return
            folder = self._root / folder_of(*key)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"part-{self._files[key]:05}.parquet"
            with ParquetWriter(path, self._ts_source, left_out=("symbol",)) as file:
                for part in self._waiting.pop(key):
                    file.write(part)
            del self._waiting_rows[key]
            self._files[key] += 1

    def _partitions(self, chunk: pd.DataFrame) -> Iterator[tuple[_Key, pd.DataFrame]]:
        """Yield the rows of each symbol and day, in their order."""
        code_N = chunk["symbol"].cat.codes.to_numpy()
        for code in np.unique(code_N).tolist():
            symbol, rows = str(chunk["symbol"].cat.categories[code]), chunk[code_N == code]
            day_I = self._days(symbol, rows["ts_ns"].to_numpy() // DAY_NS)
            for day in np.unique(day_I).tolist():
                yield (symbol, str(np.datetime64(day, "D"))), rows[day_I == day]

    def _days(self, symbol: str, day_I: Int64) -> Int64:
        """Return the day of each row's folder; readers allow for one day more or less."""
        before = self._day.get(symbol, int(day_I[0]))
        if (np.diff(day_I, prepend=before) < 0).any():
            days = day_I.tolist()
            for i, day in enumerate(days):
                before = days[i] = before if day == before - 1 else day
            day_I = np.array(days, dtype=np.int64)
        self._day[symbol] = int(day_I[-1])
        return day_I
