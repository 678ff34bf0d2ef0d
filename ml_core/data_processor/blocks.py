"""State of 64 symbols as bytes: a header, the symbols' names and raw arrays. Bit exact, and nothing is unpickled."""

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.errors import SchemaMismatchError
from ml_core.types import Bool

BLOCK = 64
FORMAT_VERSION = 1
_HEADER = struct.Struct("<4sHHII16s")  # magic, format, kernel, number of the block, bytes of names, schema


def pack(
    magic: bytes, kernel: int, schema: str, block: int, names: Sequence[str], arrays: Sequence[npt.NDArray[Any]]
) -> bytes:
    """Return block number ``block`` as bytes; the first axis of each array is the symbols of ``names``."""
    text = json.dumps(list(names)).encode()
    header = _HEADER.pack(magic, FORMAT_VERSION, kernel, block, len(text), schema.encode())
    return b"".join([header, text, *(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays)])


def unpack(
    data: bytes, magic: bytes, kernel: int, schema: str, block: int, like: Sequence[npt.NDArray[Any]]
) -> tuple[list[str], list[npt.NDArray[Any]]]:
    """Return names and arrays of what `pack` made; arrays have the dtypes and the trailing shapes of ``like``.

    Raises:
        SchemaMismatchError: The bytes are of another format, kernel, schema or block, or are cut. State has to be
            rebuilt from ticks.
    """
    if len(data) < _HEADER.size:
        raise SchemaMismatchError(f"state block {block}: {len(data)} bytes are too few")
    found = _HEADER.unpack_from(data)
    expected = (magic, FORMAT_VERSION, kernel, block, found[4], schema.encode().ljust(16, b"\0"))
    words = ("magic", "format", "kernel version", "block", "", "schema")
    for word, theirs, ours in zip(words, found, expected, strict=True):
        if theirs != ours:
            raise SchemaMismatchError(f"state block {block}: its {word} is {theirs!r}, not {ours!r}")
    try:
        names = [str(name) for name in json.loads(data[_HEADER.size : _HEADER.size + found[4]])]
    except ValueError as error:
        raise SchemaMismatchError(f"state block {block}: its names cannot be read") from error
    at, arrays = _HEADER.size + found[4], []
    for array in like:
        dtype = array.dtype.newbyteorder("<")
        count = len(names) * int(np.prod(array.shape[1:]))
        if at + count * dtype.itemsize > len(data):
            raise SchemaMismatchError(f"state block {block}: {len(data)} bytes are too few")
        part = np.frombuffer(data, dtype, count, at).astype(array.dtype)
        arrays.append(part.reshape(len(names), *array.shape[1:]))
        at += count * dtype.itemsize
    if at != len(data):
        raise SchemaMismatchError(f"state block {block}: {len(data) - at} bytes are too many")
    return names, arrays


def grown(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """Return ``array`` with at least ``length`` places on its first axis, doubled as needed; new places are 0."""
    size = len(array)
    while size < length:
        size = max(BLOCK, 2 * size)
    if size == len(array):
        return array
    larger = np.zeros((size, *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger


def mark_new_names(dirty_B: Bool, known: int, now: int) -> None:
    """Mark the blocks that names ``known`` to ``now`` fall into, so that a dump never leaves a hole in the names."""
    if now > known:
        dirty_B[known // BLOCK : (now - 1) // BLOCK + 1] = True


def mark_loaded(dirty_B: Bool, block: int, names: int, known: int) -> None:
    """Mark a block of ``names`` symbols as it is in the log: clean, unless more of those known fall into it."""
    dirty_B[block] = names < min(BLOCK, known - block * BLOCK)


def chosen(dirty_B: Bool, symbols: int, *, dirty_only: bool) -> list[int]:
    """Return the numbers of the blocks to dump."""
    blocks = range(-(-symbols // BLOCK))
    return [block for block in blocks if dirty_B[block] or not dirty_only]
