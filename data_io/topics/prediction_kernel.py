"""Writes predictions as JSON, a column at a time, into the records of a v2 record batch; no object a prediction.

The kernels work on addresses, as those of ``tick_kernel`` do, and stand in one file for numba's cache. Bytes are copied
eight at a time, so every table of texts ends with eight bytes that nobody reads.

Shapes: N rows, H horizons, M symbols, R reasons.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # ships no types
from numba import types
from numba.extending import intrinsic

from ml_core.types import Float32, Int32, Int64, UInt8

# Behind a text that is copied eight bytes at a time.
SLACK = 8
# length, attributes, time delta, offset delta, lengths of key and value, header count: what a record has beside them
FRAME_BYTES = 20
SCORE_BYTES = 16  # "-1.1754944e-38" has 14
NUMBER_BYTES = 20  # of an int64

_kernel = numba.njit(cache=True, nogil=True)


class SymbolTexts(NamedTuple):
    """How M symbols are written; ``text`` ends with SLACK bytes."""

    text: UInt8  # for each symbol its bytes, then its JSON string
    at_M: Int64  # where its bytes begin
    key_len_M: Int32
    json_len_M: Int32


class Pieces(NamedTuple):
    """The parts of a record that do not depend on its row; ``text`` ends with SLACK bytes."""

    text: UInt8
    bound_P: Int64  # piece p is text[bound_P[p] : bound_P[p + 1]]
    # 0: to the offset; 1: to the symbol; 2: to the time; 3: to the first score; then one to each horizon of ``scores``
    # and one that closes them, where there are several; then one end a state


class Columns(NamedTuple):
    """What is written of N rows."""

    offset_N: Int64
    index_N: Int32
    symbol_N: Int32
    ts_ns_N: Int64
    score_NH: Float32
    state_N: UInt8  # number of the end; every other state than 0 has no score


@intrinsic
def _load(_context: Any, _address: Any) -> Any:
    """Return the eight bytes at an address."""

    def load(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(types.int64), load


@intrinsic
def _store(_context: Any, _address: Any, _word: Any) -> Any:
    """Write eight bytes to an address."""

    def store(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), store


@intrinsic
def _put(_context: Any, _address: Any, _byte: Any) -> Any:
    """Write one byte to an address."""

    def store(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.uint8), store


@intrinsic
def _copy_pair(_context: Any, _source: Any, _address: Any) -> Any:
    """Copy two bytes."""

    def copy(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        source, target = (builder.inttoptr(argument, ir.IntType(16).as_pointer()) for argument in arguments)
        builder.store(builder.load(source, align=1), target, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), copy


@intrinsic
def _bits(_context: Any, _value: Any) -> Any:
    """Return the bits of a float32."""

    def cast(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.zext(builder.bitcast(arguments[0], ir.IntType(32)), ir.IntType(64))

    return types.int64(types.float32), cast


@intrinsic
def _high(_context: Any, _x: Any, _y: Any) -> Any:
    """Return the high 64 bits of a product of two uint64."""

    def multiply(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        x, y = (builder.zext(argument, wide) for argument in arguments)
        return builder.trunc(builder.lshr(builder.mul(x, y), ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), multiply


_SMALLEST_POWER, _LARGEST_POWER = -38, 46  # powers of ten that float32 needs


def _floor_log2(power: int) -> int:
    return int(10**power).bit_length() - 1 if power >= 0 else -int(10**-power - 1).bit_length()


def _power_of_ten(power: int) -> int:
    """Return 10 ** power, rounded up to 63 significant bits."""
    shift = 62 - _floor_log2(power)
    if power >= 0:
        value = int(10**power)
        return (value << shift if shift >= 0 else value >> -shift) + 1
    return (1 << shift) // int(10**-power) + 1


_POWERS = np.array([_power_of_ten(k) for k in range(_SMALLEST_POWER, _LARGEST_POWER + 1)], np.uint64)
_PAIRS = np.frombuffer(b"".join(b"%02d" % i for i in range(100)), np.uint8).copy()


@_kernel
def _address(array: Any) -> Any:
    return numba.int64(array.ctypes.data)


@_kernel
def _round_to_odd(power: Any, scaled: Any) -> Any:
    """Return the product, shifted right by 95, with a last bit that says whether anything was cut off."""
    high = _high(power, scaled)
    cut = numba.int64((high & numba.uint64(0x7FFFFFFF)) != numba.uint64(0))
    return numba.int64(high >> numba.uint64(31)) | cut


@_kernel
def _shortest(bits: int) -> tuple[Any, Any]:
    """Return the shortest decimal ``digits * 10 ** power`` that reads back as the finite, positive float32 ``bits``.

    Of several equally short ones it is the closest. Source: Raffaello Giulietti, "The Schubfach way to render doubles",
    2021, https://drive.google.com/file/d/1IEeATSVnEE6TkrHlCYNY2GjaraBjOT4f
    """
    fraction, exponent = bits & 0x7FFFFF, bits >> 23
    if exponent:
        significand, q = fraction | 0x800000, exponent - 150
    else:
        significand, q = fraction, -149
    is_regular = fraction != 0 or exponent <= 1
    # floor(log10(2 ** q)), or of three quarters of it where the gap below is half as wide
    k = (q * 1262611 - (0 if is_regular else 524031)) >> 22
    shift = numba.uint64(q + ((-k * 1741647) >> 19) + 33)
    power = _POWERS[-k - _SMALLEST_POWER]
    middle = significand << 2
    value = _round_to_odd(power, numba.uint64(middle) << shift)
    low = _round_to_odd(power, numba.uint64(middle - (2 if is_regular else 1)) << shift)
    high = _round_to_odd(power, numba.uint64(middle + 2) << shift)
    odd = significand & 1  # the bounds themselves round to an even significand
    digits = value >> 2
    if digits >= 10:
        ten = digits // 10 * 10
        is_low_in, is_high_in = low + odd <= ten << 2, ((ten + 10) << 2) + odd <= high
        if is_low_in != is_high_in:
            return (ten if is_low_in else ten + 10), k
    is_low_in, is_high_in = low + odd <= digits << 2, ((digits + 1) << 2) + odd <= high
    if is_low_in != is_high_in:
        return (digits if is_low_in else digits + 1), k
    side = value - ((2 * digits + 1) << 1)
    return (digits if side < 0 or (side == 0 and digits & 1 == 0) else digits + 1), k


@_kernel
def _copy(source: int, length: int, at: int) -> Any:
    """Copy bytes, and up to SLACK more; return the place behind them."""
    for i in range(0, length, 8):
        _store(at + i, _load(source + i))
    return at + length


@_kernel
def _width(value: int) -> Any:
    """Return the number of decimal digits of a number from 0 on."""
    width, bound = 1, 10
    while width < 19 and value >= bound:
        width += 1
        bound *= 10
    return width


@_kernel
def _digits(value: int, width: int, at: int, pairs: int) -> Any:
    """Write ``width`` decimal digits and return the place behind them."""
    place = at + width
    while place - at >= 2:
        place -= 2
        rest = value // 100
        _copy_pair(pairs + 2 * (value - 100 * rest), place)
        value = rest
    if place > at:
        _put(at, numba.uint8(48 + value % 10))
    return at + width


@_kernel
def _integer(value: int, at: int, pairs: int) -> Any:
    if value < 0:
        _put(at, numba.uint8(45))
        at, value = at + 1, -value
    return _digits(value, _width(value), at, pairs)


@_kernel
def _score(score: Any, at: int, pairs: int) -> Any:
    """Write the shortest decimal that reads back as the same finite float32; it always has a point or an exponent."""
    bits = _bits(score)
    if bits >> 31:
        _put(at, numba.uint8(45))
        at, bits = at + 1, bits & 0x7FFFFFFF
    if bits == 0:
        _put(at, numba.uint8(48))
        _put(at + 1, numba.uint8(46))
        _put(at + 2, numba.uint8(48))
        return at + 3
    digits, power = _shortest(bits)
    while digits % 10 == 0:
        digits //= 10
        power += 1
    width = _width(digits)
    point = width + power  # digits in front of the point
    if -5 < point <= 0:
        _put(at, numba.uint8(48))
        _put(at + 1, numba.uint8(46))
        at += 2
        for _ in range(-point):
            _put(at, numba.uint8(48))
            at += 1
        return _digits(digits, width, at, pairs)
    if 0 < point <= 9:
        return _around_point(digits, width, point, at, pairs)
    return _scientific(digits, width, point, at, pairs)


@_kernel
def _around_point(digits: int, width: int, point: int, at: int, pairs: int) -> Any:
    for _ in range(width, point):
        digits *= 10
    after = max(width - point, 0)
    unit = 1
    for _ in range(after):
        unit *= 10
    whole = digits // unit
    at = _digits(whole, point, at, pairs)
    _put(at, numba.uint8(46))
    return _digits(digits - whole * unit, max(after, 1), at + 1, pairs)


@_kernel
def _scientific(digits: int, width: int, point: int, at: int, pairs: int) -> Any:
    # The digits one place to the right, then the first one in front of the point.
    behind = _digits(digits, width, at + 1, pairs)
    first = digits
    for _ in range(width - 1):
        first //= 10
    _put(at, numba.uint8(48 + first))
    if width > 1:
        _put(at + 1, numba.uint8(46))
        at = behind
    else:
        at += 1
    _put(at, numba.uint8(101))
    return _integer(point - 1, at + 1, pairs)


@_kernel
def _varint(value: int, at: int) -> Any:
    """Write a number from 0 on as a zigzag varint."""
    value <<= 1
    while value > 127:
        _put(at, numba.uint8((value & 127) | 128))
        at += 1
        value >>= 7
    _put(at, numba.uint8(value))
    return at + 1


@_kernel
def _length(value: int, width: int, at: int) -> Any:
    """Write a length as a zigzag varint of ``width`` bytes, two or three, which has to be enough."""
    value <<= 1
    _put(at, numba.uint8((value & 127) | 128))
    value >>= 7
    if width == 3:
        _put(at + 1, numba.uint8((value & 127) | 128))
        value >>= 7
    _put(at + width - 1, numba.uint8(value))
    return at + width


@_kernel
def _piece(number: int, text: int, bound_P: Any, at: int) -> Any:
    return _copy(text + bound_P[number], bound_P[number + 1] - bound_P[number], at)


@_kernel
def _null_or(score: Any, state: int, at: int, pairs: int) -> Any:
    if state == 0:
        return _score(score, at, pairs)
    _store(at, numba.uint64(0x6C6C756E))  # "null"
    return at + 4


@_kernel
def _value(n: int, columns: Any, pieces: Any, text: int, symbol: int, symbol_len: int, at: int, pairs: int) -> Any:
    """Write the JSON of row ``n`` and return the place behind it."""
    bound_P, state, horizons = pieces.bound_P, columns.state_N[n], columns.score_NH.shape[1]
    at = _piece(0, text, bound_P, at)
    at = _integer(columns.offset_N[n], at, pairs)
    _put(at, numba.uint8(45))
    at = _integer(columns.index_N[n], at + 1, pairs)
    at = _piece(1, text, bound_P, at)
    at = _copy(symbol, symbol_len, at)
    at = _piece(2, text, bound_P, at)
    at = _integer(columns.ts_ns_N[n], at, pairs)
    at = _piece(3, text, bound_P, at)
    at = _null_or(columns.score_NH[n, 0], state, at, pairs)
    piece = 4
    if horizons > 1:
        for h in range(horizons):
            at = _piece(piece, text, bound_P, at)
            at = _null_or(columns.score_NH[n, h], state, at, pairs)
            piece += 1
        at = _piece(piece, text, bound_P, at)
        piece += 1
    return _piece(piece + state, text, bound_P, at)


@_kernel
def write_values(columns: Columns, pieces: Pieces, symbols: SymbolTexts, buffer: UInt8, end_N: Int64) -> None:
    """Write the JSON of all rows one after the other, and where each ends; ``buffer`` has room for all."""
    start = at = _address(buffer)
    text, names, pairs = _address(pieces.text), _address(symbols.text), _address(_PAIRS)
    for n in range(end_N.shape[0]):
        symbol = columns.symbol_N[n]
        name, key_len = names + symbols.at_M[symbol], symbols.key_len_M[symbol]
        at = _value(n, columns, pieces, text, name + key_len, symbols.json_len_M[symbol], at, pairs)
        end_N[n] = at - start


@_kernel
def write_records(
    columns: Columns, pieces: Pieces, symbols: SymbolTexts, first: int, buffer: UInt8, room: int
) -> tuple[Any, Any]:
    """Write rows from ``first`` on as records, until fewer than ``room`` bytes are free.

    Returns:
        The number of the first row that was not written, and how many bytes were.
    """
    start = at = _address(buffer)
    last = start + buffer.shape[0] - room
    text, names, pairs = _address(pieces.text), _address(symbols.text), _address(_PAIRS)
    # A length is known only behind what it counts, and no value has less than the 64 bytes that need two.
    width = 2 if room < 1 << 13 else 3
    n = first
    while n < columns.ts_ns_N.shape[0] and at <= last:
        symbol = columns.symbol_N[n]
        name, key_len = names + symbols.at_M[symbol], symbols.key_len_M[symbol]
        body = at + width
        _put(body, numba.uint8(0))  # attributes
        _put(body + 1, numba.uint8(0))  # time delta
        key = _varint(key_len, _varint(n - first, body + 2))
        value = _copy(name, key_len, key) + width
        behind = _value(n, columns, pieces, text, name + key_len, symbols.json_len_M[symbol], value, pairs)
        _length(behind - value, width, value - width)
        _put(behind, numba.uint8(0))  # headers
        _length(behind + 1 - body, width, at)
        at = behind + 1
        n += 1
    return n, at - start
