"""What is on disk after each step, failure and kill."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from data_io.archive import layout, raw_columns, reader
from data_io.topics.records import Records
from ml_core.errors import ArchiveDamagedError, ArchiveUnavailableError, SetupError
from tests.unit.data_io.archive.archive_lab import PLACE, covered, offsets, record, records, writer, written


def test_records_come_back_byte_for_byte(tmp_path):
    given = [
        record(4, b'{"price": 0.1}', b"ACME"),
        record(5, b"\x00\xff", b""),
        record(9, b"", None, (("a", b"1"), ("a", None), ("b", b"\xff"))),
    ]
    given[1].value = None  # a tombstone
    made = writer(tmp_path)
    made.begin(4)
    made.add(given, 12)

    assert written(made) == [(4, 12)]
    [file] = layout.listed(PLACE.folder(tmp_path))
    [found] = reader.read(PLACE, file, 0, 100)
    assert found == Records(
        [4, 5, 9],
        [b"ACME", b"", None],
        [b'{"price": 0.1}', None, b""],
        [(), (), (("a", b"1"), ("a", None), ("b", b"\xff"))],
    )
    made.close()


def test_a_file_covers_offsets_without_records_and_the_next_begins_behind_them(tmp_path):
    made = writer(tmp_path)
    made.begin(0)
    made.add(records(0, 1, 5), 8)  # markers and aborted records between and behind
    assert written(made) == [(0, 8)]
    made.add([], 9)  # a marker alone
    assert written(made) == [(8, 9)]
    assert written(made) == []
    made.add(records(9), 10)
    assert written(made) == [(9, 10)]

    assert (offsets(tmp_path), layout.holes(layout.listed(PLACE.folder(tmp_path)))) == ([0, 1, 5, 9], [])
    made.close()


def test_what_has_no_name_yet_is_not_in_the_archive_and_is_read_again_by_the_next(tmp_path):
    made = writer(tmp_path / "killed")
    made.begin(0)
    made.add(records(0, 1), 2)
    assert written(made) == [(0, 2)]
    made.add(records(2), 3)
    made.seal()
    made.add(records(3), 4)
    made.flush()
    left = shutil.copytree(tmp_path / "killed", tmp_path / "left")
    made.close()
    assert covered(left) == [(0, 2)]
    assert len(list(PLACE.folder(left).glob("*.tmp"))) == 2

    after = writer(left)

    assert (after.next_offset, list(PLACE.folder(left).glob("*.tmp"))) == (2, [])
    after.close()


def test_a_file_ends_when_it_is_large_enough(tmp_path, monkeypatch):
    monkeypatch.setattr("data_io.archive.writer.GROUP_BYTES", 5000)
    made = writer(tmp_path, file_bytes=20_000)
    made.begin(0)
    for offset in range(100):
        made.add([record(offset, os.urandom(1000))], offset + 1)
    files = written(made)

    assert len(files) in (4, 5, 6)
    assert offsets(tmp_path) == list(range(100))
    assert offsets(tmp_path, 37, 58) == list(range(37, 58))
    made.close()


def test_what_is_read_behind_a_hole_goes_to_a_file_of_its_own(tmp_path):
    made = writer(tmp_path)
    made.begin(0)
    made.add(records(0, 1), 2)
    made.begin(50)
    made.add(records(50), 51)

    assert written(made) == [(0, 2), (50, 51)]
    assert layout.holes(layout.listed(PLACE.folder(tmp_path))) == [(2, 50)]
    made.close()


def test_a_second_writer_is_refused_and_told_who_is_there(tmp_path):
    made = writer(tmp_path)
    with pytest.raises(SetupError, match=rf"another archiver \(process {os.getpid()}\) writes .*/3: one at a time"):
        writer(tmp_path)
    made.close()
    writer(tmp_path).close()


@pytest.mark.parametrize("step", ["open", "write", "fsync", "rename", "fsync of the folder"])
def test_a_disk_that_fails_at_any_step_leaves_whole_files_and_the_same_records_can_be_given_again(
    tmp_path, monkeypatch, step
):
    made = writer(tmp_path)
    made.begin(0)
    made.add(records(0, 1), 2)
    assert written(made) == [(0, 2)]

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if step == "open":
            patch.setattr(Path, "open", full)
        elif step == "write":
            patch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
        elif step == "rename":
            patch.setattr(Path, "rename", full)
        elif step == "fsync":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr("data_io.disk.sync", full)
        made.add(records(2, 3), 4)
        with pytest.raises(ArchiveUnavailableError, match=r"on of partition 3 of 'ticks' are not archived: .*No space"):
            written(made)
    assert made.waiting_s > 0
    assert made.buffered_bytes == 0
    assert list(PLACE.folder(tmp_path).glob("*.tmp")) == []

    if made.next_offset == 2:
        made.add(records(2, 3), 4)
    written(made)

    assert (covered(tmp_path), offsets(tmp_path), made.waiting_s) == ([(0, 2), (2, 4)], [0, 1, 2, 3], 0.0)
    made.close()


def test_what_a_disk_did_not_let_us_remove_is_written_over(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    made = writer(tmp_path)
    made.begin(0)
    made.add(records(0, 1), 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        patch.setattr(Path, "unlink", broken)
        with pytest.raises(ArchiveUnavailableError, match="Read-only"):
            made.seal()
    made.begin(0)
    made.add(records(0, 1), 2)

    assert (written(made), offsets(tmp_path)) == ([(0, 2)], [0, 1])
    assert list(PLACE.folder(tmp_path).glob("*.tmp")) == []
    made.close()


def test_what_fails_in_encoding_is_not_taken_for_a_failing_disk(tmp_path):
    def encode(_):
        raise pa.ArrowInvalid("two columns of one name")
        yield

    made = writer(tmp_path, columns=raw_columns.COLUMNS._replace(encode=encode))
    made.begin(0)
    with pytest.raises(pa.ArrowInvalid, match="two columns"):
        made.add(records(0), 1)
    made.close()


FORKED = """
import os, random, signal, sys, time
from pathlib import Path
from tests.unit.data_io.archive.archive_lab import records, writer

rng = random.Random(1)
for _ in range(20):
    if not (child := os.fork()):
        made = writer(Path(sys.argv[1]))
        if made.next_offset is None:
            made.begin(0)
        while True:
            made.add(records(*range(made.next_offset, made.next_offset + 50)), made.next_offset + 50)
            made.seal()
            made.publish()
    time.sleep(rng.uniform(0.02, 0.08))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_a_writer_that_is_killed_at_any_moment_leaves_nothing_doubled_and_nothing_out(tmp_path):
    subprocess.run([sys.executable, "-c", FORKED, str(tmp_path)], check=True, timeout=120)
    writer(tmp_path).close()

    found = offsets(tmp_path)
    assert len(found) > 1000
    assert found == list(range(len(found)))
    assert [path.suffix for path in PLACE.folder(tmp_path).iterdir() if path.name != ".lock"] == [".parquet"] * (
        len(found) // 50
    )


def test_bytes_that_have_changed_and_files_that_were_moved_are_named(tmp_path):
    made = writer(tmp_path)
    made.begin(0)
    made.add([record(0, os.urandom(4000))], 1)
    written(made)
    made.close()
    [file] = layout.listed(PLACE.folder(tmp_path))
    data = bytearray(file.path.read_bytes())
    data[2000] ^= 1
    file.path.write_bytes(data)

    with pytest.raises(ArchiveDamagedError, match=r"00000.parquet cannot be read"):
        list(reader.read(PLACE, file, 0, 1))
    with pytest.raises(ArchiveDamagedError, match="was moved or renamed"):
        list(reader.read(PLACE._replace(partition=1), file, 0, 1))


def test_a_footer_that_has_changed_loses_no_record_silently(tmp_path, monkeypatch):
    """Checksums of pages leave the footer out."""
    monkeypatch.setattr("data_io.archive.writer.GROUP_BYTES", 1)
    made = writer(tmp_path)
    made.begin(0)
    for offset in range(3):
        made.add(records(offset), offset + 1)
    written(made)
    made.close()
    [file] = layout.listed(PLACE.folder(tmp_path))
    data = file.path.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little")
    damaged = 0
    for position in range(len(data) - 8 - footer, len(data), 11):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        file.path.write_bytes(changed)
        try:
            whole, part = (list(reader.read(PLACE, file, *bounds)) for bounds in ((0, 3), (1, 2)))
            assert [value for found in whole for value in found.value] == [b"0", b"1", b"2"]
            assert [value for found in part for value in found.value] == [b"1"]
        except ArchiveDamagedError:
            damaged += 1
    assert damaged > 10


def test_two_files_of_one_offset_are_an_error(tmp_path):
    folder = PLACE.folder(tmp_path)
    folder.mkdir(parents=True)
    for start, end in ((0, 10), (9, 20)):
        (folder / layout.name(start, end)).touch()
    with pytest.raises(ArchiveDamagedError, match="cover the same offsets"):
        layout.listed(folder)
    with pytest.raises(ArchiveDamagedError):
        writer(tmp_path)
