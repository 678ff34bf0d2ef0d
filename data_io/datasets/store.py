"""The data sets of a home folder: ``datasets/<name>/<version>/``, written once and never changed."""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from data_io import disk
from data_io.data_fetcher.port import BAR
from data_io.datasets import manifest as manifests
from data_io.datasets.digest import Digest
from data_io.datasets.manifest import DatasetFile, DatasetId, Manifest, TransformNote
from data_io.datasets.reader import DatasetBars, DatasetTicks
from data_io.sinks import columns
from data_io.sinks.parquet import ParquetWriter
from ml_core.errors import (
    ConflictError,
    InputError,
    NotEnoughDataError,
    NotFoundError,
    SourceUnavailableError,
    nearest,
)

FILE_ROWS = 1 << 24  # of one Parquet file
COUNTERS = ".versions"  # no name of a data set begins with a dot


class Origin(NamedTuple):
    """Where the rows of a data set come from."""

    source: str
    ts_source: str
    transform: TransformNote | None = None
    left_out: Callable[[], Mapping[str, int]] = dict  # asked once all rows were read


class Imported(NamedTuple):
    """What an import ended with."""

    manifest: Manifest
    is_new: bool  # False: a version of equal content was there already


class DatasetStore:
    """Data sets under one folder."""

    def __init__(self, home: Path) -> None:
        """Use the folder ``datasets`` in ``home``; it is made when something is put there."""
        self.root = home / "datasets"

    def put(self, name: str, chunks: Iterable[pd.DataFrame], origin: Origin, created: datetime) -> Imported:
        """Write the rows of ``chunks`` as the next version of ``name``, or find the version that holds them already.

        A version is there as a whole or not at all. Memory is bounded by a chunk and a row group.

        Args:
            name: Of the data set.
            chunks: Ticks frames, or bar frames, with equal columns.
            origin: What the manifest says of where they come from.
            created: What the manifest says of when.

        Raises:
            InputError: ``name`` is no name, or what ``chunks`` raises. A retry will not help.
            NotEnoughDataError: There is no row.
            ConflictError: Another process is writing this data set.
            SourceUnavailableError: The disk did not take it. A retry is safe.
        """
        DatasetId.parse(f"{name}@1")
        with self._locked(name) as folder:
            for leftover in folder.glob(".*.tmp"):  # of a process that died; nobody else is here
                disk.remove(leftover)
            known = self.versions(name)
            version = max(*known, self._newest(name), 0) + 1
            try:
                with disk.whole(folder / str(version)) as hidden:
                    hidden.mkdir()
                    manifest = _write(DatasetId(name, version), hidden, chunks, origin, created)
                    self._raise_if_known(manifest, known)
                    manifests.save(manifest, hidden)
                    self._note(name, version)
            except _AlreadyThereError as same:
                return Imported(same.manifest, is_new=False)
        return Imported(manifest, is_new=True)

    def names(self) -> list[str]:
        """Return the names of all data sets, sorted."""
        return sorted(path.name for path in self.root.glob("[!.]*") if path.is_dir() and self.versions(path.name))

    def versions(self, name: str) -> list[int]:
        """Return the versions of ``name``, ascending; none where it does not exist."""
        return sorted(int(path.name) for path in (self.root / name).glob("[1-9]*") if path.name.isdecimal())

    def find(self, wanted: DatasetId) -> Manifest:
        """Return what a data set says of itself; no version: the newest.

        Raises:
            NotFoundError: There is no such data set.
            InputError: It is damaged. A retry will not help.
        """
        versions = self.versions(wanted.name)
        if not versions:
            hint = nearest(wanted.name, self.names()) if self.names() else ""
            raise NotFoundError(f"there is no data set {wanted.name!r} in {self.root}{hint}")
        version = wanted.version or versions[-1]
        if version not in versions:
            raise NotFoundError(f"{wanted.name!r} has no version {version}; versions: {', '.join(map(str, versions))}")
        return manifests.load(self.root / wanted.name / str(version), DatasetId(wanted.name, version))

    def open(self, wanted: DatasetId) -> DatasetTicks | DatasetBars:
        """Return the fetcher of a data set; raises as ``find``."""
        manifest = self.find(wanted)
        folder = self.root / manifest.name / str(manifest.version)
        return (DatasetBars if manifest.holds_bars else DatasetTicks)(folder, manifest)

    def _newest(self, name: str) -> int:
        """Return the highest version that ``name`` has ever had, its deleted ones included; 0 where none is noted."""
        path = self._counter(name)
        try:
            return int(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise SourceUnavailableError(f"{path} does not say which versions there have been: {error}") from error

    def _note(self, name: str, version: int) -> None:
        with disk.whole(self._counter(name)) as hidden:
            hidden.write_text(f"{version}\n", encoding="ascii")

    def _counter(self, name: str) -> Path:
        """Return the file of the highest version, which outlives the data set: a version means one content for ever."""
        return self.root / COUNTERS / name

    def _raise_if_known(self, manifest: Manifest, known: list[int]) -> None:
        for version in known:
            try:
                there = self.find(DatasetId(manifest.name, version))
            except InputError:  # a damaged one holds nothing
                continue
            if (there.content_hash, there.ts_source) == (manifest.content_hash, manifest.ts_source):
                raise _AlreadyThereError(there)

    @contextmanager
    def _locked(self, name: str) -> Iterator[Path]:
        folder = self.root / name
        try:
            disk.make(folder)
            descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise SourceUnavailableError(f"{folder} cannot be written: {error.strerror or error}") from error
        try:
            if not _is_free(descriptor):
                raise ConflictError(f"another process is writing the data set {name!r}; wait for it")
            yield folder
        finally:
            os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    """Take the lock of an open file; it ends with the process, however it ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _AlreadyThereError(Exception):
    """The content is that of a version; control flow within this file."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        self.manifest = manifest


def _write(
    name: DatasetId, folder: Path, chunks: Iterable[pd.DataFrame], origin: Origin, created: datetime
) -> Manifest:
    """Write the rows of ``chunks`` into ``folder`` and return their manifest."""
    digest = Digest()
    kinds: set[str] = set()
    names: tuple[str, ...] = ()
    first_ns, last_ns = 2**63 - 1, 0
    files: list[DatasetFile] = []
    rows = (chunk for chunk in chunks if len(chunk))
    chunk = next(rows, None)
    while chunk is not None:
        path = folder / f"part-{len(files):05}.parquet"
        with ParquetWriter(path, origin.ts_source) as file:
            while chunk is not None and file.rows < FILE_ROWS:
                columns.check(chunk)
                names = names or columns.content(chunk)
                digest.update(chunk)
                file.write(chunk)
                kinds |= {BAR} if columns.is_bars(chunk) else set(chunk["type"].unique())
                first_ns = min(first_ns, int(chunk["ts_ns"].min()))
                last_ns = max(last_ns, int(chunk["ts_ns"].max()))
                chunk = next(rows, None)
        files.append(DatasetFile(name=path.name, rows=file.rows, size=path.stat().st_size))
    if not files:
        raise NotEnoughDataError(f"the source {origin.source!r} gave no row")
    return Manifest(
        name=name.name,
        version=name.version or 1,
        created=created,
        content_hash=digest.hexdigest(),
        source=origin.source,
        ts_source=origin.ts_source,
        kinds=tuple(sorted(kinds)),
        columns={column: columns.DTYPES[column] for column in names},
        rows=sum(digest.rows.values()),
        symbols=dict(sorted(digest.rows.items())),
        first_ts_ns=first_ns,
        last_ts_ns=last_ns,
        transform=origin.transform,
        left_out=dict(origin.left_out()),
        files=tuple(files),
    )
