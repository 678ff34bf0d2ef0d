"""Writes the edges of a calendar's sessions to standard output, 64-bit and little endian; see `calendars.edges`."""

import sys

import exchange_calendars
import numpy as np
import pandas as pd

from ml_core.data_processor.calendars import ALWAYS, UNKNOWN
from ml_core.errors import nearest
from ml_core.types import Int64

# Fixed, so that what is computed does not depend on the day; calendars that are known for less give what they know.
FIRST, LAST = pd.Timestamp("1990-01-01"), pd.Timestamp("2045-12-31")


def edges_of(name: str) -> Int64:
    """Return the edges of the sessions of ``name``, ns; an end is the first ns that is over."""
    kind = type(exchange_calendars.get_calendar(name))
    first = max(FIRST, kind.bound_min() or FIRST)
    last = min(LAST, kind.bound_max() or LAST)
    schedule = exchange_calendars.get_calendar(name, start=first, end=last).schedule
    column = {part: schedule[part].dt.as_unit("ns") for part in ("open", "break_start", "break_end", "close")}
    has_break = column["break_start"].notna()
    begin = pd.concat([column["open"], column["break_end"][has_break]])
    end = pd.concat([column["break_start"].where(has_break, column["close"]), column["close"][has_break]])
    begin_E, end_E = (np.sort(part.astype("int64").to_numpy()) for part in (begin, end))
    end_E += 1  # the time of the close itself is in
    apart = begin_E[1:] > end_E[:-1]
    return np.column_stack([begin_E[np.append(True, apart)], end_E[np.append(apart, True)]]).ravel()


def main(name: str) -> int:
    """Write the edges of ``name`` and return 0; of an unknown name write what is wrong and return `UNKNOWN`."""
    names = [each for each in exchange_calendars.get_calendar_names() if each != "24/7"]
    if name not in names:
        sys.stdout.write(f"{name!r} is not known{nearest(name, [ALWAYS, *names])}")
        return UNKNOWN
    sys.stdout.buffer.write(edges_of(name).astype("<i8").tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
