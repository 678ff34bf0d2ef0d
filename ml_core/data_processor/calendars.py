"""When a venue is open: trading sessions as plain arrays. What computes them is imported by a child process alone.

Shapes: N times, E edges of time.
"""

import subprocess
import sys
from functools import cache
from hashlib import sha256

import numpy as np

from ml_core.errors import SetupError, SpecError
from ml_core.types import Bool, Int64

ALWAYS = "24x7"
CHILD_S = 120.0
UNKNOWN = 3  # exit code of the child: there is no such calendar


@cache
def edges(calendar: str) -> Int64:
    """Return where sessions begin and where they are over, ns since the epoch, UTC, by turns and ascending.

    Days off, half days and breaks are known. Sessions without closed time between them are one. Empty for ``24x7``.

    Raises:
        SpecError: There is no such calendar; the message names the nearest.
        SetupError: The calendar could not be computed.
    """
    if calendar == ALWAYS:
        return np.empty(0, np.int64)
    command = [sys.executable, "-m", "ml_core.data_processor.calendar_child", calendar]
    try:
        done = subprocess.run(command, capture_output=True, timeout=CHILD_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"the calendar {calendar} could not be computed: {error}") from error
    if done.returncode == UNKNOWN:
        raise SpecError(f"source.calendar: {done.stdout.decode()}")
    if done.returncode:
        raise SetupError(f"the calendar {calendar} could not be computed: {done.stderr.decode()[-500:]}")
    return np.frombuffer(done.stdout, "<i8").astype(np.int64)


def check_known(ts_ns_N: Int64, calendar: str) -> None:
    """Raise unless all times lie between the first and the last session of ``calendar``.

    Raises:
        SpecError: They do not, or there is no such calendar; the message names where its sessions begin and end.
        SetupError: The calendar could not be computed.
    """
    edge_E = edges(calendar)
    if not len(edge_E) or not len(ts_ns_N):
        return
    first, last = edge_E[0], edge_E[-1]
    oldest, newest = ts_ns_N.min(), ts_ns_N.max()
    if oldest < first or newest >= last:
        raise SpecError(
            f"source.calendar: {calendar} knows sessions from {utc(first)} to {utc(last)}, and there are ticks from "
            f"{utc(oldest)} to {utc(newest)}: shorten their range, or install an exchange-calendars that knows more"
        )


def end_ns(calendar: str) -> int | None:
    """Return the first ns behind the close of the last session that is known; None: always open. Raises as `edges`."""
    edge_E = edges(calendar)
    return int(edge_E[-1]) if len(edge_E) else None


def digest(edge_E: Int64) -> str:
    """Return a hash of sessions: rows depend on them."""
    return sha256(edge_E.astype("<i8").tobytes()).hexdigest()[:16]


def is_open(ts_ns_N: Int64, calendar: str) -> Bool:
    """Return which times (ns since the epoch, UTC) lie in a session, both ends included; ``24x7`` is always open.

    Raises:
        SpecError: There is no such calendar.
        SetupError: The calendar could not be computed.
    """
    if calendar == ALWAYS:
        return np.ones(len(ts_ns_N), dtype=np.bool_)
    is_open_N: Bool = np.searchsorted(edges(calendar), ts_ns_N, side="right") % 2 == 1
    return is_open_N


def in_one_session(start_ns_N: Int64, end_ns_N: Int64, calendar: str) -> Bool:
    """Return which spans of time no session's begin or end lies within; ``24x7`` is one session. Raises as `edges`."""
    edge_E = edges(calendar)
    same_N: Bool = np.searchsorted(edge_E, start_ns_N, side="right") == np.searchsorted(edge_E, end_ns_N, side="right")
    return same_N


def utc(ts_ns: int | np.int64) -> str:
    """Return a time as text, to the second.

    >>> utc(1_700_000_000 * 10**9)
    '2023-11-14T22:13:20Z'
    """
    return f"{np.datetime64(int(ts_ns), 'ns').astype('datetime64[s]')}Z"
