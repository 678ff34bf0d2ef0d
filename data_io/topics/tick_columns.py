"""Collects ticks in the order of the log, one by one or as columns, and makes one batch of them."""

from typing import Any

import numpy as np

from data_io.topics.tick_arrow import ArrowTicks
from data_io.topics.tick_rules import BadTickError, Tick, check_symbol
from ml_core.types import SymbolTable, TickBatch

_TYPES = (
    np.int64, np.int32, np.int8, np.int32, np.int64, np.float64, np.float64, np.int8, np.float64, np.float64,
    np.float64, np.float64, np.int64,
)  # fmt: skip


class TickColumns:
    """The ticks so far; a new symbol gets its place when its first tick comes."""

    def __init__(self, symbols: SymbolTable) -> None:
        """Start without ticks."""
        self._symbols = symbols
        self._rows: list[tuple[Any, ...]] = []
        self._parts: list[list[Any]] = []

    def add(self, offset: int, index: int, tick: Tick) -> None:
        """Add row ``index`` of the record at ``offset``.

        Raises:
            BadTickError: The symbol is none, or there is no place for it.
        """
        kind, name, *values = tick
        self._rows.append((offset, index, kind, self._symbol(name), *values))

    def add_columns(self, offset: int, first: int, ticks: ArrowTicks) -> list[tuple[int, BadTickError]]:
        """Add the rows from ``first`` on of the record at ``offset``; return those that are refused, in order."""
        symbol_N, bad = self._symbols_of(ticks)
        rows = len(symbol_N)
        _, kind_N, *values = ticks.rows
        columns = [np.full(rows, offset), np.arange(first, first + rows, dtype=np.int32), kind_N, symbol_N, *values]
        bad = sorted([*ticks.bad, *bad], key=lambda pair: pair[0])
        if bad:
            is_kept_N = ticks.is_valid_N.copy()
            is_kept_N[[row for row, _ in bad]] = False
            row_N = np.flatnonzero(is_kept_N)
            columns = [column[row_N] for column in columns]
        self._close_rows()
        self._parts.append(columns)
        return [(first + row, error) for row, error in bad]

    def batch(self) -> TickBatch:
        """Return all ticks."""
        self._close_rows()
        if not self._parts:
            self._parts.append([np.empty(0, dtype) for dtype in _TYPES])
        columns: list[Any] = [*self._parts[0]]
        if len(self._parts) > 1:
            columns = [np.concatenate(parts) for parts in zip(*self._parts, strict=True)]
        columns.append(self._symbols.names)
        return TickBatch(*columns)

    def _close_rows(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            self._parts.append([np.array(column, dtype) for column, dtype in zip(columns, _TYPES, strict=True)])
            self._rows = []

    def _symbols_of(self, ticks: ArrowTicks) -> tuple[Any, list[tuple[int, BadTickError]]]:
        """Return the symbol of each row, and the valid rows whose symbol is refused."""
        first_D, name_N = ticks.first_D, ticks.rows.name_N
        symbol_D = np.zeros(len(first_D) + 1, np.int32)  # and one for no name
        used = np.flatnonzero(first_D >= 0)
        used = used[np.argsort(first_D[used])]
        known, names, found = self._symbols.index, ticks.names, []
        errors: dict[int, BadTickError] = {}
        for d in used.tolist():
            symbol = known.get(names[d])
            if symbol is None:
                try:
                    symbol = self._symbol(names[d])
                except BadTickError as error:
                    errors[d], symbol = error, 0
            found.append(symbol)
        symbol_D[used] = found
        symbol_N = symbol_D.take(name_N, mode="wrap")  # the index of no name is that of the last place
        if not errors:
            return symbol_N, []
        valid = np.flatnonzero(ticks.is_valid_N)
        name_M = name_N[valid].tolist()
        return symbol_N, [(row, errors[d]) for row, d in zip(valid.tolist(), name_M, strict=True) if d in errors]

    def _symbol(self, name: str) -> int:
        known = self._symbols.index.get(name)
        if known is not None:
            return known
        check_symbol(name)
        added = self._symbols.add(name)
        if added < 0:
            raise BadTickError("symbols_full", f"{name!r} would be symbol {self._symbols.limit + 1} of this partition")
        return added
