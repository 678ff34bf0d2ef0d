"""Data sets as sources: the ticks, or bars, that were written, or an error."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data_io.data_fetcher import row_groups
from data_io.data_fetcher.port import END_OF_TIME_NS, Barred, Chunked, SourceReport, select
from data_io.datasets.digest import Digest
from data_io.datasets.manifest import Manifest, damaged
from data_io.sinks import columns
from ml_core.errors import SchemaMismatchError


class _Dataset:
    """The Parquet files of one data set, and what its manifest says of them."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Read the data set in ``folder``."""
        self.manifest = manifest
        self.kinds = frozenset(manifest.kinds)
        self.ts_source = manifest.ts_source
        self.report = SourceReport()
        self._folder = folder

    def symbols(self) -> list[str]:
        """Return the symbols, sorted."""
        return sorted(self.manifest.symbols)

    def _row_groups(self, start_ns: int = 0, end_ns: int = END_OF_TIME_NS) -> Iterator[pd.DataFrame]:
        """Yield the row groups that may hold times in ``[start_ns, end_ns)``; all of them are proven by their hash.

        Raises:
            InputError: The data set is damaged. A retry will not help.
        """
        digest, first, seen = Digest(), 0, 0
        symbols = sorted(self.manifest.symbols)
        for told in self.manifest.files:
            path = self._folder / told.name
            try:
                with pq.ParquetFile(path, page_checksum_verification=True) as file:
                    if file.metadata.num_rows != told.rows:
                        raise self._damaged(f"{path} has {file.metadata.num_rows} rows instead of {told.rows}")
                    starts = np.cumsum([0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))])
                    for group in row_groups.within(file, "ts_ns", "ns", start_ns, end_ns):
                        frame = columns.from_arrow(file.read_row_group(group))
                        frame["symbol"] = frame["symbol"].cat.set_categories(symbols)
                        digest.update(frame)
                        seen += len(frame)
                        yield frame.assign(offset=first + int(starts[group]) + np.arange(len(frame), dtype=np.int64))
            except (OSError, pa.ArrowException, SchemaMismatchError, KeyError, ValueError) as error:
                raise self._damaged(f"{path}: {error}") from error
            first += told.rows
        if seen == self.manifest.rows and digest.hexdigest() != self.manifest.content_hash:
            raise self._damaged("its content has another hash than its manifest says")

    def _damaged(self, why: str) -> Exception:
        return damaged(self.manifest.id, why)


class DatasetTicks(_Dataset, Chunked):
    """The ticks of a data set; ``offset`` is the number of a row in it."""

    def chunks(
        self, symbol: str | None = None, *, start_ns: int = 0, end_ns: int = END_OF_TIME_NS
    ) -> Iterator[pd.DataFrame]:
        """Yield the ticks of a range; row groups without its times are not read. See `TickFetcher.chunks`."""
        return select(self._ticks(start_ns, end_ns), symbol, start_ns, end_ns)

    def _chunks(self) -> Iterator[pd.DataFrame]:
        return self._ticks()

    def _ticks(self, start_ns: int = 0, end_ns: int = END_OF_TIME_NS) -> Iterator[pd.DataFrame]:
        self.report = SourceReport()
        for frame in self._row_groups(start_ns, end_ns):
            self.report.count(frame)
            yield frame


class DatasetBars(_Dataset, Barred):
    """The bars of a data set."""

    def _bars(self) -> Iterator[pd.DataFrame]:
        self.report = SourceReport()
        return self._row_groups()
