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
        is_kept_N = ticks.is_valid_N
        if bad:
            is_kept_N = is_kept_N.copy()
            is_kept_N[[row for row, _ in bad]] = False
        row_N = np.flatnonzero(is_kept_N)
        _, kind_N, *values = ticks.rows
        columns = [np.full(len(row_N), offset), row_N + first, kind_N, symbol_N, *values]
        if len(row_N) < len(is_kept_N):
            columns[2:] = [column[row_N] for column in columns[2:]]
        self._close_rows()
        self._parts.append(columns)
        return [(first + row, error) for row, error in sorted([*ticks.bad, *bad], key=lambda pair: pair[0])]

    def batch(self) -> TickBatch:
        """Return all ticks."""
        self._close_rows()
        columns: list[Any] = [
            np.concatenate([np.empty(0, dtype), *(part[i] for part in self._parts)], dtype=dtype)
            for i, dtype in enumerate(_TYPES)
        ]
        columns.append(self._symbols.names)
        return TickBatch(*columns)

    def _close_rows(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            self._parts.append([np.array(column, dtype) for column, dtype in zip(columns, _TYPES, strict=True)])
            self._rows = []

    def _symbols_of(self, ticks: ArrowTicks) -> tuple[Any, list[tuple[int, BadTickError]]]:
        """Return the symbol of each row, and the valid rows whose symbol is refused."""
        valid, name_N = np.flatnonzero(ticks.is_valid_N), ticks.rows.name_N
        first_D = np.full(len(ticks.names) + 1, -1)  # and one for no name
        first_D[name_N[valid][::-1]] = valid[::-1]  # of equal places the one written last stays
        symbol_D = np.zeros(len(first_D), np.int32)
        used = np.flatnonzero(first_D >= 0)
        errors: dict[int, BadTickError] = {}
        for d in used[np.argsort(first_D[used])].tolist():
            try:
                symbol_D[d] = self._symbol(ticks.names[d])
            except BadTickError as error:
                errors[d] = error
        if not errors:
            return symbol_D[name_N], []
        names = name_N[valid].tolist()
        return symbol_D[name_N], [(row, errors[d]) for row, d in zip(valid.tolist(), names, strict=True) if d in errors]

    def _symbol(self, name: str) -> int:
        known = self._symbols.index.get(name)
        if known is not None:
            return known
        check_symbol(name)
        added = self._symbols.add(name)
        if added < 0:
            raise BadTickError("symbols_full", f"{name!r} would be symbol {self._symbols.limit + 1} of this partition")
        return added
