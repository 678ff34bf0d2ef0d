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
