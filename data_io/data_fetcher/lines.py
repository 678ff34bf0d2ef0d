"""Lines of a text file, compressed or not, given as far as the file can be read."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ml_core.errors import InputError, SourceUnavailableError

_BLOCK = 1 << 16
_LONGEST_LINE = 16 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib: largest window, gzip header and trailer


class _BrokenGzipError(Exception):
    """The compressed stream ends early or does not check out."""


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line without its end) of ``path``, plain or gzip by its first bytes.

    Raises:
        InputError: The file is missing, its gzip stream ends early or is damaged, or a line is longer than 16 MB.
            Every whole line before the break has been yielded. A retry will not help.
        SourceUnavailableError: Reading failed midway. A retry is safe.
    """
    number, rest = 0, b""
    try:
        with path.open("rb") as file:
            for block in _blocks(file):
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    number += 1
                    yield number, line.removesuffix(b"\r")
                if len(rest) > _LONGEST_LINE:
                    raise InputError(f"{path}, line {number + 1}: longer than {_LONGEST_LINE} bytes")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except OSError as error:
        raise SourceUnavailableError(f"reading {path} failed after line {number}: {error}") from error
    except _BrokenGzipError as error:
        raise InputError(f"{path} is broken after line {number}: {error}; the lines before it were read") from error
    if rest:
        yield number + 1, rest.removesuffix(b"\r")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    head = file.read(_BLOCK)
    if not head.startswith(_GZIP_MAGIC):
        while head:
            yield head
            head = file.read(_BLOCK)
        return
    # gzip.GzipFile drops what it decompressed of the block in which the stream breaks; zlib itself does not
    inflate = zlib.decompressobj(_GZIP_WINDOW)
    while head:
        if inflate.eof:  # files may be joined; zeros after the last one are padding
            head = head.lstrip(b"\0")
            if not head:
                head = file.read(_BLOCK)
                continue
            inflate = zlib.decompressobj(_GZIP_WINDOW)
        before = inflate.copy()
        try:
            plain = inflate.decompress(head)
        except zlib.error as error:
            yield from _until_damage(before, head)
            raise _BrokenGzipError(f"the gzip stream is damaged ({error})") from error
        if plain:
            yield plain
        head = inflate.unused_data or file.read(_BLOCK)
    if not inflate.eof:
        raise _BrokenGzipError("the gzip stream ends early")


def _until_damage(inflate: "zlib._Decompress", block: bytes) -> Iterator[bytes]:
    """Yield what of ``block`` comes before the byte at which it is damaged."""
    for i in range(len(block)):
        try:
            plain = inflate.decompress(block[i : i + 1])
        except zlib.error:
            return
        if plain:
            yield plain
