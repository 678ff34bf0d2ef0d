"""Rows that reach across what a feed knows to be missing: nothing in the ticks themselves tells of it.

Shapes: N rows, K marks of a symbol.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ml_core.types import Bool, Int32, Int64


class GapMark(NamedTuple):
    """Ticks of ``symbol`` are missing, or may be, between a tick at ``from_ns`` and one at ``to_ns``."""

    symbol: str
    from_ns: int
    to_ns: int


def crossed(
    marks: Sequence[GapMark], symbols: Sequence[str], symbol_N: Int32, start_ns_N: Int64, end_ns_N: Int64
) -> Bool:
    """Return which rows need ticks on both sides of a mark of their symbol.

    Args:
        marks: In any order; they may overlap.
        symbols: Names of the numbers in ``symbol_N``.
        symbol_N: Of each row.
        start_ns_N: The earliest tick that enters a row's features.
        end_ns_N: The last tick that its label is read from.

    >>> marks = [GapMark("A", 10, 20), GapMark("A", 30, 30)]
    >>> start, end = np.array([0, 0, 20, 20, 30]), np.array([10, 11, 25, 31, 40])
    >>> crossed(marks, ["A"], np.zeros(5, np.int32), start, end).tolist()
    [False, True, False, True, False]
    """
    found_N: Bool = np.zeros(len(symbol_N), np.bool_)
    of_symbol: dict[str, list[GapMark]] = {}
    for mark in marks:
        of_symbol.setdefault(mark.symbol, []).append(mark)
    for number, name in enumerate(symbols):
        if name in of_symbol:
            from_K, to_K = _apart(of_symbol[name])
            here_N = np.flatnonzero(symbol_N == number)
            first_N = np.searchsorted(to_K, start_ns_N[here_N], side="right")  # that ends behind the row's start
            found_N[here_N] = np.append(from_K, np.iinfo(np.int64).max)[first_N] < end_ns_N[here_N]
    return found_N


def _apart(marks: Sequence[GapMark]) -> tuple[Int64, Int64]:
    """Return where marks begin and end, ascending, those that overlap as one."""
    apart: list[tuple[int, int]] = []
    for _, start, end in sorted(marks):
        if apart and start <= apart[-1][1]:
            apart[-1] = apart[-1][0], max(apart[-1][1], end)
        else:
            apart.append((start, end))
    from_K, to_K = np.array(apart, np.int64).T
    return from_K, to_K
