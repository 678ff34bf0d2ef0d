"""Writes predictions as JSON, a column at a time, into the records of a v2 record batch; no object a prediction.

The kernels work on addresses, as those of ``tick_kernel`` do. Texts are copied SLACK bytes at a time and numbers are
written eight digits at a time, so that behind every text, read or written, lie SLACK bytes that mean nothing.

Shapes: N rows, H horizons, M symbols, P pieces of text, F values of flags.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # ships no types
from numba import types
from numba.extending import intrinsic

from ml_core.compiled import njit
from ml_core.types import Bool, Float32, Int32, Int64, UInt8

# Behind a text that is copied this many bytes at a time; a power of two.
SLACK = 32
# length, attributes, time delta, offset delta, length of the value, header count: what a record has beside its texts
FRAME_BYTES = 19
SCORE_BYTES = 16  # "-1.1754944e-38" has 14
NUMBER_BYTES = 20  # of an int64

# No reference counts: the kernels allocate nothing and their caller holds every array.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
_inlined = njit(**_OPTIONS, forceinline=True)
_outermost = njit(**_OPTIONS, cache=True)


class Pieces(NamedTuple):
    """Texts one after the other; ``text`` ends with SLACK bytes."""

    text: UInt8
    bound_P: Int64  # and one more: piece p is text[bound_P[p] : bound_P[p + 1]]


class Columns(NamedTuple):
    """What is written of N rows."""

    offset_N: Int64
    index_N: Int32
    symbol_N: Int32
    ts_ns_N: Int64
    score_NH: Float32
    flags_N: UInt8
    window_ok_N: Bool


class Texts(NamedTuple):
    """How rows are written."""

    # Of a row: to the offset; from the time to the first score; then one to each horizon of ``scores`` and one that
    # closes them, where there are several; then one end a state.
    row: Pieces
    # Of symbol m: at 2m the key of its records with the length in front, at 2m + 1 from the index to the time.
    symbols: Pieces
    state_F: UInt8  # state of a row by its flags: the number of its end; every other one than 0 has no score
    window: int  # state of a row whose window is not filled
    no_score: int  # state of a row with a score that is no finite number


def _access(bits: int) -> Any:
    """Return kernels that load and store an unsigned integer at any address."""
    word, number = ir.IntType(bits), getattr(types, f"uint{bits}")

    @intrinsic
    def load(_context: Any, _address: Any) -> Any:
        def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.load(builder.inttoptr(arguments[0], word.as_pointer()), align=1)

        return number(types.int64), build

    @intrinsic
    def store(_context: Any, _address: Any, _value: Any) -> Any:
        def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            builder.store(arguments[1], builder.inttoptr(arguments[0], word.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, number), build

    return load, store


_, _put = _access(8)
_, _put_pair = _access(16)
_, _put_four = _access(32)
_, _store = _access(64)


@intrinsic
def _copy_block(_context: Any, _source: Any, _address: Any) -> Any:
    """Copy SLACK bytes."""

    def copy(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        block = ir.VectorType(ir.IntType(8), SLACK).as_pointer()
        source, target = (builder.inttoptr(argument, block) for argument in arguments)
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


def _zeros(name: str) -> Any:
    """Return a kernel that counts the zero bits of a word below its lowest or above its highest one, 64 of none."""

    @intrinsic
    def count(_context: Any, _word: Any) -> Any:
        def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return getattr(builder, name)(arguments[0], ir.IntType(1)(0))

        return types.int64(types.uint64), build

    return count


_trailing_zeros, _leading_zeros = _zeros("cttz"), _zeros("ctlz")

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
_TENS = np.array([10**n for n in range(10)], np.int64)
_ZEROS = np.uint64(0x3030303030303030)
_ZERO_POINT = np.uint64(int.from_bytes(b"0.000000", "little"))
_NULL = np.uint32(int.from_bytes(b"null", "little"))
_HUNDREDS, _PAIRS_OF_TENS = np.uint64(0x7F0000007F), np.uint64(0x000F000F000F000F)
_NOT_FINITE = 0x7F800000  # the bits of the exponent


@_inlined
def _round_to_odd(power: Any, scaled: Any) -> Any:
    """Return the product, shifted right by 95, with a last bit that says whether anything was cut off."""
    high = _high(power, scaled)
    cut = numba.int64((high & numba.uint64(0x7FFFFFFF)) != numba.uint64(0))
    return numba.int64(high >> numba.uint64(31)) | cut


@_inlined
def _shortest(bits: int) -> tuple[Any, Any]:
    """Return the shortest decimal ``digits * 10 ** power`` that reads back as the finite, positive float32 ``bits``.

    Of several equally short ones it is the closest. It may end with one zero. Which of the candidates it is depends on
    every bit, so that no branch would be foreseen: all are compared. Source: Raffaello Giulietti, "The Schubfach way to
    render doubles", 2021, https://drive.google.com/file/d/1IEeATSVnEE6TkrHlCYNY2GjaraBjOT4f
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
    power = _POWERS[numba.uint64(-k - _SMALLEST_POWER)]
    middle = significand << 2
    value = _round_to_odd(power, numba.uint64(middle) << shift)
    odd = significand & 1  # the bounds themselves round to an even significand
    low = _round_to_odd(power, numba.uint64(middle - (2 if is_regular else 1)) << shift) + odd
    high = _round_to_odd(power, numba.uint64(middle + 2) << shift) - odd
    digits = value >> 2
    ten = numba.int64(numba.uint64(digits) // numba.uint64(10)) * 10
    is_ten_in, is_next_ten_in = numba.int64(low <= ten << 2), numba.int64(ten + 10 << 2 <= high)
    is_in, is_next_in = numba.int64(low <= digits << 2), numba.int64(digits + 1 << 2 <= high)
    is_short = (is_ten_in ^ is_next_ten_in) & numba.int64(digits >= 10)
    is_up = numba.int64((value & 3) + (digits & 1) > 2)
    is_sole = is_in ^ is_next_in
    last = is_sole & is_next_in | (1 - is_sole) & is_up
    return (ten + 10 * is_next_ten_in if is_short else digits + last), k


@_inlined
def _eight(value: Any) -> Any:
    """Return the eight decimal digits of a uint64, each in a byte, the first one lowest."""
    high = value // numba.uint64(10_000)
    word = high | value - high * numba.uint64(10_000) << numba.uint64(32)
    # x // 100 below 10,000 and x // 10 below 100, as products
    hundreds = word * numba.uint64(10486) >> numba.uint64(20) & _HUNDREDS
    word = word - hundreds * numba.uint64(100) << numba.uint64(16) | hundreds
    tens = word * numba.uint64(103) >> numba.uint64(10) & _PAIRS_OF_TENS
    return word - tens * numba.uint64(10) << numba.uint64(8) | tens


@_inlined
def _up_to_eight(value: Any, at: int) -> Any:
    word = _eight(value)
    zeros = min(_trailing_zeros(word), 56) >> 3  # in front; one digit is always written
    _store(at, (word | _ZEROS) >> numba.uint64(8 * zeros))
    return at + 8 - zeros


@_inlined
def _number(value: int, at: int) -> Any:
    """Write an integer and return the place behind it."""
    if value < 0:
        _put(at, numba.uint8(45))
        at, value = at + 1, -value
    part = numba.uint64(100_000_000)
    rest = numba.uint64(value)
    if rest < part:
        return _up_to_eight(rest, at)
    high = rest // part
    rest -= high * part
    if high < part:
        at = _up_to_eight(high, at)
    else:
        highest = high // part
        at = _up_to_eight(highest, at)
        _store(at, _eight(high - highest * part) | _ZEROS)
        at += 8
    _store(at, _eight(rest) | _ZEROS)
    return at + 8


@_inlined
def _score(score: Any, at: int) -> Any:
    """Write the shortest decimal that reads back as the same finite float32; it always has a point or an exponent."""
    bits = _bits(score)
    _put(at, numba.uint8(45))
    at, bits = at + (bits >> 31), bits & 0x7FFFFFFF
    if bits == 0:
        _store(at, _ZERO_POINT)
        return at + 3
    digits, power = _shortest(bits)
    width = (64 - _leading_zeros(numba.uint64(digits))) * 1233 >> 12  # log10(2) is 1233 / 4096
    width += numba.int64(digits >= _TENS[numba.uint64(width)])
    point = width + power  # digits in front of the point
    digits *= _TENS[numba.uint64(9 - width)]
    first = numba.int64(numba.uint64(digits) // numba.uint64(100_000_000))
    word = _eight(numba.uint64(digits - first * 100_000_000))
    width = 9 - (_leading_zeros(word) >> 3)  # without the zeros at the end
    word |= _ZEROS
    _put(at, numba.uint8(48 + first))
    if -5 < point <= 0:
        _store(at, _ZERO_POINT)
        at += 2 - point
        _put(at, numba.uint8(48 + first))
        _store(at + 1, word)
        return at + width
    if 0 < point <= 9:
        _store(at + 1, word)
        _put(at + point, numba.uint8(46))
        _store(at + point + 1, word >> numba.uint64(8 * point - 8) if point < 9 else _ZEROS)
        return at + point + 1 + max(width - point, 1)
    at += 1
    if width > 1:
        _put(at, numba.uint8(46))
        _store(at + 1, word)
        at += width
    _put(at, numba.uint8(101))
    return _number(point - 1, at + 1)


@_inlined
def _copy(source: int, length: int, at: int) -> Any:
    """Copy bytes, and up to SLACK more; return the place behind them."""
    for i in range(0, length, SLACK):
        _copy_block(source + i, at + i)
    return at + length


@_inlined
def _piece(number: int, pieces: Any, at: int) -> Any:
    start = pieces.bound_P[numba.uint64(number)]
    length = pieces.bound_P[numba.uint64(number + 1)] - start
    return _copy(numba.int64(pieces.text.ctypes.data) + start, length, at)


@_inlined
def _varint(value: int, at: int) -> Any:
    """Write a number from 0 on as a zigzag varint."""
    value <<= 1
    while value > 127:
        _put(at, numba.uint8((value & 127) | 128))
        at += 1
        value >>= 7
    _put(at, numba.uint8(value))
    return at + 1


@_inlined
def _length(value: int, width: int, at: int) -> Any:
    """Write a length as a zigzag varint of ``width`` bytes, two or three, which has to be enough."""
    value <<= 1
    low = value & 127 | 128
    if width == 2:
        _put_pair(at, numba.uint16(value >> 7 << 8 | low))
    else:
        _put_pair(at, numba.uint16((value >> 7 & 127 | 128) << 8 | low))
        _put(at + 2, numba.uint8(value >> 14))


@_inlined
def _null_or(score: Any, state: int, at: int) -> Any:
    if state == 0:
        return _score(score, at)
    _put_four(at, _NULL)
    return at + 4


@_inlined
def _state(n: int, columns: Any, texts: Any) -> Any:
    state = numba.int64(texts.state_F[columns.flags_N[n]])
    if state == 0 and not columns.window_ok_N[n]:
        state = texts.window
    if state == 0:
        for h in range(columns.score_NH.shape[1]):
            if _bits(columns.score_NH[n, h]) & _NOT_FINITE == _NOT_FINITE:
                state = texts.no_score
    return state


@_inlined
def _value(n: int, columns: Any, texts: Any, at: int) -> Any:
    """Write the JSON of row ``n`` and return the place behind it."""
    state, horizons = _state(n, columns, texts), columns.score_NH.shape[1]
    at = _piece(0, texts.row, at)
    at = _number(columns.offset_N[n], at)
    _put(at, numba.uint8(45))
    at = _number(numba.int64(columns.index_N[n]), at + 1)
    at = _piece(2 * numba.int64(columns.symbol_N[n]) + 1, texts.symbols, at)
    at = _number(columns.ts_ns_N[n], at)
    at = _piece(1, texts.row, at)
    at = _null_or(columns.score_NH[n, 0], state, at)
    piece = 2
    if horizons > 1:
        for h in range(horizons):
            at = _piece(piece, texts.row, at)
            at = _null_or(columns.score_NH[n, h], state, at)
            piece += 1
        at = _piece(piece, texts.row, at)
        piece += 1
    return _piece(piece + state, texts.row, at)


@_outermost
def write_values(columns: Columns, texts: Texts, buffer: UInt8, end_N: Int64) -> None:
    """Write the JSON of all rows one after the other, and where each ends; ``buffer`` has room for all."""
    start = at = numba.int64(buffer.ctypes.data)
    for n in range(end_N.shape[0]):
        at = _value(n, columns, texts, at)
        end_N[n] = at - start


@_outermost
def write_records(columns: Columns, texts: Texts, first: int, buffer: UInt8, begin: int, room: int) -> tuple[Any, Any]:
    """Write rows from ``first`` on as records into ``buffer[begin:]``, while ``room`` bytes and SLACK are free.

    Returns:
        The number of the first row that was not written, and the place in ``buffer`` behind the last record.
    """
    start = numba.int64(buffer.ctypes.data)
    at, last = start + begin, start + buffer.shape[0] - SLACK - room
    # A length is known only behind what it counts, and no value has less than the 64 bytes that need two.
    width = 2 if room < 1 << 13 else 3
    n = first
    while n < columns.ts_ns_N.shape[0] and at <= last:
        body = at + width
        _put_pair(body, numba.uint16(0))  # attributes and time delta
        key = _varint(n - first, body + 2)
        value = _piece(2 * numba.int64(columns.symbol_N[n]), texts.symbols, key) + width
        behind = _value(n, columns, texts, value)
        _length(behind - value, width, value - width)
        _put(behind, numba.uint8(0))  # headers
        _length(behind + 1 - body, width, at)
        at = behind + 1
        n += 1
    return n, at - start
