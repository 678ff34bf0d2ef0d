"""When a venue is open."""

import numpy as np
import pandas as pd

from ml_core.types import Bool, Int64

MINUTE_NS = 60 * 10**9
DAY_NS = 86_400 * 10**9
XNYS_OPEN_NS = (9 * 60 + 30) * MINUTE_NS  # of the New York day
XNYS_CLOSE_NS = 16 * 60 * MINUTE_NS


def is_open(ts_ns_N: Int64, calendar: str) -> Bool:
    """Return which times (ns since the epoch, UTC) lie in regular hours; both ends are in.

    ``24x7`` is always open, ``XNYS`` Monday to Friday from 09:30 to 16:00 in New York. Holidays are not known here: no
    ticks come on them.

    >>> is_open(np.array([1_381_152_600_000_000_000]), "XNYS").tolist()  # Monday, 2013-10-07T13:30Z
    [True]
    """
    if calendar == "24x7":
        return np.ones(len(ts_ns_N), dtype=np.bool_)
    # Offsets from UTC change between hours, so it is enough to convert each hour once.
    hours_U, hour_N = np.unique(ts_ns_N // (60 * MINUTE_NS), return_inverse=True)
    utc = pd.DatetimeIndex(hours_U * 60 * MINUTE_NS)
    local_U = utc.tz_localize("UTC").tz_convert("America/New_York").tz_localize(None)
    offset_U = local_U.as_unit("ns").asi8 - utc.as_unit("ns").asi8
    local_N = ts_ns_N + offset_U[hour_N]
    weekday_N = (local_N // DAY_NS + 3) % 7  # the epoch was a Thursday
    of_day_N = local_N % DAY_NS
    return (weekday_N < 5) & (of_day_N >= XNYS_OPEN_NS) & (of_day_N <= XNYS_CLOSE_NS)
