"""The rules of a tick on the columns of an Arrow batch, as one pass over its rows.

Shapes: N rows, W known texts, T bytes of text.
"""

from typing import Any

import numpy as np

from data_io.topics.json_scan import outermost
from data_io.topics.tick_rules import QUOTE, TRADE

WRONG = 9  # neither a kind nor a side


def packed(text: str) -> int:
    """Return a text of up to 7 bytes and its length as one number.

    >>> hex(packed("buy"))
    '0x3627579'
    """
    return int.from_bytes(bytes([len(text), *text.encode()]), "big")


@outermost
def code_texts(offset_N1: Any, text_T: Any, known_W: Any, code_W: Any, code_N: Any) -> None:
    """Write what each text stands for; WRONG where it is none of the known ones."""
    for n in range(code_N.shape[0]):
        first, behind = offset_N1[n], offset_N1[n + 1]
        code_N[n] = WRONG
        if behind - first < 8:
            word = np.uint64(behind - first)
            for i in range(first, behind):
                word = word << np.uint64(8) | np.uint64(text_T[i])
            for w in range(known_W.shape[0]):
                if word == known_W[w]:
                    code_N[n] = code_W[w]


@outermost
def check_rows(rows: Any, is_valid_N: Any) -> bool:
    """Write which rows are valid but for their symbol, and clear what does not apply; return whether all are."""
    all_valid = True
    for n in range(is_valid_N.shape[0]):
        kind, side = rows.kind_N[n], rows.side_N[n]
        price, size, bid, ask = rows.price_N[n], rows.size_N[n], rows.bid_N[n], rows.ask_N[n]
        bid_size, ask_size = rows.bid_size_N[n], rows.ask_size_N[n]
        is_valid = rows.name_N[n] >= 0 and rows.ts_ns_N[n] > 0 and rows.seq_N[n] >= -1
        if kind == TRADE:
            is_valid &= 0 < price < np.inf and 0 < size < np.inf and side != WRONG
            bid = ask = bid_size = ask_size = np.nan
        else:
            is_valid &= kind == QUOTE and 0 < bid <= ask < np.inf and 0 < bid_size < np.inf and 0 < ask_size < np.inf
            price = size = np.nan
            side = 0
        is_valid_N[n] = is_valid
        all_valid &= is_valid
        rows.side_N[n], rows.price_N[n], rows.size_N[n], rows.bid_N[n] = side, price, size, bid
        rows.ask_N[n], rows.bid_size_N[n], rows.ask_size_N[n] = ask, bid_size, ask_size
    return all_valid
