"""Parses ticks from JSON in place, without an object a tick; what it takes, it takes exactly.

A plan says which keys lead to which fields: those of the native format, or those of a user's map. Records of one
producer differ in their values only, so the first of a kind is read by the rules of JSON and its layout is kept: the
bytes between the values. What follows is compared with those bytes, 8 at a time, and only its values are read.

It knows one plain way to write a tick: ASCII without escapes, no known field twice, a symbol it knows. Whatever else
it meets it leaves to the exact decoder, record by record, so that only one place judges what is wrong.

Shapes: N records, S slots of the hash table, M symbols, O objects, K keys, L layouts, 11 fields.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from data_io.topics.json_scan import (
    FALS,
    LOW_32,
    LOW_40,
    LOW_48,
    LOW_56,
    NULL,
    SLACK,
    SPACES,
    TRUE,
    byte_at,
    decimal,
    inlined,
    integer,
    kernel,
    load,
    low,
    outermost,
    packed,
    quote,
    skip,
    space,
    value_place,
)
from data_io.topics.record_walk import Places
from data_io.topics.tick_json import MAX_VALUE_BYTES
from data_io.topics.tick_rules import MAX_SYMBOL_BYTES
from ml_core.types import Bool, Int8, Int32, Int64, UInt8

# Numbers of the fields; those below 6 are bits of a float64.
PRICE, SIZE, BID, ASK, BID_SIZE, ASK_SIZE, TYPE, SYMBOL, TS, SIDE, SEQ = range(11)
_MAKER, _SKIP = 11, 12  # further kinds of values: whether the buyer was the maker, and what nobody asked for
FIRST_OBJECT = 16  # of what a key leads to: fields below, objects from here on
MAX_KEYS = 62  # one bit of an int64 a key
# Bounds the search for a symbol when someone sends symbols with colliding hashes; those are left to the exact decoder.
MAX_PROBES = 64
# A producer writes a few kinds of messages; one that mixes more pays for reading each by the rules.
LAYOUTS = 8
LAYOUT_BYTES, LAYOUT_VALUES = 2048, 64  # of one layout; a longer one is read by the rules every time

_TRADE, _QUOTE, _BUY, _SELL = map(packed, ('"trade"', '"quote"', '"buy"', '"sell"'))
_HASH_PRIME = np.uint64(0x9E3779B97F4A7C15)
_OF_A_TRADE, _OF_A_QUOTE = 1 << PRICE | 1 << SIZE, 1 << BID | 1 << ASK | 1 << BID_SIZE | 1 << ASK_SIZE
_NAN_BITS = np.array([np.nan]).view(np.int64)[0]


class SymbolArrays(NamedTuple):
    """A hash table from the bytes of a symbol to its index, with open addressing."""

    slot_S: Int32  # index of a symbol, -1: free; S is a power of two
    text: UInt8  # the bytes of all symbols, each from a multiple of 8 on and with a 0 behind it at least
    text_at_M: Int64  # where the bytes of a symbol begin
    text_len_M: Int32  # 0: this symbol is not in the table


class Plan(NamedTuple):
    """Where the fields of a tick lie; object 0 is the outermost."""

    first_key_O: Int64  # and one more: the keys of object o are first_key_O[o] to first_key_O[o + 1]
    parent_O: Int64
    text: UInt8  # the keys, one after the other
    text_at_K: Int64
    text_len_K: Int64
    leads_to_K: Int64  # a field, or FIRST_OBJECT + an object
    given: int  # a bit a field: it has a key, so a tick of its kind must have it
    ts_unit: int  # ns
    ts_most: int  # units, of the last time that is taken
    is_lenient: bool  # numbers may be text, a side may have any case
    is_maker: bool  # the field of the side says whether the buyer was the maker
    symbol_is_key: bool  # of the record


class Parsed(NamedTuple):
    """Ticks as the kernel has read them: those it has taken fill the first places, in order."""

    taken_N: Bool  # by record; False: left to the exact decoder
    offset_N: Int64
    kind_N: Int8
    symbol_N: Int32
    ts_ns_N: Int64
    side_N: Int8
    seq_N: Int64
    bits_FN: Int64  # [field, record], of the float64 of the fields below 6
    left_1: Int64  # how many were left to the exact decoder


class Layouts(NamedTuple):
    """The layouts met so far through one plan; whoever holds them parses in one thread at a time."""

    text_LC: UInt8  # the bytes between the values, each piece filled up to a multiple of 8
    step_LV: Int64  # a piece's length and the kind of the value behind it: length * 16 + kind
    count_L: Int64  # pieces; 0: no layout
    seen_L: Int64  # a bit a field
    kind_L: Int64  # trade or quote
    turn_3: Int64  # layouts: of the last tick, of the last one written otherwise; and where to learn the next


@inlined
def _side(at: int, end: int, is_lenient: bool) -> Any:
    """Return a side and the place behind it (-1: none)."""
    byte = byte_at(at)
    if 48 <= byte <= 49:
        return byte - 48, at + 1
    if byte == 45:
        return -1, (at + 2 if byte_at(at + 1) == 49 else -1)
    word = load(at)
    if is_lenient:
        word |= SPACES  # lower case; a quote is unchanged, and of all bytes only letters become letters
    if word & LOW_40 == _BUY and byte_at(at + 4) == 34 == byte:
        return 1, at + 5
    return -1, (at + 6 if word & LOW_48 == _SELL and byte_at(at + 5) == 34 == byte else -1)


@inlined
def _hash(at: int, length: int) -> Any:
    value = _HASH_PRIME
    while length > 0:
        value = (value ^ low(load(at), min(length, 8))) * _HASH_PRIME
        value ^= value >> numba.uint64(32)
        at, length = at + 8, length - 8
    return value * _HASH_PRIME >> numba.uint64(32)


@inlined
def _find_symbol(at: int, length: int, symbols: Any) -> Any:
    """Return the index of the symbol that stands at ``at``; -1 where it is not in the table."""
    last = symbols.slot_S.shape[0] - 1
    place = numba.int64(_hash(at, length) & numba.uint64(last))
    for _ in range(MAX_PROBES):
        index = numba.int64(symbols.slot_S[place])
        if index < 0:
            return -1
        text_at = symbols.text.ctypes.data + symbols.text_at_M[index]
        if symbols.text_len_M[index] == length and _is_equal(at, text_at, length):
            return index
        place = (place + 1) & last
    return -1


@inlined
def _is_equal(at: int, text_at: int, length: int) -> Any:
    """Return whether ``length`` bytes, at least one, are equal."""
    while length > 8:
        if load(at) != load(text_at):
            return False
        at, text_at, length = at + 8, text_at + 8, length - 8
    return low(load(at) ^ load(text_at), length) == numba.uint64(0)


@outermost
def insert(symbols: Any, first: int) -> None:
    """Put the symbols from ``first`` on into their slots; one that finds no slot within MAX_PROBES stays out."""
    last = symbols.slot_S.shape[0] - 1
    for index in range(first, symbols.text_at_M.shape[0]):
        length = numba.int64(symbols.text_len_M[index])
        place = numba.int64(_hash(symbols.text.ctypes.data + symbols.text_at_M[index], length) & numba.uint64(last))
        for _ in range(MAX_PROBES):
            if length == 0:
                break
            if symbols.slot_S[place] < 0:
                symbols.slot_S[place] = index
                break
            place = (place + 1) & last


@inlined
def _value(kind: int, at: int, end: int, plan: Any, symbols: Any, value_F: Any) -> Any:
    """Read a value of ``kind`` into ``value_F``; return the place behind it, -1 where it is not plain.

    Text is read between its quotes, but for a side. A symbol that is not in the table becomes -1.
    """
    if kind < 6:
        value_F[kind], at = decimal(at, end)
    elif kind == _SKIP:
        at = skip(at, end)
    elif kind == SYMBOL:
        start = at
        at = quote(at, end)
        value_F[SYMBOL] = _find_symbol(start, at - start, symbols) if 0 < at - start <= MAX_SYMBOL_BYTES else -1
    elif kind == TS:
        value, at = integer(at, end)
        value_F[TS] = value * plan.ts_unit if value <= plan.ts_most else 0
    elif kind == SEQ:
        value_F[SEQ], at = integer(at, end)
    elif kind == SIDE:
        value_F[SIDE], at = _side(at, end, plan.is_lenient)
    else:
        word = load(at) & LOW_32  # the buyer was the maker, so the seller took
        is_maker = word == TRUE
        value_F[SIDE] = -1 if is_maker else 1
        at = at + 4 if is_maker else (at + 5 if word == FALS and byte_at(at + 4) == 101 else -1)
    return at


@inlined
def _follow(at: int, end: int, layout: int, layouts: Any, plan: Any, symbols: Any, value_F: Any) -> Any:
    """Read the values of an object if it is written as ``layout``; return whether it is."""
    text_at = layouts.text_LC.ctypes.data + layout * LAYOUT_BYTES
    last = layouts.count_L[layout] - 1
    for i in range(last + 1):
        step = layouts.step_LV[layout, i]
        length = step >> 4
        if length > end - at or not _is_equal(at, text_at, length):
            return False
        at += length
        text_at += length + 7 & -8
        if i < last:
            at = _value(step & 15, at, end, plan, symbols, value_F)
            if at < 0:
                return False
    return at == end


@kernel
def _keep(layouts: Any, layout: int, pieces: int, used: int, at: int, behind: int, kind: int) -> int:
    """Append the text of ``[at, behind)`` to a layout; return its length so far, LAYOUT_BYTES where it is full."""
    length = behind - at
    if pieces >= LAYOUT_VALUES or used + length + 8 > LAYOUT_BYTES:
        return LAYOUT_BYTES
    for i in range(length):
        layouts.text_LC[layout, used + i] = byte_at(at + i)
    layouts.step_LV[layout, pieces] = length << 4 | kind
    return used + (length + 7 & -8)


@kernel
def _key(at: int, length: int, parent: int, plan: Any) -> int:
    """Return the number of the key ``[at, at + length)`` of an object; -1 where no field is found through it."""
    for k in range(plan.first_key_O[parent], plan.first_key_O[parent + 1]):
        if plan.text_len_K[k] == length and _is_equal(at, plan.text.ctypes.data + plan.text_at_K[k], length):
            return k
    return -1


@kernel
def _is_null(at: int) -> Any:
    return load(at) & LOW_32 == NULL


@kernel
def _learn(at: int, end: int, layout: int, layouts: Any, plan: Any, symbols: Any, value_F: Any) -> Any:  # noqa: PLR0911, PLR0912, PLR0915 - one loop, without recursion
    """Read an object by the rules of JSON and keep its layout; return whether all of it is plain."""
    piece_at = at
    layouts.count_L[layout] = 0
    pieces, used, parent = 0, 0, 0
    seen, met, tick_kind = 0, 0, -1
    at = space(at, end)
    if at >= end or byte_at(at) != 123:
        return False
    is_first = True
    while parent >= 0:
        at = space(at + is_first, end)
        if at >= end:
            return False
        byte = byte_at(at)
        if byte == 125:
            at += 1
            parent = plan.parent_O[parent]
            is_first = False
            continue
        if not is_first:
            if byte != 44:
                return False
            at = space(at + 1, end)
            if at >= end:
                return False
            byte = byte_at(at)
        is_first = False
        if byte != 34:
            return False
        key_at = at + 1
        at = quote(key_at, end)
        k = _key(key_at, at - key_at, parent, plan)
        at = value_place(at, end)
        if at < 0:
            return False
        kind = _SKIP
        if k >= 0:
            if met >> k & 1:
                return False
            met |= 1 << k
            kind = plan.leads_to_K[k]
        byte = byte_at(at)
        if kind >= FIRST_OBJECT:
            if byte != 123:
                return False
            parent, is_first = kind - FIRST_OBJECT, True
            continue
        if kind == TYPE:
            word = load(at)
            if word & LOW_56 != _TRADE and word & LOW_56 != _QUOTE:
                return False
            tick_kind = numba.int64(word & LOW_56 == _QUOTE)
            at += 7
            seen |= 1 << TYPE
            continue
        if kind not in (_SKIP, SYMBOL) and _is_null(at) and (plan.is_lenient or kind in (SIDE, SEQ)):
            at += 4
            continue
        is_text = byte == 34 and kind not in (_SKIP, SIDE)
        if (is_text and kind != SYMBOL and not plan.is_lenient) or (kind == SYMBOL and not is_text):
            return False
        at += is_text
        if kind != _SKIP:
            seen |= 1 << kind
        if kind == SIDE and plan.is_maker:
            kind = _MAKER
        used = _keep(layouts, layout, pieces, used, piece_at, at, kind)
        pieces += 1
        piece_at = at = _value(kind, at, end, plan, symbols, value_F)
        if at < 0 or at >= end:
            return False
        if is_text:
            if byte_at(at) != 34:
                return False
            at += 1
    if space(at, end) != end:
        return False
    used = _keep(layouts, layout, pieces, used, piece_at, end, 0)
    layouts.count_L[layout] = pieces + 1 if used < LAYOUT_BYTES else 0
    return _note_kind(layouts, layout, seen, tick_kind, plan)


@kernel
def _note_kind(layouts: Any, layout: int, seen: int, tick_kind: int, plan: Any) -> Any:
    """Note which fields a layout has and which kind of tick they make; return whether they make one."""
    given = plan.given
    if not given >> TYPE & 1:
        is_quote = seen >> BID & seen >> ASK & 1
        if not is_quote and not seen >> PRICE & seen >> SIZE & 1:
            is_quote = not given >> PRICE & 1
        tick_kind = numba.int64(is_quote)
    needed = given & (1 << TS | 1 << SYMBOL)
    needed |= given & (_OF_A_TRADE if tick_kind == 0 else _OF_A_QUOTE)
    layouts.seen_L[layout], layouts.kind_L[layout] = seen, tick_kind
    return tick_kind >= 0 and seen & needed == needed


@kernel
def _next_spare(spare: int, recent: int, other: int, layouts: Any) -> int:
    """Return where to learn the next layout: a free place, or else that of one that is not in use now.

    What cannot be read spoils the place where that was tried.
    """
    found = -1
    for i in range(1, LAYOUTS):
        layout = (spare + i) % LAYOUTS
        if layouts.count_L[layout] == 0:
            return layout
        if found < 0 and layout not in (recent, other):
            found = layout
    return found


@inlined
def _take(n: int, layout: int, layouts: Any, value_F: Any, out: Any) -> Any:
    """Write the values of a tick as row ``n``; return whether they are valid."""
    seen, kind = layouts.seen_L[layout], layouts.kind_L[layout]
    applies = seen & (_OF_A_TRADE if kind == 0 else _OF_A_QUOTE)
    is_valid = value_F[SYMBOL] >= 0 and value_F[TS] > 0
    for field in range(6):
        bits = value_F[field] if applies >> field & 1 else _NAN_BITS
        is_valid &= bits != 0  # 0 stands for 0 and for what is not certain
        out.bits_FN[field, n] = bits
    if applies >> BID & applies >> ASK & 1:
        is_valid &= value_F[ASK] >= value_F[BID]  # positive floats are ordered as their bits are
    out.kind_N[n] = kind
    out.symbol_N[n] = value_F[SYMBOL]
    out.ts_ns_N[n] = value_F[TS]
    out.side_N[n] = value_F[SIDE] if kind == 0 and seen >> SIDE & 1 else 0
    out.seq_N[n] = value_F[SEQ] if seen >> SEQ & 1 else -1
    return is_valid


@outermost
def _parse(whole: Any, tail: Any, places: Any, plan: Any, symbols: Any, layouts: Any, value_F: Any, out: Any) -> None:
    address = numba.int64(whole.ctypes.data)
    recent, other, spare = layouts.turn_3[0], layouts.turn_3[1], layouts.turn_3[2]
    total, row = places.value_at_N.shape[0], 0
    for n in range(total):
        out.taken_N[n] = False
        length = places.value_len_N[n]
        if places.typed_N[n] or length <= 0 or length > MAX_VALUE_BYTES:
            continue
        if n == total - 1:
            address = numba.int64(tail.ctypes.data) - (whole.shape[0] + SLACK - tail.shape[0])
        at = address + places.value_at_N[n]
        layout = -1
        for i in range(-2, LAYOUTS):
            tried = i if i >= 0 else (recent if i == -2 else other)
            if layouts.count_L[tried] and _follow(at, at + length, tried, layouts, plan, symbols, value_F):
                layout = tried
                break
        if layout < 0:
            if not _learn(at, at + length, spare, layouts, plan, symbols, value_F):
                layouts.count_L[spare] = 0
                continue
            layout = spare
            if layouts.count_L[spare]:
                spare = _next_spare(spare, recent, other, layouts)
        if plan.symbol_is_key:
            key_len = places.key_len_N[n]
            known = 0 < key_len <= MAX_SYMBOL_BYTES
            value_F[SYMBOL] = _find_symbol(address + places.key_at_N[n], key_len, symbols) if known else -1
        is_taken = _take(row, layout, layouts, value_F, out)
        out.taken_N[n], out.offset_N[row] = is_taken, places.offset_N[n]
        row += is_taken
        if is_taken and layout != recent:
            recent, other = layout, recent
    layouts.turn_3[0], layouts.turn_3[1], layouts.turn_3[2] = recent, other, spare
    out.left_1[0] = total - row


def _with_slack(data: bytes | memoryview) -> UInt8:
    return np.frombuffer(bytes(data) + bytes(SLACK), np.uint8)


def no_layouts() -> Layouts:
    """Return room for the layouts that are to be met."""
    return Layouts(
        np.empty((LAYOUTS, LAYOUT_BYTES), np.uint8), np.empty((LAYOUTS, LAYOUT_VALUES), np.int64),
        np.zeros(LAYOUTS, np.int64), np.zeros(LAYOUTS, np.int64), np.zeros(LAYOUTS, np.int64), np.zeros(3, np.int64),
    )  # fmt: skip


def parse(
    data: bytes | memoryview, places: Places, plan: Plan, symbols: SymbolArrays, layouts: Layouts | None = None
) -> Parsed:
    """Return the ticks in the values of the records at ``places`` of ``data``; ``layouts`` are those of ``plan``."""
    n = len(places.offset_N)
    out = Parsed(
        np.empty(n, np.bool_), np.empty(n, np.int64), np.empty(n, np.int8), np.empty(n, np.int32),
        np.empty(n, np.int64), np.empty(n, np.int8), np.empty(n, np.int64), np.empty((6, n), np.int64),
        np.empty(1, np.int64),
    )  # fmt: skip
    whole = np.frombuffer(data, np.uint8)
    # A load could reach past the end of the data only from the last record, which is copied: behind the value of any
    # other one lie its count of headers and a record, which has 7 bytes at least.
    tail = _with_slack(data[min(places.key_at_N[-1], places.value_at_N[-1]) :] if n else b"")
    whole.flags.writeable = tail.flags.writeable = False  # one type, so that the kernel is compiled once
    _parse(whole, tail, places, plan, symbols, layouts or no_layouts(), np.zeros(SEQ + 1, np.int64), out)
    return out
