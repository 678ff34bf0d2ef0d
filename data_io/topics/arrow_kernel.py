"""Writes columns as Arrow IPC streams, framed as the records of a v2 record batch; no object a row or a column.

A plan says what each buffer of the Arrow record batch is made of; it comes from ``arrow_records``. The kernels work on
addresses, as those of ``prediction_kernel`` do. Texts of symbols are copied sixteen bytes at a time, so their table and
what is written both end with SLACK bytes that nobody reads.

Shapes: N rows, K nodes, B buffers, S sources, M symbols.

Source: Arrow's format, https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc.
"""

from enum import IntEnum
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # ships no types
from numba import literal_unroll, types
from numba.core import cgutils
from numba.extending import intrinsic

from ml_core.compiled import njit
from ml_core.types import Int32, Int64, UInt8

SLACK = 16
END_BYTES = 8  # the mark that ends a stream

_kernel = njit(cache=True, nogil=True)


class Fill(IntEnum):
    """What a buffer is made of; the first three are validity bitmaps, and each of them begins a node."""

    NO_NULLS = 0
    NULL_WHERE_0 = 1  # of a source of bytes, which are 0 or 1
    NULL_WHERE_1 = 2
    COLUMN = 3  # the values of a source, as they lie there
    SAME = 4  # one value for all rows, of 1 or 4 bytes
    ENDS = 5  # of the symbols' texts, and the 0 in front of them
    TEXTS = 6  # of the symbols


class Place(IntEnum):
    """Index into ``Plan.place_P``."""

    MESSAGE = 0  # in ``text``: where the message of the record batch begins; in front of it lies that of the schema
    FRONT = 1  # in ``text``: the records' count of headers, the headers but the last two, the name of the last but one
    BACK = 2  # in ``text``: the name of the last header
    END = 3  # in ``text``: behind all
    LENGTH = 4  # in the message: the number of rows
    BODY = 5  # in the message: the length of the body
    NODES = 6  # in the message: lengths and null counts
    BUFFERS = 7  # in the message: offsets and lengths


class Plan(NamedTuple):
    """What is the same for all records of a schema."""

    text: UInt8
    place_P: Int64
    node_K: Int64  # values a row
    buffer_B4: Int64  # Fill, bytes a row, source or value, and for a source of several columns which of them


class SymbolTexts(NamedTuple):
    """UTF-8 of M symbols; ``text`` ends with SLACK bytes."""

    text: UInt8
    at_M: Int64
    len_M: Int32


# Two sources are known: the offsets of the rows, int64, which the last two headers name, and their symbols, int32.
OFFSET, SYMBOL = 0, 2


def _loads(bits: int) -> Any:
    @intrinsic
    def load(_context: Any, _address: Any) -> Any:
        """Return the signed number at an address."""

        def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            found = builder.load(builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer()), align=1)
            return found if bits == 64 else builder.sext(found, ir.IntType(64))

        return types.int64(types.int64), code

    return load


def _stores(bits: int) -> Any:
    @intrinsic
    def store(_context: Any, _address: Any, _value: Any) -> Any:
        """Write the lowest bits of a number to an address."""

        def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            value = arguments[1] if bits == 64 else builder.trunc(arguments[1], ir.IntType(bits))
            builder.store(value, builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), code

    return store


_load_1, _load_4, _load_8 = _loads(8), _loads(32), _loads(64)
_put, _store_4, _store_8 = _stores(8), _stores(32), _stores(64)


@intrinsic
def _copy_block(_context: Any, _source: Any, _target: Any) -> Any:
    """Copy sixteen bytes."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        block = ir.VectorType(ir.IntType(64), 2).as_pointer()
        source, target = (builder.inttoptr(argument, block) for argument in arguments)
        builder.store(builder.load(source, align=1), target, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
def _move(_context: Any, _source: Any, _length: Any, _target: Any) -> Any:
    """Copy bytes between places that do not overlap."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        source, length, target = arguments
        pointer = ir.IntType(8).as_pointer()
        cgutils.raw_memcpy(builder, builder.inttoptr(target, pointer), builder.inttoptr(source, pointer), length, 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), code


@_kernel
def _address(array: Any) -> Any:
    return numba.int64(array.ctypes.data)


@_kernel
def _padded(length: int) -> Any:
    return (length + 7) & ~7


@_kernel
def _varint_bytes(value: int) -> Any:
    """Return how many bytes ``_varint`` writes."""
    width, value = 1, value >> 6
    while value:
        width, value = width + 1, value >> 7
    return width


@_kernel
def _varint(value: int, at: int) -> Any:
    """Write a number from 0 on as a zigzag varint and return the place behind it."""
    value <<= 1
    while value > 127:
        _put(at, (value & 127) | 128)
        at, value = at + 1, value >> 7
    _put(at, value)
    return at + 1


@_kernel
def _digits(value: int) -> Any:
    """Return the number of decimal digits of a number from 0 on."""
    width, value = 1, value // 10
    while value:
        width, value = width + 1, value // 10
    return width


@_kernel
def _decimal(value: int, at: int) -> Any:
    """Write a number from 0 on as text with its length in front, and return the place behind it."""
    width = _digits(value)
    at = _varint(width, at)
    for place in range(at + width - 1, at - 1, -1):
        _put(place, 48 + value % 10)
        value //= 10
    return at + width


@_kernel
def _valid(ok: int, count: int) -> Any:
    """Return how many of ``count`` bytes are 1."""
    total = 0
    for i in range(count):
        total += _load_1(ok + i)
    return total


@_kernel
def _bitmap(ok: int, count: int, is_opposite: bool, at: int) -> Any:
    """Write bytes that are 0 or 1 as bits, the first as the lowest one, and return the place behind them."""
    flip = 0x0101010101010101 if is_opposite else 0
    for _ in range(count >> 3):
        # Each byte is shifted to a bit of its own in the highest byte; no two products meet, so nothing is carried.
        _put(at, ((_load_8(ok) ^ flip) * 0x0102040810204080) >> 56)
        ok, at = ok + 8, at + 1
    rest = count & 7
    if rest:
        bits = 0
        for i in range(rest):
            bits |= (_load_1(ok + i) ^ (flip & 1)) << i
        _put(at, bits)
        at += 1
    return at


@_kernel
def _same(value: int, width: int, count: int, at: int) -> Any:
    if width == 1:
        for i in range(count):
            _put(at + i, value)
    else:
        for i in range(count):
            _store_4(at + 4 * i, value)
    return at + count * width


@_kernel
def _text_bytes(symbol: int, count: int, len_M: Any) -> Any:
    total = 0
    for i in range(count):
        total += len_M[_load_4(symbol + 4 * i)]
    return total


@_kernel
def _ends(symbol: int, count: int, len_M: Any, at: int) -> Any:
    total = 0
    for i in range(count):
        _store_4(at + 4 * i, total)
        total += len_M[_load_4(symbol + 4 * i)]
    _store_4(at + 4 * count, total)
    return at + 4 * count + 4


@_kernel
def _texts(symbol: int, count: int, symbols: Any, at: int) -> Any:
    """Write texts, and up to SLACK bytes more; return the place behind them."""
    text = _address(symbols.text)
    for i in range(count):
        number = _load_4(symbol + 4 * i)
        source, length = text + symbols.at_M[number], symbols.len_M[number]
        _copy_block(source, at)
        for done in range(16, length, 16):
            _copy_block(source + done, at + done)
        at += length
    return at


@_kernel
def _nulls(fill: int, ok: int, count: int) -> Any:
    if fill == Fill.NO_NULLS:
        return 0
    valid = _valid(ok, count)
    return count - valid if fill == Fill.NULL_WHERE_0 else valid


@_kernel
def _body_bytes(buffer_B4: Any, source_S: Any, first: int, count: int, texts: int) -> Any:
    total = 0
    for fill, width, source, _ in buffer_B4:
        if fill in (Fill.COLUMN, Fill.SAME):
            total += _padded(count * width)
        elif fill == Fill.ENDS:
            total += _padded(4 * count + 4)
        elif fill == Fill.TEXTS:
            total += _padded(texts)
        elif _nulls(fill, source_S[source] + first, count):
            total += _padded((count + 7) >> 3)
    return total


@_kernel
def _body(
    plan: Plan,
    symbols: SymbolTexts,
    source_S: Any,
    first: int,
    count: int,
    rows: int,
    message: int,
    start: int,
) -> Any:
    """Write the buffers of ``count`` of ``rows``, and into the message what they are; return the place behind them."""
    at, node, about = start, message + plan.place_P[Place.NODES], message + plan.place_P[Place.BUFFERS]
    symbol, k = source_S[SYMBOL] + 4 * first, 0
    for fill, width, source, part in plan.buffer_B4:
        begin = at
        if fill == Fill.COLUMN:
            _move(source_S[source] + (part * rows + first) * width, count * width, at)
            at += count * width
        elif fill == Fill.SAME:
            at = _same(source, width, count, at)
        elif fill == Fill.ENDS:
            at = _ends(symbol, count, symbols.len_M, at)
        elif fill == Fill.TEXTS:
            at = _texts(symbol, count, symbols, at)
        else:
            ok = source_S[source] + first
            nulls = _nulls(fill, ok, count)
            if nulls:
                at = _bitmap(ok, count, fill == Fill.NULL_WHERE_1, at)
            _store_8(node, count * plan.node_K[k])
            _store_8(node + 8, nulls)
            node, k = node + 16, k + 1
        _store_8(about, begin - start)
        _store_8(about + 8, at - begin)
        about += 16
        _store_8(at, 0)
        at = begin + _padded(at - begin)
    return at


@_kernel
def _records(
    plan: Plan,
    symbols: SymbolTexts,
    source_S: Int64,
    first: int,
    rows: int,
    step: int,
    limit: int,
    start: int,
) -> tuple[Any, Any, Any]:
    at = start
    text, place_P = _address(plan.text), plan.place_P
    message, front, back, end = place_P[Place.MESSAGE], place_P[Place.FRONT], place_P[Place.BACK], place_P[Place.END]
    n, delta = first, 0
    while n < rows:
        count = min(step, rows - n)
        texts = _text_bytes(source_S[SYMBOL] + 4 * n, count, symbols.len_M)
        body = _body_bytes(plan.buffer_B4, source_S, n, count, texts)
        value = front + body + END_BYTES
        from_offset = _load_8(source_S[OFFSET] + 8 * n)
        to_offset = _load_8(source_S[OFFSET] + 8 * (n + count - 1))
        # attributes, time delta and no key; a header's value of some digits has one byte in front of them
        record = 3 + _varint_bytes(delta) + _varint_bytes(value) + value
        record += end - front + 2 + _digits(from_offset) + _digits(to_offset)
        if delta > 0 and at - start + _varint_bytes(record) + record > limit:
            break
        at = _varint(record, at)
        _put(at, 0)
        _put(at + 1, 0)
        at = _varint(delta, at + 2)
        _put(at, 1)  # null, as the zigzag varint of -1
        at = _varint(value, at + 1)
        _move(text, front, at)
        about = at + message
        _store_8(about + place_P[Place.LENGTH], count)
        _store_8(about + place_P[Place.BODY], body)
        at = _body(plan, symbols, source_S, n, count, rows, about, at + front)
        _store_8(at, 0xFFFFFFFF)
        _move(text + front, back - front, at + END_BYTES)
        at = _decimal(from_offset, at + END_BYTES + back - front)
        _move(text + back, end - back, at)
        at = _decimal(to_offset, at + end - back)
        n, delta = n + count, delta + 1
    return n, at - start, delta


@_kernel
def write_records(
    plan: Plan, symbols: SymbolTexts, columns: Any, first: int, step: int, limit: int, buffer: UInt8
) -> tuple[Any, Any, Any]:
    """Write rows from ``first`` on as records of at most ``step`` rows each.

    It ends in front of the record that would make more than ``limit`` bytes, unless that is the first one. ``buffer``
    has room for that, and SLACK bytes behind it; ``columns`` is a tuple of contiguous arrays, one a source.

    Returns:
        The number of the first row that was not written, how many bytes were, and how many records.
    """
    source_S, source, rows = np.empty(len(columns), np.int64), 0, columns[OFFSET].shape[0]
    for column in literal_unroll(columns):  # which cannot be enumerated
        source_S[source] = _address(column)
        source = source + 1
    behind, used, records = _records(plan, symbols, source_S, first, rows, step, limit, _address(buffer))
    return behind, used, records
