"""Where archived records lie: ``<root>/<topic>/<topic id>/<partition>/<first>-<last>.parquet``.

A file covers every offset from first to last, also those without a record (transaction markers, aborted records). So
what lies between two files is a hole: it was deleted before it was archived. Position is what the names say.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ml_core.errors import ArchiveDamagedError, ArchiveUnavailableError

ROWS = "tickwise.rows"
_NAME = re.compile(r"(\d{20})-(\d{20})\.parquet")


class Place(NamedTuple):
    """One partition of one topic; a topic made anew has another id."""

    topic: str
    topic_id: str
    partition: int

    def folder(self, root: Path) -> Path:
        """Return the folder of its files under ``root``."""
        return root / self.topic / self.topic_id / str(self.partition)


class ArchiveFile(NamedTuple):
    """One file; it covers the offsets ``[start, end)``."""

    path: Path
    start: int
    end: int


def name(start: int, end: int) -> str:
    """Return the name of the file of ``[start, end)``; names sort as offsets do.

    >>> name(7, 10)
    '00000000000000000007-00000000000000000009.parquet'
    """
    return f"{start:020}-{end - 1:020}.parquet"


def about(place: Place, start: int, end: int) -> dict[str, str]:
    """Return what the file of ``[start, end)`` says of itself in its metadata, beside how many ``ROWS`` it has."""
    return {
        "tickwise.topic": place.topic,
        "tickwise.topic-id": place.topic_id,
        "tickwise.partition": str(place.partition),
        "tickwise.start": str(start),
        "tickwise.end": str(end),
    }


def listed(folder: Path) -> list[ArchiveFile]:
    """Return the files of a partition in order; none where there is no such folder.

    Raises:
        ArchiveDamagedError: Two files cover the same offset. A retry will not help.
        ArchiveUnavailableError: The folder cannot be read. A retry is safe.
    """
    try:
        found = [(path, match) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ArchiveUnavailableError(f"the archive cannot be read: {error}") from error
    files = sorted(ArchiveFile(path, int(match[1]), int(match[2]) + 1) for path, match in found)
    for before, after in pairwise(files):
        if after.start < before.end:
            raise ArchiveDamagedError(f"{before.path} and {after.path.name} cover the same offsets: remove one")
    return files


def holes(files: Sequence[ArchiveFile]) -> list[tuple[int, int]]:
    """Return what lies between ``files``, as first and last offset (exclusive).

    >>> holes([ArchiveFile(Path(), 0, 10), ArchiveFile(Path(), 10, 20), ArchiveFile(Path(), 25, 30)])
    [(20, 25)]
    """
    return [(a.end, b.start) for a, b in pairwise(files) if a.end < b.start]


def earliest(files: Sequence[ArchiveFile], begin: int) -> int:
    """Return the first offset from which on files and topic hold all, where the topic itself begins at ``begin``.

    >>> files = [ArchiveFile(Path(), 0, 10), ArchiveFile(Path(), 12, 20), ArchiveFile(Path(), 20, 30)]
    >>> earliest(files, 25), earliest(files, 31), earliest(files, 11)
    (12, 31, 11)
    """
    for file in reversed(files):
        if file.end < begin:
            break
        begin = min(begin, file.start)
    return begin


def places(root: Path) -> list[Place]:
    """Return every partition that has a folder under ``root``, in order."""
    found = [path for path in root.glob("*/*/*") if path.is_dir() and path.name.isdecimal()]
    return sorted(Place(path.parent.parent.name, path.parent.name, int(path.name)) for path in found)
