"""The symbols of a partition as arrays that the tick kernel can search."""

import numpy as np

from data_io.topics.tick_kernel import SymbolArrays, insert
from data_io.topics.tick_rules import MAX_SYMBOL_BYTES
from ml_core.types import SymbolTable

_FEWEST_SLOTS = 1024


class SymbolIndex:
    """Follows one ``SymbolTable`` as it grows."""

    def __init__(self) -> None:
        """Start without symbols."""
        self._arrays = _empty(_FEWEST_SLOTS)

    def follow(self, symbols: SymbolTable) -> SymbolArrays:
        """Return the arrays, after adding what is new in ``symbols``; they are good until the next call."""
        known, total = len(self._arrays.text_at_M), len(symbols)
        if known == total:
            return self._arrays
        new = [_plain(name) for name in symbols.names[known:]]
        old = self._arrays
        length_M = np.concatenate([old.text_len_M, np.array([len(text) for text in new], np.int32)])
        room_M = -(-length_M.astype(np.int64) // 8) * 8
        texts = b"".join(text.ljust(-(-len(text) // 8) * 8, b"\0") for text in new)
        arrays = SymbolArrays(
            slot_S=old.slot_S,
            text=np.concatenate([old.text, np.frombuffer(texts, np.uint8)]),
            text_at_M=np.cumsum(room_M) - room_M,
            text_len_M=length_M,
        )
        if 2 * total > len(old.slot_S):
            # At most half of the slots are used until the next doubling.
            arrays, known = arrays._replace(slot_S=_empty(1 << (4 * total - 1).bit_length()).slot_S), 0
        insert(arrays, known)
        self._arrays = arrays
        return arrays


def _plain(name: str) -> bytes:
    """Return the bytes of ``name``, or none: the kernel reads no other symbols than plain ASCII ones."""
    is_plain = name.isascii() and name.isprintable() and not set(name) & set(' "\\')
    return name.encode() if is_plain and len(name) <= MAX_SYMBOL_BYTES else b""


def _empty(slots: int) -> SymbolArrays:
    return SymbolArrays(
        np.full(slots, -1, np.int32), np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int32)
    )
