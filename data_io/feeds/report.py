"""What a feed has done so far."""

from collections import Counter
from dataclasses import dataclass, field

from data_io.data_fetcher.port import SourceReport

_TOLD_APART = 100  # names of messages and reasons: they are in the hand of the venue
_NAME_CHARACTERS = 100


@dataclass
class FeedReport(SourceReport):
    """Counts since the start of a feed; ``ticks`` are those handed out."""

    connections: int = 0
    lost: Counter[str] = field(default_factory=Counter)  # connections that ended, and attempts that failed: by reason
    duplicates: int = 0  # trades that came more than once; handed out once
    holes: int = 0  # times that trades were missing, or could have been
    backfilled: int = 0  # trades that the REST side gave
    requests: int = 0  # questions to the REST side
    gaps: Counter[str] = field(default_factory=Counter)  # marks: by reason
    missing: int = 0  # trades inside marks
    most_held: int = 0  # ticks of one symbol that waited for a hole at once

    def skip(self, reason: str, place: str) -> None:
        """Count one unusable message; see `SourceReport.skip`."""
        super().skip(_bounded(reason, self.skipped), place)

    def ignore(self, name: str) -> None:
        """Count one sound message that is no tick."""
        self.ignored[_bounded(name, self.ignored)] += 1


def _bounded(name: str, counts: Counter[str]) -> str:
    name = name[:_NAME_CHARACTERS]
    return name if name in counts or len(counts) < _TOLD_APART else "others"
