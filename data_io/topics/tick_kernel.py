"""Parses ticks of the native JSON format in place, without an object a tick; what it takes, it takes exactly.

It knows one plain way to write a tick: ASCII without escapes, no containers, no field twice, a symbol it knows.
Whatever else it meets it leaves to the exact decoder, record by record, so that only one place judges what is wrong.

The kernels work on addresses: handing an array from one to the next counts references, which costs as much as parsing.
Every read of ``_byte`` stands behind a comparison with the end of the value. All kernels of a call chain stand in one
file, because numba's cache does not notice a change in another one.

Shapes: N records, S slots of the hash table, M symbols, 11 fields.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # ships no types
from numba import types
from numba.extending import intrinsic

from data_io.topics.decimals import LARGEST_POWER, POWERS_OF_FIVE, SMALLEST_POWER
from data_io.topics.record_walk import Places
from data_io.topics.tick_json import MAX_VALUE_BYTES
from data_io.topics.tick_rules import MAX_INT64, MAX_SYMBOL_BYTES
from ml_core.types import Bool, Int32, Int64, UInt8

# Numbers of the fields, which are also the rows of what the kernel fills; those below 6 are bits of a float64.
PRICE, SIZE, BID, ASK, BID_SIZE, ASK_SIZE, TYPE, SYMBOL, TS, SIDE, SEQ = range(11)
_UNKNOWN = 11
_ALWAYS = 1 << TYPE | 1 << SYMBOL | 1 << TS
# Bounds the search for a symbol when someone sends symbols with colliding hashes; those are left to the exact decoder.
MAX_PROBES = 64

_kernel = numba.njit(cache=True, nogil=True)


class SymbolArrays(NamedTuple):
    """A hash table from the bytes of a symbol to its index, with open addressing."""

    slot_S: Int32  # index of a symbol, -1: free; S is a power of two
    text: UInt8  # the bytes of all symbols, one after the other
    text_at_M: Int64  # where the bytes of a symbol begin
    text_len_M: Int32  # 0: this symbol is not in the table


class Parsed(NamedTuple):
    """Ticks as the kernel has read them."""

    taken_N: Bool  # False: left to the exact decoder, and the values mean nothing
    value_FN: Int64  # [field, record]


def parse(data: bytes, places: Places, symbols: SymbolArrays) -> Parsed:
    """Return the ticks in the values of the records at ``places`` of ``data``."""
    n = len(places.offset_N)
    parsed = Parsed(np.empty(n, np.bool_), np.empty((11, n), np.int64))
    address = np.frombuffer(data, np.uint8).ctypes.data if data else 0
    _parse(address, places.value_at_N, places.value_len_N, places.typed_N, symbols, *parsed)
    return parsed


@intrinsic
def _byte(_context: Any, _address: Any) -> Any:
    """Return the byte at an address."""

    def load(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], _BYTE_POINTER))

    return types.uint8(types.int64), load


_BYTE_POINTER = ir.IntType(8).as_pointer()


def _packed(word: str) -> np.uint64:
    return np.uint64(int.from_bytes(word.encode(), "big"))


_NUMBERS = tuple(map(_packed, ("price", "size", "bid", "ask", "bid_size", "ask_size")))
_TYPE, _SYMBOL, _TS, _SIDE, _SEQ = map(_packed, ("type", "symbol", "ts", "side", "seq"))
_TRADE, _QUOTE, _BUY, _SELL = map(_packed, ("trade", "quote", "buy", "sell"))
_TRUE, _FALSE, _NULL = map(_packed, ("true", "false", "null"))
_NAN_BITS = np.array([np.nan]).view(np.int64)[0]
_LOW_32 = np.uint64(0xFFFFFFFF)
_ALL_64 = np.uint64(0xFFFFFFFFFFFFFFFF)
_MANTISSA_TOP = np.uint64(1 << 52)
_FNV_START, _FNV_PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)


@_kernel
def _product(x: Any, y: Any) -> tuple[Any, Any]:
    """Return the high and low 64 bits of a product of two uint64."""
    half = numba.uint64(32)
    x_high, x_low, y_high, y_low = x >> half, x & _LOW_32, y >> half, y & _LOW_32
    low, middle = x_low * y_low, x_high * y_low
    cross = (low >> half) + (middle & _LOW_32) + x_low * y_high
    return x_high * y_high + (middle >> half) + (cross >> half), (cross << half) | (low & _LOW_32)


@_kernel
def _float_bits(digits: Any, power: int) -> Any:
    """Return the bits of the float64 nearest to ``digits * 10 ** power``; 0 where it is 0 or not certain.

    Source: Daniel Lemire, "Number parsing at a gigabyte per second", 2021, https://arxiv.org/abs/2101.11408.
    """
    nothing, one = numba.uint64(0), numba.uint64(1)
    if digits == nothing or power < SMALLEST_POWER or power > LARGEST_POWER:
        return nothing
    zeros = 0  # leading ones
    width = 32
    while width:
        if digits >> numba.uint64(64 - width) == nothing:
            digits <<= numba.uint64(width)
            zeros += width
        width >>= 1
    high, low = _product(digits, POWERS_OF_FIVE[power - SMALLEST_POWER, 0])
    if high & numba.uint64(0x1FF) == numba.uint64(0x1FF):  # the bits below the 55 that count could still carry
        more, _ = _product(digits, POWERS_OF_FIVE[power - SMALLEST_POWER, 1])
        low += more
        if more > low:
            high += one
        if low == _ALL_64:
            return nothing
    top = high >> numba.uint64(63)
    shift = top + numba.uint64(9)
    mantissa = high >> shift
    # 217706 / 2 ** 16 is log2(10) to the precision that this range of powers needs
    exponent = ((217706 * power) >> 16) + 63 + numba.int64(top) - zeros + 1023
    if exponent <= 0 or exponent >= 2046:
        return nothing
    is_tie = low <= one and -4 <= power <= 23 and mantissa & numba.uint64(3) == one and mantissa << shift == high
    if not is_tie:
        mantissa += mantissa & one
    mantissa >>= one
    if mantissa >= _MANTISSA_TOP << one:
        mantissa, exponent = _MANTISSA_TOP, exponent + 1
    return numba.uint64(exponent) << numba.uint64(52) | mantissa & ~_MANTISSA_TOP


@_kernel
def _digits(at: int, end: int, value: Any, count: int) -> tuple[Any, int, int]:
    """Append the digits at ``at`` to ``value``; return it, its digits without leading zeros, and the place behind."""
    zero = numba.uint64(0)
    while at < end and 48 <= _byte(at) <= 57:
        value = value * numba.uint64(10) + numba.uint64(_byte(at) - 48)
        if value != zero:
            count += 1
        at += 1
    return value, count, at


@_kernel
def _decimal(at: int, end: int) -> tuple[Any, int]:
    """Return the bits of a JSON number without a sign (0: not certain) and the place behind it (-1: none)."""
    zero = numba.uint64(0)
    start = at
    value, count, at = _digits(at, end, zero, 0)
    if at == start or (_byte(start) == 48 and at > start + 1):
        return zero, -1
    power = 0
    if at < end and _byte(at) == 46:
        start = at + 1
        value, count, at = _digits(start, end, value, count)
        power = start - at
        if power == 0:
            return zero, -1
    if at < end and (_byte(at) | 32) == 101:  # e
        at += 1
        sign = 1
        if at < end and (_byte(at) == 43 or _byte(at) == 45):
            sign = 44 - numba.int64(_byte(at))
            at += 1
        start = at
        exponent, _, at = _digits(at, end, zero, 0)
        if at == start or at > start + 4:
            return zero, -1
        power += sign * numba.int64(exponent)
    # 19 digits fit 64 bits
    return (_float_bits(value, power) if count <= 19 else zero), at


@_kernel
def _integer(at: int, end: int) -> Any:
    """Return an integer of ``[0, 2**63)`` and the place behind it; place -1 where there is none."""
    start = at
    value, count, at = _digits(at, end, numba.uint64(0), 0)
    if at == start or (_byte(start) == 48 and at > start + 1) or count > 19 or value > numba.uint64(MAX_INT64):
        return 0, -1
    return numba.int64(value), at


@_kernel
def _space(at: int, end: int) -> int:
    while at < end and (_byte(at) == 32 or _byte(at) == 10 or _byte(at) == 13 or _byte(at) == 9):
        at += 1
    return at


@_kernel
def _word(at: int, end: int) -> tuple[Any, int]:
    """Return a string packed into 64 bits (0: more than 8 bytes) and the place behind its quote (-1: not plain)."""
    packed, start = numba.uint64(0), at
    while at < end:
        byte = _byte(at)
        if byte == 34:
            return (packed if at - start <= 8 else numba.uint64(0)), at + 1
        if byte < 32 or byte > 126 or byte == 92:
            break
        packed = packed << numba.uint64(8) | numba.uint64(byte)
        at += 1
    return numba.uint64(0), -1


@_kernel
def _literal(at: int, end: int) -> tuple[Any, int]:
    """Return lower-case letters packed into 64 bits and the place behind them."""
    packed, start = numba.uint64(0), at
    while at < end and 97 <= _byte(at) <= 122 and at - start < 8:
        packed = packed << numba.uint64(8) | numba.uint64(_byte(at))
        at += 1
    return packed, at


@_kernel
def _skip(at: int, end: int) -> int:
    """Return the place behind a value that nobody asked for; -1 where it is no plain scalar."""
    if _byte(at) == 34:
        _, behind = _word(at + 1, end)
        return int(behind)
    packed, behind = _literal(at, end)
    if packed in (_TRUE, _FALSE, _NULL):
        return int(behind)
    if _byte(at) == 45:
        at += 1
    start = at
    _, _, at = _digits(at, end, numba.uint64(0), 0)
    if at == start or (_byte(start) == 48 and at > start + 1):
        return -1
    if at < end and _byte(at) == 46:
        start = at + 1
        _, _, at = _digits(start, end, numba.uint64(0), 0)
        if at == start:
            return -1
    return at


@_kernel
def _side(at: int, end: int) -> Any:
    """Return a side and the place behind it (-1: none)."""
    byte = _byte(at)
    if byte == 34:
        word, at = _word(at + 1, end)
        if word == _BUY:
            return 1, at
        return -1, (at if word == _SELL else -1)
    if 48 <= byte <= 49:
        return byte - 48, at + 1
    if byte == 45 and at + 1 < end and _byte(at + 1) == 49:
        return -1, at + 2
    word, at = _literal(at, end)
    return 0, (at if word == _NULL else -1)


@_kernel
def _hash(at: int, end: int) -> Any:
    value = _FNV_START
    for i in range(at, end):
        value = (value ^ numba.uint64(_byte(i))) * _FNV_PRIME
    return value ^ value >> numba.uint64(32)


@_kernel
def _is_equal(at: int, other: int, length: int) -> bool:
    for i in range(length):  # noqa: SIM110 - compiled without generators
        if _byte(at + i) != _byte(other + i):
            return False
    return True


@_kernel
def _find_symbol(at: int, end: int, symbols: Any) -> int:
    """Return the index of the symbol that is the bytes ``[at, end)``; -1 where it is not in the table."""
    last = symbols.slot_S.shape[0] - 1
    place = numba.int64(_hash(at, end) & numba.uint64(last))
    for _ in range(MAX_PROBES):
        index = symbols.slot_S[place]
        if index < 0:
            return -1
        text_at = symbols.text.ctypes.data + symbols.text_at_M[index]
        if symbols.text_len_M[index] == end - at and _is_equal(at, text_at, end - at):
            return int(index)
        place = (place + 1) & last
    return -1


@_kernel
def insert(symbols: Any, first: int) -> None:
    """Put the symbols from ``first`` on into their slots; one that finds no slot within MAX_PROBES stays out."""
    last = symbols.slot_S.shape[0] - 1
    for index in range(first, symbols.text_at_M.shape[0]):
        at, length = symbols.text.ctypes.data + symbols.text_at_M[index], symbols.text_len_M[index]
        place = numba.int64(_hash(at, at + length) & numba.uint64(last))
        for _ in range(MAX_PROBES):
            if length == 0:
                break
            if symbols.slot_S[place] < 0:
                symbols.slot_S[place] = index
                break
            place = (place + 1) & last


@_kernel
def _field(key: Any) -> int:
    """Return the number of the field that is called ``key``."""
    for i in range(6):
        if key == _NUMBERS[i]:
            return i
    if key == _TYPE:
        return TYPE
    if key == _SYMBOL:
        return SYMBOL
    if key == _TS:
        return TS
    if key == _SIDE:
        return SIDE
    return SEQ if key == _SEQ else _UNKNOWN


@_kernel
def _value_place(at: int, end: int) -> int:
    """Return where the value behind a key begins; -1 where there is no colon or no value."""
    if at < 0:
        return -1
    at = _space(at, end)
    if at >= end or _byte(at) != 58:
        return -1
    at = _space(at + 1, end)
    return at if at < end else -1


@_kernel
def _value(field: int, at: int, end: int) -> Any:  # noqa: PLR0911 - one a kind of value
    """Return the value of ``field`` and the place behind it (-1: not plain); of a symbol its length."""
    if field < 6:
        bits, at = _decimal(at, end)
        return numba.int64(bits), at
    if field == TS:
        return _integer(at, end)
    if field == SIDE:
        return _side(at, end)
    if field == SEQ:
        word, behind = _literal(at, end)
        return (-1, behind) if word == _NULL else _integer(at, end)
    if field == _UNKNOWN:
        return 0, _skip(at, end)
    if _byte(at) != 34:
        return 0, -1
    word, behind = _word(at + 1, end)
    if field == SYMBOL:
        return behind - at - 2, behind
    return (0 if word == _TRADE else (1 if word == _QUOTE else -1)), behind


@_kernel
def _fields(at: int, end: int, value_FN: Any, n: int) -> tuple[int, int]:
    """Read the fields of the object in ``[at, end)`` into column ``n``.

    Returns:
        A set of bits, one a field, or -1 where the object is not plain; and where the symbol stands.
    """
    at = _space(at, end)
    if at >= end or _byte(at) != 123:
        return -1, 0
    seen, symbol_at, byte = 0, 0, 44
    while byte == 44:
        at = _space(at + 1, end)
        if at >= end or _byte(at) != 34:
            return -1, 0
        key, at = _word(at + 1, end)
        at = _value_place(at, end)
        if at < 0:
            return -1, 0
        field = _field(key)
        if field == SYMBOL:
            symbol_at = at + 1
        value, at = _value(field, at, end)
        if at < 0 or (field != _UNKNOWN and seen >> field & 1):
            return -1, 0
        if field != _UNKNOWN:
            value_FN[field, n] = value
        seen |= 1 << field
        at = _space(at, end)
        if at >= end:
            return -1, 0
        byte = _byte(at)
    return (seen if byte == 125 and _space(at + 1, end) == end else -1), symbol_at


@_kernel
def _is_valid(value_FN: Any, n: int) -> bool:
    """Return whether column ``n`` is a valid tick but for its symbol; what does not apply to its kind is cleared."""
    kind = value_FN[TYPE, n]
    if kind < 0 or value_FN[TS, n] <= 0:
        return False
    first, behind = (PRICE, BID) if kind == 0 else (BID, TYPE)
    for field in range(6):
        if field < first or field >= behind:
            value_FN[field, n] = _NAN_BITS
        elif value_FN[field, n] == 0:
            return False
    if kind == 0:
        return True
    value_FN[SIDE, n] = 0
    # Positive floats are ordered as their bits are.
    return bool(value_FN[ASK, n] >= value_FN[BID, n])


@_kernel
def _parse(address: int, at_N: Any, length_N: Any, typed_N: Any, symbols: Any, taken_N: Any, value_FN: Any) -> None:
    for n in range(at_N.shape[0]):
        taken_N[n] = False
        length = length_N[n]
        if typed_N[n] or length <= 0 or length > MAX_VALUE_BYTES:
            continue
        for field in range(6):
            value_FN[field, n] = 0
        value_FN[SIDE, n], value_FN[SEQ, n] = 0, -1
        at = address + at_N[n]
        seen, symbol_at = _fields(at, at + length, value_FN, n)
        if seen < 0 or seen & _ALWAYS != _ALWAYS or not _is_valid(value_FN, n):
            continue
        length = value_FN[SYMBOL, n]
        if 0 < length <= MAX_SYMBOL_BYTES:
            value_FN[SYMBOL, n] = _find_symbol(symbol_at, symbol_at + length, symbols)
            taken_N[n] = value_FN[SYMBOL, n] >= 0
