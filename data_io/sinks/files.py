"""Ticks or bars as one file, CSV or Parquet."""

import gzip
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from data_io import disk
from data_io.sinks import columns
from data_io.sinks.parquet import ParquetWriter
from ml_core.errors import NotEnoughDataError


class ParquetSink:
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        """Write to ``path``; what is there is replaced."""
        self.path = path

    def write(self, chunks: Iterable[pd.DataFrame], ts_source: str) -> int:
        """Write all rows; see `Sink.write`."""
        with disk.whole(self.path) as hidden, ParquetWriter(hidden, ts_source) as file:
            for chunk in chunks:
                file.write(chunk)
            if not file.rows:
                raise NotEnoughDataError(f"there is nothing to write to {self.path}")
            return file.rows


class CsvSink:
    """A CSV file, compressed where its name ends in ``.gz``; which clock its times are on is not in it."""

    def __init__(self, path: Path) -> None:
        """Write to ``path``; what is there is replaced."""
        self.path = path

    def write(self, chunks: Iterable[pd.DataFrame], ts_source: str) -> int:  # CSV has no place for it
        """Write all rows; see `Sink.write`."""
        rows = 0
        names: tuple[str, ...] = ()
        is_packed = self.path.name.endswith(".gz")
        with (
            disk.whole(self.path) as hidden,
            gzip.open(hidden, "wt", encoding="utf-8", newline="")
            if is_packed
            else hidden.open("w", encoding="utf-8", newline="") as file,
        ):
            for chunk in filter(len, chunks):
                names = names or columns.content(chunk)
                columns.same(chunk, names)
                chunk.to_csv(file, columns=list(names), index=False, header=rows == 0)
                rows += len(chunk)
            if not rows:
                raise NotEnoughDataError(f"there is nothing to write to {self.path}")
        return rows
