"""Writes one partition: records in, whole files out.

A file is written under another name, synced and renamed, so it is whole or not there. What is on disk under its own
name is the position; all else is dropped at any failure and read from the topic again.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from aiokafka import ConsumerRecord

from data_io import disk
from data_io.archive import layout
from data_io.archive.columns import Columns
from data_io.archive.layout import ArchiveFile, Place
from ml_core.errors import ArchiveUnavailableError, SetupError

GROUP_BYTES = 16 << 20  # of a row group, uncompressed
_MANY_BATCHES = 256  # of a few records each: their overhead would be most of what they hold


class _Open(NamedTuple):
    path: Path
    file: IO[bytes]
    parquet: Any
    schema: pa.Schema
    rows: int


class PartitionWriter:
    """Writes the files of one partition, in one thread at a time; no other process writes there meanwhile."""

    def __init__(self, root: Path, place: Place, columns: Columns, file_bytes: int) -> None:
        """Take the folder of ``place`` over; a file is sealed once it holds ``file_bytes``.

        Raises:
            SetupError: Another archiver writes there.
            ArchiveDamagedError: Two files cover the same offset.
            ArchiveUnavailableError: The disk does not let us. A retry is safe.
        """
        self.place, self._columns, self._file_bytes = place, columns, file_bytes
        self._folder = place.folder(root)
        self.archived: int | None = None  # end of what is on disk; None: nothing is
        self._start = self._end = self.archived  # read and not sealed
        self._batches: list[pa.RecordBatch] = []
        self.buffered_bytes = 0
        self._open: _Open | None = None
        self._sealed: list[ArchiveFile] = []
        self._since_s: float | None = None
        with self._explained():
            disk.make(self._folder)
            self._lock = _locked(self._folder)
        try:
            with self._explained():
                for leftover in self._folder.glob("*.tmp"):
                    leftover.unlink()
            files = layout.listed(self._folder)
        except BaseException:
            os.close(self._lock)
            raise
        if files:
            self._start = self._end = self.archived = files[-1].end

    @property
    def next_offset(self) -> int | None:
        """What to read next; None: nothing is archived, so whatever the topic begins with."""
        return self._end

    @property
    def waiting_s(self) -> float:
        """For how long the oldest offset that was read has not been on disk, also across failures; 0: all are."""
        return 0.0 if self._since_s is None else time.monotonic() - self._since_s

    @property
    def has_sealed(self) -> bool:
        """True where ``publish`` has something to do."""
        return bool(self._sealed)

    def begin(self, offset: int) -> int:
        """Go on at ``offset``, and return it; what was read before is sealed: no file covers what lies between.

        Raises:
            ArchiveUnavailableError: As ``add``.
        """
        if offset != self._end:
            self.seal()
            self._start = self._end = offset
        return offset

    def add(self, records: Sequence[ConsumerRecord], end: int) -> None:
        """Take ``records``, in order; all offsets from ``next_offset`` to before ``end`` are covered with them.

        Raises:
            ArchiveUnavailableError: The disk is full or broken; ``abandon`` has been called. A retry is safe.
        """
        chunks = list(self._columns.encode(records))  # a fault here is not the disk's: no retry mends it
        if self._since_s is None:
            self._since_s = time.monotonic()
        with self._explained():
            for first, batch in chunks:
                if self._has_other_schema(batch.schema):
                    self._seal(first)
                self._batches.append(batch)
                self.buffered_bytes += batch.nbytes
                if self.buffered_bytes >= GROUP_BYTES:
                    self._write_group()
            if len(self._batches) > _MANY_BATCHES:
                self._batches = [pa.concat_batches(self._batches)]
            self._end = end
            if self._open is not None and self._open.file.tell() >= self._file_bytes:
                self._seal(end)

    def flush(self) -> None:
        """Write what is in memory to the file that is open; raises as ``add``."""
        with self._explained():
            self._write_group()

    def seal(self) -> None:
        """Finish the file of all that was read; it has its name only after ``publish``. Raises as ``add``."""
        with self._explained():
            if self._end is not None:
                self._seal(self._end)

    def publish(self) -> list[ArchiveFile]:
        """Give sealed files their names and return them; raises as ``add``."""
        published = []
        with self._explained():
            while self._sealed:
                path, start, end = self._sealed[0]
                target = self._folder / layout.name(start, end)
                path.rename(target)
                self.archived = end
                published.append(ArchiveFile(target, start, end))
                del self._sealed[0]
            disk.sync(self._folder)
        if self._end == self.archived:
            self._since_s = None
        elif published:
            self._since_s = time.monotonic()
        return published

    def abandon(self) -> None:
        """Drop all that is not on disk under its name, and go on from there."""
        if self._open is not None:
            # Both write what they hold; they must not try once more when they are collected.
            with suppress(OSError, pa.ArrowException):
                self._open.parquet.close()
            self._open.parquet.is_open = False
            with suppress(OSError):
                self._open.file.close()
        for path in [*([self._open.path] if self._open else []), *(file.path for file in self._sealed)]:
            with suppress(OSError):
                path.unlink()
        self._open, self._sealed, self._batches, self.buffered_bytes = None, [], [], 0
        self._start = self._end = self.archived

    def close(self) -> None:
        """Drop what is not on disk and let another archiver write here."""
        self.abandon()
        os.close(self._lock)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            self.abandon()
            since = "its first one" if self.archived is None else str(self.archived)
            topic, _, partition = self.place
            raise ArchiveUnavailableError(
                f"offsets from {since} on of partition {partition} of {topic!r} are not archived: {error}"
            ) from error

    def _has_other_schema(self, schema: pa.Schema) -> bool:
        known = self._open.schema if self._open else self._batches[0].schema if self._batches else schema
        return not known.equals(schema, check_metadata=True)

    def _write_group(self) -> None:
        if not self._batches:
            return
        table = pa.Table.from_batches(self._batches)
        self._batches, self.buffered_bytes = [], 0
        opened = self._opened(table.schema)
        opened.parquet.write_table(table, row_group_size=max(len(table), 1))
        self._open = opened._replace(rows=opened.rows + len(table))

    def _opened(self, schema: pa.Schema) -> _Open:
        if self._open is None:
            path = self._folder / f".{self._start:020}.tmp"  # hidden from those who open the folder
            file = path.open("wb")  # one that could not be removed may lie there; the lock keeps others away
            parquet = pq.ParquetWriter(
                file,
                schema,
                compression="zstd",
                use_dictionary=list(self._columns.dictionaries),
                column_encoding={schema.names[0]: "DELTA_BINARY_PACKED"},
                write_statistics=[field.name for field in schema if pa.types.is_primitive(field.type)],
                write_page_checksum=True,
            )
            self._open = _Open(path, file, parquet, schema, rows=0)
        return self._open

    def _seal(self, end: int) -> None:
        start = self._start
        if start is None or start == end:
            return
        self._write_group()
        path, file, parquet, _, rows = self._opened(self._columns.schema)
        parquet.add_key_value_metadata(layout.about(self.place, start, end) | {layout.ROWS: str(rows)})
        parquet.close()
        file.flush()
        os.fsync(file.fileno())
        file.close()
        self._open = None
        self._sealed.append(ArchiveFile(path, start, end))
        self._start = end


def _locked(folder: Path) -> int:
    """Return the open lock file; the lock ends with the process, however it ends."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode() or "unknown"
        os.close(descriptor)
        raise SetupError(
            f"another archiver (process {holder}) writes {folder}: one at a time; stop it, or use another folder"
        ) from None
    with suppress(OSError):  # for people alone, and a full disk keeps no number
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor
