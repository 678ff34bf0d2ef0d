"""Reads single values of Arrow's buffers by their addresses; the caller knows that they lie inside of a buffer.

Arrow aligns nothing that comes from a stranger, and NumPy's arrays of what is not aligned are of a type of their own.
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]  # ships no types
from numba import types
from numba.extending import intrinsic

from data_io.topics.json_scan import byte_at, inlined


@intrinsic
def float64_at(_context: Any, _address: Any) -> Any:
    """Return the float64 at an address."""

    def load(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.DoubleType().as_pointer()), align=1)

    return types.float64(types.int64), load


@intrinsic
def int64_at(_context: Any, _address: Any) -> Any:
    """Return the int64 at an address."""

    def load(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)

    return types.int64(types.int64), load


@intrinsic
def int32_at(_context: Any, _address: Any) -> Any:
    """Return the int32 at an address as an int64."""

    def load(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        found = builder.load(builder.inttoptr(arguments[0], ir.IntType(32).as_pointer()), align=1)
        return builder.sext(found, ir.IntType(64))

    return types.int64(types.int64), load


@inlined
def is_null(bits_at: int, n: int) -> Any:
    """Return whether row ``n`` is null by the bits at ``bits_at``; no row is where that is 0."""
    return bits_at != 0 and not (byte_at(bits_at + (n >> 3)) >> (n & 7)) & 1
