"""Kafka records as columns of Python values: what every exact decoder takes, and the word for a record it refuses."""

from typing import NamedTuple

Header = tuple[str, bytes | None]


class Records(NamedTuple):
    """Records of one partition in log order; all four lists have one entry a record."""

    offset: list[int]
    key: list[bytes | None]
    value: list[bytes | None]  # None: a tombstone
    headers: list[tuple[Header, ...]]

    def __len__(self) -> int:
        """Return the number of records, not of fields."""
        return len(self.offset)


class Reject(NamedTuple):
    """One tick that was refused, and why; it becomes a dead letter."""

    position: int  # in the records that were decoded
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody wants here; place inside the record, 0 for one tick a record
    reason: str  # short and stable, such as "missing:price"; operators count by it
    detail: str  # for people


def no_records() -> Records:
    """Return a ``Records`` without a record."""
    return Records([], [], [], [])
