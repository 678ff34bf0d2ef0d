"""The newest row of every symbol of one partition, with its window.

Shapes: N rows of a record, S symbols seen, T rows of a window, F features.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ml_core.data_processor.windows import Tail
from ml_core.types import Bool, Float32, RowBatch, RowFlag, SymbolTable

V = TypeVar("V")
RESETS = RowFlag.WARM_UP | RowFlag.GAP  # what starts a symbol's window anew


class Newest(NamedTuple):
    """The newest row of one symbol."""

    partition: int
    row: RowBatch  # of length 1
    x_1TF: Float32  # its window, oldest row first
    ready: bool  # False: the window is too short
    sure: bool  # False: not ready may only mean that reading began too late


class RowTable:
    """What is known of one partition; not safe for two threads at once."""

    def __init__(self, partition: int, features: int, windows: Iterable[int], *, from_start: bool) -> None:
        """Start empty.

        Args:
            partition: Its number, which is that of the ticks' partition too.
            features: F.
            windows: Every T that will be asked for.
            from_start: The first row to come is the first row of the partition ever, so that a window that is too
                short here is too short on the stream.
        """
        self.partition, self.from_start = partition, from_start
        self.symbols = SymbolTable()
        self._name = (-1, -1)  # offset and index of the newest row
        self._rows: list[RowBatch] = []  # by symbol, each of length 1
        self._begun: set[int] = set()  # symbols whose windows began anew after reading did
        self._tails = {window: Tail(window, features) for window in windows if window > 1}
        self._windows: dict[int, list[tuple[Float32, bool]]] = {window: [] for window in self._tails}

    def take(self, rows: RowBatch) -> int:
        """Move on by ``rows``, the next in the partition's order; return how many were new.

        After a crash a worker repeats the last rows under the names they had; those make no difference here.
        """
        rows = rows.select(_is_above(self._name, rows))
        if not len(rows):
            return 0
        self._name = (int(rows.offset_N[-1]), int(rows.index_N[-1]))
        rows = self._with_own_symbols(rows)
        # the first of the reversed rows is the last of the symbol
        places, back = np.unique(rows.symbol_N[::-1], return_index=True)
        symbols, last = places.tolist(), (len(rows) - 1 - back).tolist()
        newest = [rows.select(np.array([row])) for row in last]
        _put(self._rows, symbols, newest)
        self._begun.update(np.unique(rows.symbol_N[(rows.flags_N & RESETS) != 0]).tolist())
        for window, tail in self._tails.items():
            x_NTF, ready_N = tail.windows(rows)
            _put(self._windows[window], symbols, [(x_NTF[row].copy(), bool(ready_N[row])) for row in last])
        return len(rows)

    def newest(self, symbol: str, window: int) -> Newest | None:
        """Return the newest row of ``symbol`` with its window of ``window`` rows; None where none was seen."""
        place = self.symbols.index.get(symbol)
        if place is None:
            return None
        row = self._rows[place]
        x_TF, ready = (row.x_NF, True) if window == 1 else self._windows[window][place]
        return Newest(self.partition, row, x_TF[None], ready, ready or self.from_start or place in self._begun)

    def _with_own_symbols(self, rows: RowBatch) -> RowBatch:
        """Number the symbols as this table does; a record numbers them as it likes. Beyond the limit rows drop out."""
        used, place_N = np.unique(rows.symbol_N, return_inverse=True)
        own = np.array([self.symbols.add(rows.symbols[number]) for number in used], dtype=np.int32)
        fields: dict[str, Any] = {name: getattr(rows, name) for name in RowBatch._fields}
        fields |= {"symbol_N": own[place_N], "symbols": self.symbols.names}
        return RowBatch(**fields).select(fields["symbol_N"] >= 0)


def _is_above(name: tuple[int, int], rows: RowBatch) -> Bool:
    is_above_N: Bool = (rows.offset_N > name[0]) | ((rows.offset_N == name[0]) & (rows.index_N > name[1]))
    return is_above_N


def _put(held: list[V], places: Iterable[int], values: list[V]) -> None:
    """Set ``held[place]`` of each; new places follow one another, so an index past the end is the next one."""
    for place, value in zip(places, values, strict=True):
        if place < len(held):
            held[place] = value
        else:
            held.append(value)
