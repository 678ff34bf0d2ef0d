"""Reads ticks of exact offsets from the archive."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_io.archive import layout, raw_columns
from data_io.archive.layout import ArchiveFile, Place
from data_io.topics.records import Records
from ml_core.errors import ArchiveDamagedError, ArchiveUnavailableError

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
        ArchiveUnavailableError: The file is not there any more. A retry looks for its offsets elsewhere.
    """
    try:
        with pq.ParquetFile(file.path, page_checksum_verification=True) as parquet:
            _check(place, file, parquet)
            groups, left = _groups(file, parquet, start, end)
            for batch in parquet.iter_batches(_RECORDS_A_READ, groups, raw_columns.READ):
                offset_N = batch.column("offset")
                inside_N = pc.and_(pc.greater_equal(offset_N, start), pc.less(offset_N, end))
                chosen = batch.filter(inside_N)
                left -= len(chosen)
                if len(chosen):
                    yield raw_columns.decode(chosen)
            if left:
                raise ArchiveDamagedError(f"{file.path} has changed: {left} records are missing")
    except FileNotFoundError as error:
        raise ArchiveUnavailableError(f"{file.path} was deleted after it was found") from error
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:  # checksums leave the footer out
        raise ArchiveDamagedError(f"{file.path} cannot be read: {error}") from error


def _check(place: Place, file: ArchiveFile, parquet: pq.ParquetFile) -> None:
    found = parquet.metadata.metadata or {}
    about = layout.about(place, file.start, file.end)
    told = {key: found.get(key.encode(), b"").decode() for key in about}
    if told != about:
        raise ArchiveDamagedError(f"{file.path} was moved or renamed: it says {told}")


def _groups(file: ArchiveFile, parquet: pq.ParquetFile, start: int, end: int) -> tuple[list[int], int]:
    """Return the row groups with offsets in ``[start, end)``, and how many records these are."""
    rows, inside = 0, {}
    for number in range(parquet.num_row_groups):
        offset_N = parquet.read_row_group(number, ["offset"])["offset"].to_numpy()
        rows += len(offset_N)
        inside[number] = int(np.count_nonzero((offset_N >= start) & (offset_N < end)))
    told = int(parquet.metadata.metadata[layout.ROWS.encode()])
    if rows != told:
        raise ArchiveDamagedError(f"{file.path} has changed: it has {rows} records, and says {told}")
    return [number for number, count in inside.items() if count], sum(inside.values())
