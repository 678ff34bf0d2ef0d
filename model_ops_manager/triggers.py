"""When a pipeline is retrained: the rules, for the clock on the wall and for a virtual one.

Shapes: N rows, S symbols.
"""

from bisect import bisect_right

import numpy as np

from ml_core.spec import PipelineSpec
from ml_core.types import Bool, Int64, RowBatch, RowFlag

# The time of such a row is not sure: its symbol has begun anew, or does not confirm it.
UNSURE = np.uint8(RowFlag.AHEAD | RowFlag.GAP | RowFlag.WARM_UP | RowFlag.LATE | RowFlag.NO_CALENDAR)


def is_cool(now_ns: int, started_ns: int, *, is_over: bool, cooldown_ns: int) -> bool:
    """Return whether a job may start, by the last one of its pipeline: it is over, and started a cooldown ago."""
    return is_over and now_ns - started_ns >= cooldown_ns


def next_slot(now_ns: int, every_ns: int) -> int:
    """Return the number of the first multiple of ``every_ns`` since the epoch that lies after ``now_ns``.

    >>> next_slot(19, 10), next_slot(20, 10)
    (2, 3)
    """
    return now_ns // every_ns + 1


def times_full(labelled: int, every: int) -> int:
    """Return how many times ``every`` labelled rows are full; one job at most starts for each number."""
    return labelled // every


class VirtualClock:
    """The newest event time that is sure; it never goes back, and one row moves it at a time."""

    def __init__(self) -> None:
        """Begin before the first tick, at 0."""
        self.now_ns = 0
        self._seen_S: Bool = np.zeros(0, np.bool_)

    def times(self, rows: RowBatch) -> Int64:
        """Return the clock when each row is made (N,), and move on by ``rows``; nothing confirms a symbol's first."""
        is_sure_N = ((rows.flags_N & UNSURE) == 0) & ~self._first(rows)
        clock_N: Int64 = np.maximum.accumulate(np.where(is_sure_N, rows.ts_ns_N, self.now_ns))
        np.maximum(clock_N, self.now_ns, out=clock_N)
        if len(rows):
            self.now_ns = int(clock_N[-1])
        return clock_N

    def _first(self, rows: RowBatch) -> Bool:
        """Return which rows are the first of their symbol."""
        is_first_N = np.zeros(len(rows), np.bool_)
        if len(self._seen_S) < len(rows.symbols):
            self._seen_S = np.append(self._seen_S, np.zeros(len(rows.symbols) - len(self._seen_S), np.bool_))
        if not self._seen_S.all():
            used, first = np.unique(rows.symbol_N, return_index=True)
            is_first_N[first[~self._seen_S[used]]] = True
            self._seen_S[used] = True
        return is_first_N


class VirtualTriggers:
    """What starts jobs of a pipeline as its clock goes on; asked before each move where it has to stop."""

    def __init__(self, spec: PipelineSpec) -> None:
        """Start with the triggers of ``spec`` and no job before."""
        retrain = spec.retrain
        self._every_ns, self._rows, self._cooldown_ns = retrain.every_ns, retrain.rows, retrain.cooldown
        self._look_ahead_ns = spec.label.delay + max(spec.label.horizons)
        self._slot: int | None = None  # the next one of the schedule; None before the clock runs
        self._seen = 0  # rows
        self._unclocked = False  # a multiple of `rows` was reached before the clock ran
        self._full_ns: list[int] = []  # when `rows` labelled rows were full for the first, second, ... time; ascending
        self._served = 0  # of those: a job was started at or after them
        self._cool_ns = 0  # the first time at which `is_cool`

    @property
    def any(self) -> bool:
        """Whether anything can ever start a job."""
        return self._every_ns is not None or self._rows is not None

    def observe(self, clock_N: Int64) -> None:
        """Take in the clock at each of the rows that come next; a row's label is known a look-ahead after it."""
        running = int(np.searchsorted(clock_N, 0, side="right"))
        begins_ns = int(clock_N[running]) if running < len(clock_N) else 0  # rows before the clock ran count from there
        if self._slot is None and self._every_ns is not None and begins_ns:
            self._slot = next_slot(begins_ns, self._every_ns)
        if self._rows is not None:
            first = times_full(self._seen, self._rows) * self._rows + self._rows - 1 - self._seen
            marks = [clock_ns or begins_ns for clock_ns in clock_N[first :: self._rows].tolist()]
            if self._unclocked:
                marks.insert(0, begins_ns)
            self._unclocked = 0 in marks
            self._full_ns += [mark_ns + self._look_ahead_ns for mark_ns in marks if mark_ns]
        self._seen += len(clock_N)

    def next(self) -> tuple[int, str] | None:
        """Return when the next job starts, as far as is known, and what starts it; None: nothing does."""
        found = []
        if self._slot is not None and self._every_ns is not None:
            # a slot at which the pipeline is not cool passes without a job
            slot = max(self._slot, -(-self._cool_ns // self._every_ns))
            found.append((slot * self._every_ns, "schedule"))
        if self._served < len(self._full_ns):
            found.append((max(self._full_ns[self._served], self._cool_ns), "rows"))  # asked again until it is cool
        return min(found, key=lambda each: each[0], default=None)

    def started(self, now_ns: int, over_ns: int) -> None:
        """Take down that a job started at ``now_ns`` and is over at ``over_ns``."""
        self._cool_ns = max(now_ns + self._cooldown_ns, over_ns)
        if self._every_ns is not None:
            self._slot = next_slot(now_ns, self._every_ns)
        self._served = bisect_right(self._full_ns, now_ns)
