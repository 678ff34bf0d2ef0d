"""Bars by time that nobody ends, because their symbol is silent: shown before they are final, each content once.

Nothing here is part of a state that is kept, and nothing but readers of bars sees it. Shapes: S symbols, D of them
that are looked at, Q kinds of bars, B bars.
"""

from typing import Any

import numpy as np

from ml_core.data_processor import bar_kernel as k
from ml_core.data_processor.bars import columns_of
from ml_core.data_processor.blocks import grown
from ml_core.data_processor.state import BarState
from ml_core.types import SECOND_NS, BarBatch, BarStatus, Bool, Float64, Int64

GRACE_NS = 2 * SECOND_NS  # of silence, and behind the end of a bar: what is only slow comes meanwhile
MOST_AT_ONCE = 1024  # the others follow with the next look


class SilentBars:
    """Looks for open bars by time whose end has passed by the wall clock while their symbol was silent."""

    def __init__(self, state: BarState) -> None:
        """Look at ``state``, which is read and never changed."""
        self._state = state
        rule_RQ = state.plan.rules.rule_RQ
        self._kinds = np.flatnonzero(rule_RQ[k.BY] == k.BY_TIME).tolist()
        self._ticks_S: Int64 = np.zeros(0, np.int64)  # of the symbol, when it was last looked at
        self._since_S: Int64 = np.zeros(0, np.int64)  # wall clock of the first look that found so many
        self._is_open_S: Bool = np.zeros(0, np.bool_)  # something may be due before the next tick
        self._shown_S2Q: Int64 = np.zeros((0, 2, rule_RQ.shape[1]), np.int64)  # number and ticks of a bar

    def due(self, now_ns: int) -> BarBatch | None:
        """Return the bars due at ``now_ns`` of the wall clock, at most MOST_AT_ONCE of a kind; None without any."""
        known = len(self._state.symbols)
        ticks_S = self._state.memory().int_SJ[:known, k.TICKS]
        if known > len(self._ticks_S):
            self._ticks_S, self._since_S = grown(self._ticks_S, known), grown(self._since_S, known)
            self._is_open_S, self._shown_S2Q = grown(self._is_open_S, known), grown(self._shown_S2Q, known)
        moved_D = np.flatnonzero(ticks_S != self._ticks_S[:known])
        self._ticks_S[moved_D] = ticks_S[moved_D]
        self._since_S[moved_D] = now_ns
        self._is_open_S[moved_D] = True
        silent_D = np.flatnonzero(self._is_open_S & (self._since_S <= now_ns - GRACE_NS))
        if not len(silent_D):
            return None
        self._is_open_S[silent_D] = False
        found = [each for q in self._kinds if len((each := self._bars(q, silent_D, now_ns))[0])]
        if not found:
            return None
        int_BI, float_BO = (np.concatenate(parts) for parts in zip(*found, strict=True))
        none_B = np.full(len(int_BI), -1)
        columns = none_B, none_B.astype(np.int32), *columns_of(int_BI, float_BO)
        fields: list[Any] = [*columns, self._state.symbols.names, self._state.plan.kinds, 0, 0]
        return BarBatch(*fields)

    def _bars(self, q: int, silent_D: Int64, now_ns: int) -> tuple[Int64, Float64]:
        """Return what the kernel would write of the bars of kind ``q`` that are due, and note which are not yet."""
        memory = self._state.memory()
        _, width, slots, floats_at, ints_at = self._state.plan.rules.rule_RQ[:, q].tolist()
        number_D = memory.int_SJ[silent_D, ints_at + k.NUMBER]
        begin_D = ints_at + k.KIND_INTS + number_D % slots * k.SLOT_INTS
        count_D = memory.int_SJ[silent_D, begin_D + k.COUNT]
        is_there_D = (count_D > 0) & (memory.int_SJ[silent_D, begin_D + k.OF_BAR] == number_D)
        is_there_D &= (self._shown_S2Q[silent_D, :, q] != np.stack([number_D, count_D], axis=1)).any(axis=1)
        is_over_D = (number_D + 1) * width <= now_ns - GRACE_NS
        due = np.flatnonzero(is_there_D & is_over_D)[:MOST_AT_ONCE]
        self._shown_S2Q[silent_D[due], :, q] = np.stack([number_D, count_D], axis=1)[due]
        is_there_D[due] = False
        self._is_open_S[silent_D] |= is_there_D
        symbol_B = silent_D[due]
        slot_BJ = memory.int_SJ[symbol_B[:, None], begin_D[due, None] + np.arange(k.SLOT_INTS)]
        first_B = floats_at + number_D[due] % slots * k.SLOT_FLOATS
        slot_BK = memory.float_SK[symbol_B[:, None], first_B[:, None] + np.arange(k.SLOT_FLOATS)]
        int_BI = np.empty((len(due), k.OUT_INTS), np.int64)
        int_BI[:, k.TICK], int_BI[:, k.SYMBOL], int_BI[:, k.KIND] = -1, symbol_B, q
        int_BI[:, k.NUMBER_OUT], int_BI[:, k.COUNT_OUT] = number_D[due], slot_BJ[:, k.COUNT]
        int_BI[:, k.START], int_BI[:, k.END] = number_D[due] * width, (number_D[due] + 1) * width
        int_BI[:, k.REVISION_OUT], int_BI[:, k.STATUS], int_BI[:, k.IS_WHOLE] = (
            -1,
            BarStatus.PROVISIONAL,
            slot_BJ[:, k.WHOLE],
        )
        places = (k.OPEN, k.HIGH, k.LOW, k.CLOSE, k.VOLUME, k.VALUE, k.BOUGHT)
        return int_BI, slot_BK[:, places]
