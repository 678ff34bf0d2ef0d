"""Windows T x F of rows: which rows stand together. One function says it, for the loader and for the live scorer.

Shapes: N rows, S symbols, T rows of a window, F features.
"""

from collections.abc import Sequence

import numpy as np

from ml_core.compiled import njit
from ml_core.data_processor import blocks
from ml_core.errors import SchemaMismatchError
from ml_core.types import Bool, Float32, Int32, Int64, RowBatch, RowFlag, UInt8

_MAGIC = b"TWTL"
_TAIL_VERSION = 1
_RESETS = int(RowFlag.WARM_UP | RowFlag.GAP)


def link(symbol_N: Int32, flags_N: UInt8, window: int) -> Int32:
    """Return, for each row, the rows of the window that ends with it: indices (N, T), oldest first.

    A window holds the last T rows of the symbol that are whole (flags 0). A row flagged WARM_UP or GAP starts the
    symbol anew; other flagged rows are passed over. All -1 where the row itself is flagged or too few
    rows stand before it.

    >>> link(np.zeros(4, np.int32), np.array([0, 0, 16, 0], np.uint8), 2).tolist()
    [[-1, -1], [0, 1], [-1, -1], [1, 3]]
    """
    slots = int(symbol_N.max()) + 1 if len(symbol_N) else 0
    idx_NT: Int32
    idx_NT, _, _ = _walk(_own(symbol_N, np.int32), _own(flags_N, np.uint8), window, slots)
    return idx_NT


class Tail:
    """The last rows of each symbol, as far as the window of the next row may need them; one task owns it."""

    def __init__(self, window: int, features: int) -> None:
        """Start empty, for windows of ``window`` rows of ``features`` columns."""
        self.window, self.features = window, features
        self._names: Sequence[str] = ()
        self._known = 0
        self._x_SHF: Float32 = np.zeros((0, window - 1, features), dtype=np.float32)  # H held rows, oldest first
        self._count_S: Int32 = np.zeros(0, dtype=np.int32)  # of held rows in use: the last ones
        self._dirty_B: Bool = np.zeros(0, dtype=np.bool_)

    def windows(self, rows: RowBatch) -> tuple[Float32, Bool]:
        """Return the window of each row (N, T, F) and whether it is whole (N,), and move on by ``rows``.

        A window that is not whole is filled with NaN. Equal to `link` over all rows since the beginning.

        Raises:
            SchemaMismatchError: The rows number their symbols otherwise than those before.
        """
        self._grow(rows.symbols)
        n, held = len(rows), self.window - 1
        symbols_U, slot_N = np.unique(rows.symbol_N, return_inverse=True)
        count_U = self._count_S[symbols_U]
        # held rows of the symbols at hand, then the batch: one stretch of rows to link
        before = int(count_U.sum())
        is_used_UH = np.arange(held) >= held - count_U[:, None]
        x_MF = np.concatenate([self._x_SHF[symbols_U][is_used_UH], rows.x_NF])
        slot_M = np.concatenate([np.repeat(np.arange(len(symbols_U)), count_U), slot_N]).astype(np.int32)
        flags_M = np.concatenate([np.zeros(before, np.uint8), rows.flags_N])
        idx_MT, last_UT, kept_U = _walk(slot_M, flags_M, self.window, len(symbols_U))
        idx_NT = idx_MT[before:]
        ready_N: Bool = idx_NT[:, 0] >= 0
        if n and held:
            kept_U = np.minimum(kept_U, held)
            self._x_SHF[symbols_U] = x_MF[np.maximum(last_UT[:, 1:], 0)]
            self._count_S[symbols_U] = kept_U
            self._dirty_B[symbols_U // blocks.BLOCK] = True
        x_NTF = x_MF[idx_NT] if n else np.empty((0, self.window, self.features), np.float32)
        x_NTF[~ready_N] = np.nan
        return x_NTF, ready_N

    @property
    def nbytes(self) -> int:
        """Bytes of a copy."""
        return self._known * (self._x_SHF.itemsize * (self.window - 1) * self.features + self._count_S.itemsize)

    def copy(self) -> "Tail":
        """Return a tail that goes on by itself; it has nothing dirty."""
        known, other = self._known, Tail(self.window, self.features)
        other._names, other._known = list(self._names[:known]), known
        other._x_SHF, other._count_S = self._x_SHF[:known].copy(), self._count_S[:known].copy()
        other._dirty_B = np.zeros_like(self._dirty_B)
        return other

    def dump(self, *, dirty_only: bool = True) -> list[tuple[int, bytes]]:
        """Return (number, bytes) of each block of 64 symbols, or only of those that changed since `mark_clean`."""
        return [
            (block, self._pack(block)) for block in blocks.chosen(self._dirty_B, self._known, dirty_only=dirty_only)
        ]

    def mark_clean(self) -> None:
        """Take all blocks for written."""
        self._dirty_B[:] = False

    def load(self, block: int, data: bytes) -> None:
        """Take over what `dump` returned; blocks come in ascending order, into a tail that has seen no rows.

        A block that is loaded is not dirty.

        Raises:
            SchemaMismatchError: The block is of another window or number of features, is cut, or comes out of order.
                State has to be rebuilt from rows.
        """
        like = (self._x_SHF, self._count_S)
        names, (x_SHF, count_S) = blocks.unpack(data, _MAGIC, _TAIL_VERSION, self._schema, block, like)
        first = block * blocks.BLOCK
        if first > self._known:
            raise SchemaMismatchError(f"window tail: block {block} comes before block {block - 1}")
        self._grow([*self._names[:first], *names])
        self._x_SHF[first : first + len(names)] = x_SHF
        self._count_S[first : first + len(names)] = count_S
        blocks.mark_loaded(self._dirty_B, block, len(names), self._known)

    @property
    def _schema(self) -> str:
        return f"{self.window}x{self.features}"

    def _pack(self, block: int) -> bytes:
        span = slice(block * blocks.BLOCK, min((block + 1) * blocks.BLOCK, self._known))
        arrays = (self._x_SHF[span], self._count_S[span])
        return blocks.pack(_MAGIC, _TAIL_VERSION, self._schema, block, self._names[span], arrays)

    def _grow(self, names: Sequence[str]) -> None:
        """Make places for ``names``, the symbol table of the rows, which only grows."""
        known, count = self._known, len(names)
        if names is not self._names:
            if list(names[:known]) != list(self._names[:known]):
                raise SchemaMismatchError("window tail: the symbol table is another one than that of the rows before")
            self._names = names
        if count <= known:
            return
        self._x_SHF = blocks.grown(self._x_SHF, count)
        self._count_S = blocks.grown(self._count_S, count)
        self._dirty_B = blocks.grown(self._dirty_B, -(-count // blocks.BLOCK))
        blocks.mark_new_names(self._dirty_B, known, count)
        self._known = count


def _own(values: "np.typing.NDArray[np.generic]", dtype: type) -> "np.typing.NDArray[np.generic]":
    return np.require(values, dtype, ["C", "W"])


@njit(cache=True, nogil=True)
def _walk(slot_N: Int32, flags_N: UInt8, window: int, slots: int) -> tuple[Int32, Int64, Int32]:
    """Return the windows (N, T), the last rows of each slot (S, T; right-aligned, -1 unused) and how many they are."""
    idx_NT = np.full((len(slot_N), window), -1, dtype=np.int32)
    last_ST = np.full((slots, window), -1, dtype=np.int64)
    count_S = np.zeros(slots, dtype=np.int32)
    for i in range(len(slot_N)):
        slot, flags = slot_N[i], flags_N[i]
        if flags & _RESETS:
            count_S[slot] = 0
        if flags:
            continue
        for t in range(window - 1):
            last_ST[slot, t] = last_ST[slot, t + 1]
        last_ST[slot, window - 1] = i
        count_S[slot] = min(count_S[slot] + 1, window)
        if count_S[slot] == window:
            for t in range(window):
                idx_NT[i, t] = last_ST[slot, t]
    return idx_NT, last_ST, count_S
