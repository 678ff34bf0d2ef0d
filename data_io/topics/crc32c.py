"""The checksum of record batches, by the processor's own instruction where it has one.

Three stretches are summed side by side, because one sum waits three cycles for each step; what a stretch contributes is
then moved over the zeros that the next ones would have been.

Source: CRC-32C (Castagnoli), RFC 3720, appendix B.4; https://kafka.apache.org/documentation/#recordbatch.
"""

from typing import Any

import numba
import numpy as np
from aiokafka.record.util import calc_crc32c
from llvmlite import binding, ir  # type: ignore[import-untyped]  # ships no types
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from data_io.topics.json_scan import byte_at, inlined, load, outermost

_POLYNOMIAL = 0x82F63B78  # reflected
_DOUBLINGS = 10
_STRETCH = 1 << _DOUBLINGS  # bytes
_ALL_32 = np.uint64(0xFFFFFFFF)
# Numba compiles for this processor, unless it was told to compile for another one.
_HAS_INSTRUCTION = (
    bool(binding.get_host_cpu_features().get("sse4.2")) and numba.config.CPU_NAME is numba.config.CPU_FEATURES is None
)


def crc32c(data: bytes | memoryview) -> int:
    """Return the checksum of ``data``.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    if not _HAS_INSTRUCTION:
        return int(calc_crc32c(data))
    whole = np.frombuffer(data, np.uint8)
    whole.flags.writeable = False  # one type, so that the kernel is compiled once
    return int(_crc32c(whole, _MOVED))


@intrinsic
def _add_word(_context: Any, _state: Any, _word: Any) -> Any:
    """Return a checksum moved over 8 bytes."""

    def add(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word, word])
        return builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse42.crc32.64.64"), arguments
        )

    return types.uint64(types.uint64, types.uint64), add


@intrinsic
def _add_byte(_context: Any, _state: Any, _byte: Any) -> Any:
    """Return a checksum moved over one byte."""

    def add(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        state, byte = ir.IntType(32), ir.IntType(8)
        kind = ir.FunctionType(state, [state, byte])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse42.crc32.32.8")
        parts = [builder.trunc(argument, wanted) for argument, wanted in zip(arguments, (state, byte), strict=True)]
        return builder.zext(builder.call(function, parts), ir.IntType(64))

    return types.uint64(types.uint64, types.int64), add


@inlined
def _move(state: Any, moved: Any) -> Any:
    """Return a checksum moved over a stretch of zeros."""
    low, high = state & numba.uint64(0xFFFF), state >> numba.uint64(16)
    return (
        moved[0, low & numba.uint64(255)]
        ^ moved[1, low >> numba.uint64(8)]
        ^ moved[2, high & numba.uint64(255)]
        ^ moved[3, high >> numba.uint64(8)]
    )


@outermost
def _crc32c(whole: Any, moved: Any) -> Any:
    state, at, length = _ALL_32, numba.int64(whole.ctypes.data), whole.shape[0]
    while length >= 3 * _STRETCH:
        second, third = numba.uint64(0), numba.uint64(0)
        for i in range(0, _STRETCH, 8):
            state = _add_word(state, load(at + i))
            second = _add_word(second, load(at + _STRETCH + i))
            third = _add_word(third, load(at + 2 * _STRETCH + i))
        state = _move(_move(state, moved) ^ second, moved) ^ third
        at, length = at + 3 * _STRETCH, length - 3 * _STRETCH
    while length >= 8:
        state = _add_word(state, load(at))
        at, length = at + 8, length - 8
    while length > 0:
        state = _add_byte(state, byte_at(at))
        at, length = at + 1, length - 1
    return state ^ _ALL_32


def _moved() -> Any:
    """Return what each byte of a checksum becomes over a stretch of zeros; [place of the byte, byte]."""

    def product(matrix: list[int], vector: int) -> int:
        out = 0
        for bit, column in enumerate(matrix):
            if vector >> bit & 1:
                out ^= column
        return out

    matrix = [_POLYNOMIAL, *(1 << bit for bit in range(31))]  # over one bit
    for _ in range(3 + _DOUBLINGS):
        matrix = [product(matrix, column) for column in matrix]
    return np.array([[product(matrix, byte << 8 * place) for byte in range(256)] for place in range(4)], np.uint64)


_MOVED = _moved()
