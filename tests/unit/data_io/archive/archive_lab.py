"""Records as a consumer gives them, and what a folder of the archive holds of them."""

from types import SimpleNamespace
from typing import Any

from data_io.archive import layout, raw_columns, reader
from data_io.archive.layout import Place
from data_io.archive.writer import PartitionWriter

PLACE = Place("ticks", "kW4Uyd6cQHeUkRXvVPUrkw", 3)


def record(offset: int, value: bytes | None = None, key: bytes | None = None, headers=()) -> Any:
    return SimpleNamespace(
        topic=PLACE.topic, partition=PLACE.partition, offset=offset, timestamp=1_700_000_000_000 + offset,
        timestamp_type=1, key=key, value=b"%d" % offset if value is None else value, headers=headers,
    )  # fmt: skip


def records(*offsets: int) -> list[Any]:
    return [record(offset) for offset in offsets]


def writer(root, file_bytes: int = 1 << 20, columns=raw_columns.COLUMNS) -> PartitionWriter:
    return PartitionWriter(root, PLACE, columns, file_bytes)


def written(made: PartitionWriter) -> list[tuple[int, int]]:
    made.seal()
    return [(file.start, file.end) for file in made.publish()]


def covered(root) -> list[tuple[int, int]]:
    return [(file.start, file.end) for file in layout.listed(PLACE.folder(root))]


def offsets(root, start: int = 0, end: int = 1 << 60) -> list[int]:
    files = layout.listed(PLACE.folder(root))
    return [offset for file in files for found in reader.read(PLACE, file, start, end) for offset in found.offset]
