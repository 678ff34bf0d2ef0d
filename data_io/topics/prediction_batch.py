"""Predictions as columns, their names, and why some of them have no score."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ml_core.types import Bool, Float32, Int32, Int64, RowFlag, UInt8


def row_id(topic_id: str, partition: int, offset: int, index: int) -> str:
    """Return the name of a row, and so of its prediction: the place of its tick in the log.

    >>> row_id("NxrSSrYXQSGq5VVnQ1bVIA", 0, 41, 0)
    'NxrSSrYXQSGq5VVnQ1bVIA-0-41-0'
    """
    return f"{topic_id}-{partition}-{offset}-{index}"


class PredictionBatch(NamedTuple):
    """Predictions of one partition in the order of their rows; N rows, H horizons."""

    offset_N: Int64
    index_N: Int32
    symbol_N: Int32
    ts_ns_N: Int64
    score_NH: Float32  # anything where the row was abstained from
    flags_N: UInt8  # RowFlag of the row
    window_ok_N: Bool  # the window of the model is filled
    symbols: Sequence[str]

    def __len__(self) -> int:
        """Return the number of rows, not of fields."""
        return len(self.ts_ns_N)


# Why a row has no score. Of several reasons the first is given: what an operator should look at first.
REASONS = {
    RowFlag.NO_CALENDAR: "no_calendar",
    RowFlag.CLOSED: "closed",
    RowFlag.NO_PRICE: "no_price",
    RowFlag.WARM_UP: "warm_up",
    RowFlag.GAP: "gap",
    RowFlag.STALE: "stale",
    RowFlag.LATE: "late",
    RowFlag.AHEAD: "ahead",
}
STATES = ("ok", *REASONS.values(), "window", "no_score")
WINDOW, NO_SCORE = STATES.index("window"), STATES.index("no_score")
# A wrong stamp says nothing of the calendar.
IS_MISDATED = RowFlag.LATE | RowFlag.AHEAD


def _state_of(flags: int) -> int:
    if flags & IS_MISDATED:
        flags &= ~RowFlag.NO_CALENDAR
    return next((i for i, flag in enumerate(REASONS, start=1) if flags & flag), 0)


# [flags of a row] -> its state, as far as flags decide
STATE_OF_FLAGS = np.array([_state_of(flags) for flags in range(256)], np.uint8)
