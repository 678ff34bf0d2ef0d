"""Reads ticks of exact offsets from the archive."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_io.archive import layout, raw_columns
from data_io.archive.layout import ArchiveFile, Place
from data_io.topics.records import Records
from ml_core.errors import ArchiveDamagedError

_RECORDS_A_READ = 20_000


class Piece(NamedTuple):
    """A part of a range, ``[start, end)``, and the file that covers it; None: the topic has to."""

    start: int
    end: int
    file: ArchiveFile | None


def split(files: Sequence[ArchiveFile], start: int, end: int) -> list[Piece]:
    """Return ``[start, end)`` in pieces, in order.

    >>> from pathlib import Path
    >>> [(a, b, file is None) for a, b, file in split([ArchiveFile(Path(), 5, 10), ArchiveFile(Path(), 10, 15)], 0, 12)]
    [(0, 5, True), (5, 10, False), (10, 12, False)]
    """
    pieces = []
    for file in files:
        if file.end <= start or file.start >= end:
            continue
        if file.start > start:
            pieces.append(Piece(start, file.start, None))
        pieces.append(Piece(max(file.start, start), min(file.end, end), file))
        start = file.end
    if start < end:
        pieces.append(Piece(start, end, None))
    return pieces


def read(place: Place, file: ArchiveFile, start: int, end: int) -> Iterator[Records]:
    """Yield the records of ``file`` with offsets in ``[start, end)``, in order.

    Raises:
        ArchiveDamagedError: The file is not what its name says, or its bytes have changed. A retry will not help.
    """
    try:
        with pq.ParquetFile(file.path, page_checksum_verification=True) as parquet:
            _check(place, file, parquet)
            for batch in parquet.iter_batches(_RECORDS_A_READ, _groups(parquet, start, end), raw_columns.READ):
                offset_N = batch.column("offset")
                inside_N = pc.and_(pc.greater_equal(offset_N, start), pc.less(offset_N, end))
                chosen = batch.filter(inside_N)
                if len(chosen):
                    yield raw_columns.decode(chosen)
    except (OSError, pa.ArrowException) as error:
        raise ArchiveDamagedError(f"{file.path} cannot be read: {error}") from error


def _check(place: Place, file: ArchiveFile, parquet: pq.ParquetFile) -> None:
    found = parquet.metadata.metadata or {}
    about = layout.about(place, file.start, file.end)
    told = {key: found.get(key.encode(), b"").decode() for key in about}
    if told != about:
        raise ArchiveDamagedError(f"{file.path} was moved or renamed: it says {told}")


def _groups(parquet: pq.ParquetFile, start: int, end: int) -> list[int]:
    """Return the row groups with offsets in ``[start, end)``."""
    groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
    bounds = [(each.column(0).statistics.min, each.column(0).statistics.max) for each in groups]
    return [number for number, (first, last) in enumerate(bounds) if first < end and last >= start]
