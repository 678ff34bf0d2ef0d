"""Reads the values of JSON where they lie: numbers to the last bit, plain strings, and what is to be passed over.

Kernels work on addresses and load 8 bytes at a time. Every load begins at or before the end of the text; the caller
makes ``SLACK`` bytes behind it readable. A place of -1 says that the text is not as expected. "Plain" is ASCII without
escapes and control characters.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # ships no types
from numba import types
from numba.extending import intrinsic

from data_io.topics.decimals import LARGEST_POWER, POWERS_OF_FIVE, SMALLEST_POWER
from ml_core.compiled import njit

SLACK = 8
_MAX_NESTING = 32  # of what is skipped
_MAX_NUMBER_BYTES = 100

# No reference counts: the kernels allocate nothing and their caller holds every array.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
kernel = njit(**_OPTIONS)
# For what runs once a value: a call hands every array over by its parts, which costs as much as parsing.
inlined = njit(**_OPTIONS, forceinline=True)
# What Python calls; what it calls in turn is kept with it.
outermost = njit(**_OPTIONS, cache=True)


@intrinsic
def load(_context: Any, _address: Any) -> Any:
    """Return the 8 bytes at an address, the first one lowest."""

    def load(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(types.int64), load


@intrinsic
def byte_at(_context: Any, _address: Any) -> Any:
    """Return the byte at an address."""

    def load(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.zext(builder.load(builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())), ir.IntType(64))

    return types.int64(types.int64), load


@intrinsic
def _trailing_zeros(_context: Any, _word: Any) -> Any:
    """Return the number of zero bits below the lowest one; 64 of none."""

    def count(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(0))

    return types.int64(types.uint64), count


@intrinsic
def _leading_zeros(_context: Any, _word: Any) -> Any:
    """Return the number of zero bits above the highest one; 64 of none."""

    def count(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.IntType(1)(0))

    return types.int64(types.uint64), count


@intrinsic
def _bits_of(_context: Any, _number: Any) -> Any:
    """Return the bits of a float64."""

    def cast(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), cast


@intrinsic
def _float_of(_context: Any, _bits: Any) -> Any:
    """Return the float64 that has these bits."""

    def cast(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), cast


def packed(text: str) -> np.uint64:
    """Return up to 8 bytes of text as ``load`` finds them."""
    return np.uint64(int.from_bytes(text.encode(), "little"))


def _each(byte: int) -> np.uint64:
    """Return a word of eight equal bytes."""
    return np.uint64(0x0101010101010101 * byte)


TRUE, FALS, NULL = packed("true"), packed("fals"), packed("null")
_ONES, _TOPS, _ZEROS, SPACES = _each(1), _each(0x80), _each(0x30), _each(0x20)
_QUOTES, _BACKSLASHES, _ABOVE_NINE = _each(0x22), _each(0x5C), _each(0x80 - 10)
_ALL_64 = np.uint64(0xFFFFFFFFFFFFFFFF)
LOW_32, LOW_40, LOW_48, LOW_56 = (np.uint64((1 << bits) - 1) for bits in (32, 40, 48, 56))
# as they are when combined with _ZEROS; small and large e differ in one bit, which is left out
_POINT, _EXPONENT = np.uint64(0x2E ^ 0x30), np.uint64((0x65 ^ 0x30) & 0xDF)
_MANTISSA_TOP = np.uint64(1 << 52)
_EXACT = np.uint64(1 << 53)
_PAIRS, _FOURS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
_LARGEST = np.uint64(2**63 - 1)
_TENS = np.array([10**n for n in range(9)], np.uint64)
_EXACT_TENS = np.array([10.0**n for n in range(23)])  # the powers of ten that a float64 holds exactly


@inlined
def _product(x: Any, y: Any) -> tuple[Any, Any]:
    """Return the high and low 64 bits of a product of two uint64."""
    half = numba.uint64(32)
    x_high, x_low, y_high, y_low = x >> half, x & LOW_32, y >> half, y & LOW_32
    low, middle = x_low * y_low, x_high * y_low
    cross = (low >> half) + (middle & LOW_32) + x_low * y_high
    return x_high * y_high + (middle >> half) + (cross >> half), (cross << half) | (low & LOW_32)


@inlined
def _float_bits(digits: Any, power: int) -> Any:
    """Return the bits of the float64 nearest to ``digits * 10 ** power``; 0 where it is 0 or not certain.

    Source: Daniel Lemire, "Number parsing at a gigabyte per second", 2021, https://arxiv.org/abs/2101.11408.
    """
    one = numba.uint64(1)
    if digits <= _EXACT and -23 < power <= 0:  # both exact in float64, so that one division rounds once
        return _bits_of(numba.float64(numba.int64(digits)) / _EXACT_TENS[-power])
    if digits == numba.uint64(0) or power < SMALLEST_POWER or power > LARGEST_POWER:
        return numba.int64(0)
    zeros = _leading_zeros(digits)
    digits <<= numba.uint64(zeros)
    high, low = _product(digits, POWERS_OF_FIVE[power - SMALLEST_POWER, 0])
    if high & numba.uint64(0x1FF) == numba.uint64(0x1FF):  # the bits below the 55 that count could still carry
        more, _ = _product(digits, POWERS_OF_FIVE[power - SMALLEST_POWER, 1])
        low += more
        if more > low:
            high += one
        if low == _ALL_64:
            return numba.int64(0)
    top = high >> numba.uint64(63)
    shift = top + numba.uint64(9)
    mantissa = high >> shift
    # 217706 / 2 ** 16 is log2(10) to the precision that this range of powers needs
    exponent = ((217706 * power) >> 16) + 63 + numba.int64(top) - zeros + 1023
    if exponent <= 0 or exponent >= 2046:
        return numba.int64(0)
    is_tie = low <= one and -4 <= power <= 23 and mantissa & numba.uint64(3) == one and mantissa << shift == high
    if not is_tie:
        mantissa += mantissa & one
    mantissa >>= one
    if mantissa >= _MANTISSA_TOP << one:
        mantissa, exponent = _MANTISSA_TOP, exponent + 1
    return numba.int64(numba.uint64(exponent) << numba.uint64(52) | mantissa & ~_MANTISSA_TOP)


@inlined
def low(word: Any, count: int) -> Any:
    """Return the first ``count`` bytes of a word, 1 to 8."""
    return word & _ALL_64 >> numba.uint64(64 - 8 * count)


@inlined
def _not_digits(word: Any) -> Any:
    """Return the top bit of each byte that is no digit in a word of text, which was combined with _ZEROS.

    The lowest one is found exactly, and the next one too if the lowest is a point: a carry comes only out of bytes
    above 127, and it only reaches bytes behind them.
    """
    return (word + _ABOVE_NINE | word) & _TOPS


@inlined
def _eight(word: Any) -> Any:
    """Return the number that eight digits make; each is a byte of 0 to 9, the first one lowest."""
    # ten times each byte plus the next one; then the same for pairs and for fours
    word = word * numba.uint64(10 << 8 | 1) >> numba.uint64(8) & _PAIRS
    word = word * numba.uint64(100 << 16 | 1) >> numba.uint64(16) & _FOURS
    return word * numba.uint64(10_000 << 32 | 1) >> numba.uint64(32)


@inlined
def _run(at: int, end: int, value: Any) -> tuple[Any, int]:
    """Append the digits at ``at`` to ``value``, modulo 2**64; return it and the place behind them."""
    while at <= end:
        word = load(at) ^ _ZEROS
        others = _not_digits(word)
        if others != numba.uint64(0):
            count = _trailing_zeros(others) >> 3
            if count > 0:
                value = value * _TENS[count] + _eight(word << numba.uint64(64 - 8 * count))
                at += count
            break
        # The processor foresees this branch and goes on before it knows how many digits there are.
        value = value * _TENS[8] + _eight(word)
        at += 8
    return value, at


@kernel
def _rare_decimal(at: int, end: int) -> Any:
    """Return what ``decimal`` does, one byte after the other: exponents, and more digits than 64 bits hold."""
    start, point, count, value = at, -1, 0, numba.uint64(0)
    while at < end and (48 <= byte_at(at) <= 57 or (byte_at(at) == 46 and point < 0)):
        if byte_at(at) == 46:
            point = at
        else:
            value = value * numba.uint64(10) + numba.uint64(byte_at(at) - 48)
            count += value != numba.uint64(0)
        at += 1
    power = 0 if point < 0 else point + 1 - at
    if start in (at, point) or point == at - 1:
        return 0, -1
    if at < end and (byte_at(at) | 32) == 101:  # e
        sign = 1
        at += 1
        if at < end and (byte_at(at) == 43 or byte_at(at) == 45):
            sign = 44 - byte_at(at)
            at += 1
        exponent_at = at
        exponent, at = _run(at, end, numba.uint64(0))
        if at == exponent_at or at > exponent_at + 4:
            return 0, -1
        power += sign * numba.int64(exponent)
    # 19 digits fit 64 bits
    return (_float_bits(value, power) if count <= 19 and at - start <= _MAX_NUMBER_BYTES else 0), at


@inlined
def decimal(at: int, end: int) -> Any:
    """Return the bits of a JSON number without a sign (0: not certain) and the place behind it (-1: none)."""
    if at > end:
        return 0, -1
    # Most are shorter than a word and have a point: one look finds both ends, and all digits are read as one number.
    word = load(at) ^ _ZEROS
    others = _not_digits(word)
    point = others & numba.uint64(0) - others
    others ^= point
    unit, behind = point >> numba.uint64(7), _trailing_zeros(others) >> 3  # 1 in the place of the point
    after = behind - (_trailing_zeros(point) >> 3) - 1
    if (
        others != numba.uint64(0)
        and word & unit * numba.uint64(255) == unit * _POINT
        and unit != numba.uint64(1)
        and after > 0
        and (word & numba.uint64(255) != numba.uint64(0) or unit == numba.uint64(256))  # no zeros in front
        and word >> numba.uint64(8 * behind) & numba.uint64(0xDF) != _EXPONENT
        and behind <= end - at
    ):
        digits = word & unit - numba.uint64(1) | word >> numba.uint64(8) & numba.uint64(0) - unit
        value = _eight(digits << numba.uint64(72 - 8 * behind))
        return _bits_of(numba.float64(numba.int64(value)) / _EXACT_TENS[after]), at + behind
    start, power = at, 0
    value, at = _run(at, end, numba.uint64(0))
    if at == start or at > end or (byte_at(start) == 48 and at > start + 1):
        return 0, -1
    if byte_at(at) == 46:
        point = at + 1
        value, at = _run(point, end, value)
        power = point - at
        if power == 0 or at > end:
            return 0, -1
    if at > start + 20 - (power == 0) or (byte_at(at) | 32) == 101:
        return _rare_decimal(start, end)
    return _float_bits(value, power), at


@inlined
def integer(at: int, end: int) -> Any:
    """Return an integer of ``[0, 2**63)`` and the place behind it; place -1 where there is none."""
    start = at
    value, at = _run(at, end, numba.uint64(0))
    if at == start or (byte_at(start) == 48 and at > start + 1) or at > start + 19 or value > _LARGEST:
        return 0, -1
    return numba.int64(value), at


@kernel
def space(at: int, end: int) -> int:
    """Return the place behind white space."""
    while at < end and (byte_at(at) == 32 or byte_at(at) == 10 or byte_at(at) == 13 or byte_at(at) == 9):
        at += 1
    return at


@inlined
def quote(at: int, end: int) -> int:
    """Return where the next quote stands; -1 where it is not plain text up to there."""
    while at < end:
        word = load(at)
        quotes, slashes = word ^ _QUOTES, word ^ _BACKSLASHES
        # Each test finds its lowest byte exactly, so the lowest of all is exact too.
        found = (quotes - _ONES & ~quotes) | (slashes - _ONES & ~slashes) | (word - SPACES & ~word) | word
        found &= _TOPS
        if found:
            at += _trailing_zeros(found) >> 3
            return at if at < end and byte_at(at) == 34 else -1
        at += 8
    return -1


@kernel
def _scalar(at: int, end: int) -> int:  # noqa: PLR0911 - one a kind of value
    """Return the place behind a plain string, number, true, false or null; -1 where there is none."""
    byte = byte_at(at)
    if byte == 34:
        at = quote(at + 1, end)
        return at + 1 if at >= 0 else -1
    word = load(at) & LOW_32
    if word in (TRUE, NULL):
        return at + 4
    if word == FALS:
        return at + 5 if byte_at(at + 4) == 101 else -1
    first = at
    at += byte == 45
    start = at
    _, at = _run(at, end, numba.uint64(0))
    if at == start or (byte_at(start) == 48 and at > start + 1):
        return -1
    if at < end and byte_at(at) == 46:
        start = at + 1
        _, at = _run(start, end, numba.uint64(0))
        if at == start:
            return -1
    if at < end and (byte_at(at) | 32) == 101:
        at += 1
        at += at < end and (byte_at(at) == 43 or byte_at(at) == 45)
        start = at
        _, at = _run(at, end, numba.uint64(0))
        if at == start or at > start + 2:
            return -1
    # A longer one, or one with a longer exponent, may be beyond a float64, which is for the exact decoder to judge.
    return at if at <= first + _MAX_NUMBER_BYTES else -1


@kernel
def value_place(at: int, end: int) -> int:
    """Return where the value behind the closing quote of a key begins; -1 where there is no colon or no value."""
    if at < 0:
        return -1
    at = space(at + 1, end)
    if at >= end or byte_at(at) != 58:
        return -1
    at = space(at + 1, end)
    return at if at < end else -1


@kernel
def skip(at: int, end: int) -> int:  # noqa: PLR0911, PLR0912 - one loop, without recursion
    """Return the place behind a value that nobody asked for; -1 where it is not plain."""
    one = numba.uint64(1)
    open_brackets = one  # below the highest bit: 1 an object, 0 an array
    while at < end:
        byte = byte_at(at)
        is_open = byte in (123, 91)
        if is_open:
            open_brackets = open_brackets << one | numba.uint64(byte == 123)
            at = space(at + 1, end)
            if at >= end or open_brackets >> numba.uint64(_MAX_NESTING):
                return -1
            is_open = byte_at(at) != byte + 2  # the bracket that closes
        else:
            at = _scalar(at, end)
            if at < 0 or open_brackets == one:
                return at
            at = space(at, end)
        while not is_open:
            if at >= end:
                return -1
            byte = byte_at(at)
            is_open = byte == 44
            if not is_open:
                if byte != (125 if open_brackets & one else 93):
                    return -1
                open_brackets >>= one
                if open_brackets == one:
                    return at + 1
            at = space(at + 1, end)
        if open_brackets & one:
            if at >= end or byte_at(at) != 34:
                return -1
            at = value_place(quote(at + 1, end), end)
            if at < 0:
                return -1
    return -1
