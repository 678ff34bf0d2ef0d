"""Reads the texts of an Arrow column where they lie: as codes of known words, and as indices into their distinct names.

Nothing here trusts an offset. What is not one of the known words is not known to be UTF-8 either.
Shapes: N rows, W known words, T bytes of text, D names, S slots of a hash table.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from data_io.topics.arrow_reads import int32_at, is_null
from data_io.topics.json_scan import SLACK, inlined, load, outermost
from data_io.topics.tick_rules import MAX_SYMBOL_BYTES
from ml_core.types import UInt8

WRONG = 9  # neither a kind nor a side
# Bounds the search for a name when someone sends names with colliding hashes.
_MAX_PROBES = 64
_HASH_PRIME = np.uint64(0x9E3779B97F4A7C15)


class Texts(NamedTuple):
    """A column of texts."""

    offsets_at: int  # address of one int32 more than there are rows
    bits_at: int  # address of a bit a row, 0 where it is null; address 0: no row is null
    text_T: UInt8  # with SLACK bytes behind it


def packed(word: str) -> int:
    """Return a text of up to 7 bytes and its length as one number.

    >>> hex(packed("buy"))
    '0x300000000797562'
    """
    text = word.encode()
    return int.from_bytes(text, "little") | len(text) << 56


@inlined
def _low(word: Any, count: int) -> Any:
    """Return the first ``count`` bytes of a word, 0 to 8."""
    return word if count >= 8 else word & (numba.uint64(1) << numba.uint64(8 * count)) - numba.uint64(1)


@inlined
def _is_equal(at: int, other_at: int, length: int) -> Any:
    while length > 8:
        if load(at) != load(other_at):
            return False
        at, other_at, length = at + 8, other_at + 8, length - 8
    return _low(load(at) ^ load(other_at), length) == numba.uint64(0)


@outermost
def code_texts(texts: Any, known_W: Any, code_W: Any, none: int, code_N: Any) -> int:
    """Write what each text stands for, ``none`` for null and WRONG for what is none of the known.

    Returns:
        How many are null; -1 where a text is none of the known or lies outside of the column.
    """
    nulls, is_known = 0, True
    text_at, size = numba.int64(texts.text_T.ctypes.data), texts.text_T.shape[0] - SLACK
    behind = int32_at(texts.offsets_at)
    for n in range(code_N.shape[0]):
        first, behind = behind, int32_at(texts.offsets_at + 4 * n + 4)
        code, length = WRONG, behind - first
        is_inside = 0 <= first <= behind <= size
        if is_null(texts.bits_at, n):
            code = none
            nulls += 1
            is_known &= is_inside
        elif is_inside and length < 8:
            word = _low(load(text_at + first), length) | numba.uint64(length) << numba.uint64(56)
            for w in range(known_W.shape[0]):
                if word == known_W[w]:
                    code = code_W[w]
        code_N[n] = code
        is_known &= code != WRONG
    return nulls if is_known else -1


@outermost
def index_texts(texts: Any, slot_S: Any, place_2D: Any, name_N: Any) -> tuple[int, int]:
    """Write the number of the name of each row, by the order of their first rows; -1 for null.

    Args:
        texts: The column.
        slot_S: Room for a power of two of slots, at least twice the rows; all -1.
        place_2D: Room for a name a row: where in the text it begins and ends.
        name_N: Room for the numbers.

    Returns:
        How many names there are and how many rows are null; -1 and 0 where a text lies outside of the column, is
        longer than a symbol or finds no slot.
    """
    count, nulls, last = 0, 0, slot_S.shape[0] - 1
    text_at, size = numba.int64(texts.text_T.ctypes.data), texts.text_T.shape[0] - SLACK
    behind = int32_at(texts.offsets_at)
    for n in range(name_N.shape[0]):
        first, behind = behind, int32_at(texts.offsets_at + 4 * n + 4)
        if not 0 <= first <= behind <= size:
            return -1, 0
        if is_null(texts.bits_at, n):
            name_N[n] = -1
            nulls += 1
            continue
        length, at = behind - first, text_at + first
        if length > MAX_SYMBOL_BYTES:
            return -1, 0
        value, place = _HASH_PRIME, 0
        while place < length:
            value = (value ^ _low(load(at + place), length - place)) * _HASH_PRIME
            value ^= value >> numba.uint64(32)
            place += 8
        place = numba.int64((value * _HASH_PRIME >> numba.uint64(32)) & numba.uint64(last))
        name = -1
        for _ in range(_MAX_PROBES):
            found = numba.int64(slot_S[place])
            if found < 0:
                name = count
                slot_S[place] = count
                place_2D[0, count], place_2D[1, count] = first, behind
                count += 1
                break
            found_at = place_2D[0, found]
            if place_2D[1, found] - found_at == length and _is_equal(at, text_at + found_at, length):
                name = found
                break
            place = (place + 1) & last
        if name < 0:
            return -1, 0
        name_N[n] = name
    return count, nulls
