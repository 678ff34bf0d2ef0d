"""Says in time that a calendar will know no further session, so that somebody installs a later exchange-calendars."""

import time
from collections.abc import Iterable

import numpy as np
import structlog

from data_io.topics.prediction_batch import IS_MISDATED
from ml_core.data_processor import calendars
from ml_core.types import RowBatch, RowFlag
from streams import metrics

log = structlog.get_logger()

NOTICE_NS = 90 * 86_400 * 10**9
_told: set[str] = set()  # feature sets; once a process is loud enough
_NO_CALENDAR, _JUDGED = np.uint8(RowFlag.NO_CALENDAR), np.uint8(RowFlag.NO_CALENDAR | IS_MISDATED)


def notes(names: Iterable[str], now_ns: int | None = None) -> list[str]:
    """Return a line for each calendar whose last session ends in less than 90 days; ``now_ns`` defaults to now."""
    now_ns = time.time_ns() if now_ns is None else now_ns
    ends = [(name, calendars.end_ns(name)) for name in sorted(set(names))]
    return [
        f"the calendar {name} knows no session behind {calendars.utc(end_ns)}: install a later exchange-calendars"
        for name, end_ns in ends
        if end_ns is not None and end_ns - now_ns < NOTICE_NS
    ]


def watch(names: Iterable[str]) -> None:
    """Put the ends of calendars into the metrics, and warn of those that are near."""
    for name in set(names):
        if (end_ns := calendars.end_ns(name)) is not None:
            metrics.CALENDAR_END.labels(name).set(end_ns / 1e9)
    for note in notes(names):
        log.warning(note, action="start")


def count_unknown(feature_set: str, calendar: str, made: RowBatch) -> None:
    """Count the rows at whose time the calendar does not know whether its venue trades, and say so.

    One whose stamp is not that of the clock may be wrong, and does not count.
    """
    if not (count := int(np.count_nonzero((made.flags_N & _JUDGED) == _NO_CALENDAR))):
        return
    if feature_set not in _told:
        _told.add(feature_set)
        log.error(
            "rows outside all sessions that the calendar knows are not scored",
            action="process",
            feature_set=feature_set,
            calendar=calendar,
        )
    metrics.UNKNOWN_HOURS.labels(feature_set).inc(count)
