"""The rules of a tick on the columns of an Arrow batch, as one pass over its rows.

Shapes: N rows, D names, C columns of numbers.
"""

from typing import Any

import numba
import numpy as np

from data_io.topics.arrow_reads import float64_at, int64_at, is_null
from data_io.topics.arrow_texts import WRONG
from data_io.topics.json_scan import inlined, load, outermost
from data_io.topics.tick_rules import QUOTE, TRADE
from ml_core.types import MAX_TS_NS

# The order of the columns of numbers.
FLOATS = ("price", "size", "bid", "ask", "bid_size", "ask_size")
INTEGERS = ("ts", "seq")
_PRICE, _SIZE, _BID, _ASK, _BID_SIZE, _ASK_SIZE, _TS, _SEQ = range(8)

_PAIRS, _FOURS = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
_EIGHTS, _ONES = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)


@inlined
def _nulls(bits_at: int, rows: int) -> Any:
    """Return how many rows are null."""
    found, n = 0, 0
    while bits_at != 0 and n < rows:
        if n + 64 > rows:
            found += is_null(bits_at, n)
            n += 1
            continue
        word = ~load(bits_at + (n >> 3))
        word -= word >> numba.uint64(1) & _PAIRS
        word = (word & _FOURS) + (word >> numba.uint64(2) & _FOURS)
        word = word + (word >> numba.uint64(4)) & _EIGHTS
        found += numba.int64(word * _ONES >> numba.uint64(56))
        n += 64
    return found


@inlined
def _float(at_2C: Any, column: int, n: int) -> Any:
    """Return a number; 0, which breaks a rule too, for null and where there is no column."""
    at = at_2C[0, column]
    return float64_at(at + 8 * n) if at != 0 and not is_null(at_2C[1, column], n) else 0.0


@outermost
def check_rows(
    at_2C: Any, name_N: Any, kind_N: Any, side_N: Any, float_6N: Any, integer_2N: Any, first_D: Any, is_valid_N: Any,
    nulls_C: Any,
) -> bool:  # fmt: skip
    """Copy the numbers, write which rows are valid but for their symbol, and clear what does not apply to a kind.

    Args:
        at_2C: Where the numbers of a column lie, 8 bytes each, and its bits: addresses, 0 for none.
        name_N: Numbers of the names, below 0 for none.
        kind_N: Kinds, or WRONG.
        side_N: Sides, or WRONG; those of quotes become 0.
        float_6N: Room for the numbers of ``FLOATS``.
        integer_2N: Room for those of ``INTEGERS``.
        first_D: All -1; gets the first valid row of each name.
        is_valid_N: Room for which rows are.
        nulls_C: Room for the number of nulls of each column of numbers.

    Returns:
        Whether all rows are valid.
    """
    rows = is_valid_N.shape[0]
    for c in range(nulls_C.shape[0]):
        nulls_C[c] = _nulls(at_2C[1, c], rows)
    ts_at, ts_bits_at, seq_at, seq_bits_at = at_2C[0, _TS], at_2C[1, _TS], at_2C[0, _SEQ], at_2C[1, _SEQ]
    all_valid = True
    for n in range(rows):
        kind, side, name = kind_N[n], side_N[n], name_N[n]
        ts = int64_at(ts_at + 8 * n) if ts_at != 0 and not is_null(ts_bits_at, n) else 0
        is_valid = name >= 0 and 0 < ts <= MAX_TS_NS
        seq = -1
        if seq_at != 0 and not is_null(seq_bits_at, n):
            seq = int64_at(seq_at + 8 * n)
            is_valid &= seq >= 0
        price = size = bid = ask = bid_size = ask_size = np.nan
        if kind == TRADE:
            price, size = _float(at_2C, _PRICE, n), _float(at_2C, _SIZE, n)
            is_valid &= 0 < price < np.inf and 0 < size < np.inf and side != WRONG
        else:
            bid, ask = _float(at_2C, _BID, n), _float(at_2C, _ASK, n)
            bid_size, ask_size = _float(at_2C, _BID_SIZE, n), _float(at_2C, _ASK_SIZE, n)
            is_valid &= kind == QUOTE and 0 < bid <= ask < np.inf and 0 < bid_size < np.inf and 0 < ask_size < np.inf
            side = 0
        side_N[n] = side
        float_6N[_PRICE, n], float_6N[_SIZE, n], float_6N[_BID, n] = price, size, bid
        float_6N[_ASK, n], float_6N[_BID_SIZE, n], float_6N[_ASK_SIZE, n] = ask, bid_size, ask_size
        integer_2N[0, n], integer_2N[1, n] = ts, seq
        is_valid_N[n] = is_valid
        all_valid &= is_valid
        if is_valid and first_D[name] < 0:
            first_D[name] = n
    return all_valid
