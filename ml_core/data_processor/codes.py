"""Features that are codes of a kind, for `[features] use` and `categories`; written as own features are.

``ml_core.data_processor.codes:HourOfDay`` in `use` makes a column ``hour_of_day``. The kind of a tick is a feature of
the catalogue, `is_trade`. Shapes: N ticks.
"""

import numpy as np

from ml_core.types import Float64, Int64, TickBatch, TickKind

_HOUR_NS = 3600 * 10**9
_DAY_NS = 24 * _HOUR_NS
_THURSDAY = 3  # the first day of the epoch


class HourOfDay:
    """The hour of a tick's event time, UTC: 0 to 23."""

    name = "hour_of_day"
    width = 0

    def update(self, ticks: TickBatch, state_SK: Float64) -> Int64:
        """Return the hour of each tick."""
        return ticks.ts_ns_N // _HOUR_NS % 24


class DayOfWeek:
    """The day of a tick's event time, UTC: 0 is Monday."""

    name = "day_of_week"
    width = 0

    def update(self, ticks: TickBatch, state_SK: Float64) -> Int64:
        """Return the day of each tick."""
        return (ticks.ts_ns_N // _DAY_NS + _THURSDAY) % 7


class TickSide:
    """Who took, as the venue says of a trade: 1 the buyer, -1 the seller, 0 not said; undefined at a quote."""

    name = "tick_side"
    width = 0

    def update(self, ticks: TickBatch, state_SK: Float64) -> Float64:
        """Return the side of each tick."""
        return np.where(ticks.kind_N == TickKind.TRADE, ticks.side_N, np.nan)
