"""Rows of which the calendar knows nothing are counted; one wrong stamp is none of them."""

from types import SimpleNamespace

import numpy as np
from structlog.testing import capture_logs

from ml_core.types import RowFlag
from streams import calendar_end, metrics


def count(*flags: int) -> tuple[float, int]:
    """Return how many rows with these flags were counted, and how many lines were logged."""
    counted = metrics.UNKNOWN_HOURS.labels("calendar-end")
    before = counted._value.get()
    with capture_logs() as lines:
        calendar_end.count_unknown("calendar-end", "XNYS", SimpleNamespace(flags_N=np.array(flags, np.uint8)))
    return counted._value.get() - before, len(lines)


def test_a_wrong_stamp_is_no_end_of_the_calendar_and_does_not_use_up_the_line_that_tells_of_it() -> None:
    assert count(0, RowFlag.NO_CALENDAR | RowFlag.AHEAD, RowFlag.NO_CALENDAR | RowFlag.LATE, RowFlag.CLOSED) == (0, 0)
    assert count(RowFlag.NO_CALENDAR, RowFlag.NO_CALENDAR | RowFlag.WARM_UP, RowFlag.AHEAD) == (2, 1)
    assert count(RowFlag.NO_CALENDAR) == (1, 0)
