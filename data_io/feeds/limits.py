"""The bounds of a feed: how long it waits, and how much it holds."""

import math
from dataclasses import dataclass, fields

from ml_core.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Every wait has a bound and every queue a limit; ``_s`` are seconds."""

    connect_s: float = 10.0
    ping_s: float = 15.0  # between two pings; one unanswered for half of it ends the connection
    close_s: float = 1.0  # for the other side to take leave
    silence_s: float | None = None  # without a message a connection is dead; None: as the venue says
    first_pause_s: float = 0.5  # the most before a second attempt; it doubles with each
    longest_pause_s: float = 30.0
    stable_s: float = 30.0  # a connection that lasted so long is no failed attempt
    settle_s: float = 0.25  # for messages that come late, before the REST side is asked
    answer_s: float = 5.0  # for one answer
    attempts: int = 4  # of one question, and of asking again for what an answer lacks
    request_interval_s: float | None = None  # between two questions; None: as the venue allows
    fill_s: float = 30.0  # for one hole, and so the longest that a tick is held
    fill_trades: int = 50_000  # of one hole
    hold: int = 50_000  # ticks of a symbol that wait for a hole
    queue: int = 50_000  # ticks that wait for the reader of the feed; then nothing more is read from the venue
    drain_s: float = 3.0  # for answers that are under way when the feed is stopped

    def __post_init__(self) -> None:
        """Refuse what would wait for ever, or not at all.

        Raises:
            InputError: A bound is not positive and finite.
        """
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"the limit {each.name} = {value} is not positive and finite")
