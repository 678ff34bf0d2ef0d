"""Where ticks before the first one there is are gone: which rows are known, and which may look back to what is gone.

Shapes: N rows, S symbols, T rows of a window.
"""

from typing import NamedTuple

import numpy as np

from ml_core.data_processor.kernels import RESYNC_TICKS
from ml_core.types import Bool, RowBatch, RowFlag

# What is decayed as long as this is below the last bit of a float64: exp(-40) is 4e-18.
DECAYED = 40

_ANEW = int(RowFlag.WARM_UP | RowFlag.GAP)
_AWAY = int(RowFlag.LATE | RowFlag.AHEAD)


class Known(NamedTuple):
    """What is known of N rows."""

    row_N: Bool
    window_N: Bool  # likewise of all rows of the window that ends with it
    exact_N: Bool  # its features hold nothing of the ticks that are gone, not even what has nearly decayed


class FirstWarmUp:
    """Follows each symbol through its first warm-up; what is later is known, also where a session begins it anew.

    A clock that had gone wrong is set back within RESYNC_TICKS, so the warm-up is counted from there. It holds a few
    numbers a symbol.
    """

    def __init__(self, look_back_ns: int, window: int) -> None:
        """Follow symbols of features that look back ``look_back_ns``, and windows of ``window`` rows."""
        self._look_back_ns, self._window = look_back_ns, window
        self._symbols: dict[int, _Symbol] = {}
        self._exact_S: Bool = np.zeros(0, np.bool_)  # symbols of which all that comes is known

    def known(self, made: RowBatch) -> Known:
        """Return what is known of ``made``, the rows behind those before; they number their symbols in one way."""
        found = Known(*np.ones((3, len(made)), np.bool_))
        grown = len(made.symbols) - len(self._exact_S)
        if grown > 0:
            self._exact_S = np.concatenate([self._exact_S, np.zeros(grown, np.bool_)])
        for n in np.flatnonzero(~self._exact_S[made.symbol_N]).tolist():
            number = int(made.symbol_N[n])
            if self._exact_S[number]:  # since a row before
                continue
            symbol = self._symbols.setdefault(number, _Symbol(self._look_back_ns, self._window))
            symbol.take(int(made.flags_N[n]), int(made.ts_ns_N[n]))
            found.row_N[n], found.window_N[n] = symbol.is_known, symbol.is_window_known
            found.exact_N[n] = symbol.is_exact
            if symbol.is_exact and symbol.is_window_known:
                self._exact_S[number] = True
                del self._symbols[number]
        return found


class _Symbol:
    __slots__ = (
        "_has_warmed",
        "_look_back_ns",
        "_rows",
        "_since_ns",
        "_whole",
        "is_exact",
        "is_known",
        "is_window_known",
    )

    def __init__(self, look_back_ns: int, window: int) -> None:
        self._look_back_ns = look_back_ns
        self._rows = 0
        self._since_ns: int | None = None  # its clock, once that can be believed
        self._has_warmed = False
        self._whole = 1 - window  # known rows that windows are made of, less those wanted before the newest one
        self.is_known = self.is_exact = self.is_window_known = False

    def take(self, flags: int, ts_ns: int) -> None:
        """Move on by a row."""
        self._rows += 1
        if self._rows > RESYNC_TICKS and not flags & _AWAY:
            if self._since_ns is None:
                self._since_ns = ts_ns
            past_ns = ts_ns - self._since_ns
            if self._has_warmed and flags & RowFlag.WARM_UP:  # it began anew, and so did all of its features
                self.is_known = self.is_exact = True
            elif past_ns >= self._look_back_ns and not flags & _ANEW:
                self.is_known = True
                self.is_exact = self.is_exact or past_ns >= DECAYED * self._look_back_ns
        self._has_warmed = self._has_warmed or not flags & RowFlag.WARM_UP
        if self.is_known:
            self.is_window_known = self.is_window_known or self._whole >= 0 or bool(flags & _ANEW)  # they begin anew
            self._whole += not flags
