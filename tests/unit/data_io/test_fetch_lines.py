import gzip
from pathlib import Path

import pytest

from data_io.data_fetcher.lines import read_lines
from ml_core.errors import InputError

LINES = [f"line {i} ".encode() + b"x" * (i % 97) for i in range(5000)]
TEXT = b"\n".join(LINES) + b"\n"


def read(path: Path) -> tuple[list[bytes], str]:
    """Return the lines that came, and the text of the error that ended them."""
    lines = []
    try:
        for number, line in read_lines(path):
            assert number == len(lines) + 1
            lines.append(line)
    except InputError as error:
        return lines, str(error)
    return lines, ""


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, lambda text: gzip.compress(text[:777]) + gzip.compress(text[777:]) + b"\0" * 99]
)
def test_plain_gzip_joined_and_padded_files_give_the_same_lines(tmp_path: Path, pack) -> None:
    path = tmp_path / "file"
    path.write_bytes(pack(TEXT))
    assert read(path) == (LINES, "")


def test_a_last_line_without_an_end_and_windows_ends_count(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\r\n\nb")
    assert read(path) == ([b"a", b"", b"b"], "")


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert read(path) == ([], "")


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.999])
def test_a_gzip_that_ends_early_gives_every_whole_line_and_then_says_where(tmp_path: Path, share: float) -> None:
    path, packed = tmp_path / "file.gz", gzip.compress(TEXT)
    path.write_bytes(packed[: max(12, int(len(packed) * share))])

    lines, error = read(path)

    assert lines == LINES[: len(lines)]
    assert f"broken after line {len(lines)}: the gzip stream ends early" in error
    assert str(path) in error
    if share == 0.999:
        assert len(lines) > 4900


def test_a_damaged_gzip_gives_the_lines_before_the_damage(tmp_path: Path) -> None:
    path, packed = tmp_path / "file.gz", bytearray(gzip.compress(TEXT))
    packed[len(packed) // 2 :] = b"\xff" * (len(packed) - len(packed) // 2)
    path.write_bytes(packed)

    lines, error = read(path)

    assert len(lines) > 1000
    assert lines[:1000] == LINES[:1000]
    assert "damaged" in error


def test_a_gzip_whose_checksum_is_wrong_gives_all_lines_and_then_the_error(tmp_path: Path) -> None:
    path, packed = tmp_path / "file.gz", bytearray(gzip.compress(TEXT))
    packed[-6] ^= 0xFF  # within the checksum
    path.write_bytes(packed)

    lines, error = read(path)

    assert lines == LINES
    assert "incorrect data check" in error


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_is_no_file_is_an_input_error_that_names_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot read"):
        list(read_lines(tmp_path / name))


def test_a_line_without_an_end_is_not_collected_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_io.data_fetcher.lines._LONGEST_LINE", 1000)
    path = tmp_path / "file"
    path.write_bytes(b"short\n" + b"y" * 200_000)
    assert read(path) == ([b"short"], f"{path}, line 2: longer than 1000 bytes")
