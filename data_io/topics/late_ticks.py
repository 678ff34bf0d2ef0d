"""The topic ``<topic>.late``: records with ticks that came later than `source.lateness`, byte for byte.

Their rows stand where all others stand, flagged LATE; the letter is for those who want to know, or to repair bars.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from data_io.topics import letters
from data_io.topics.admin import TopicSpec
from data_io.topics.record_batch import Record
from data_io.topics.records import Records

_PREFIX = "tickwise.late."


class Late(NamedTuple):
    """The late ticks of one record."""

    offset: int
    places: list[int]  # inside the record, ascending; [0] for one tick a record
    late_ns: int  # the most that one of them was behind its symbol's clock


def name(topic: str) -> str:
    """Return the topic of the late ticks of ``topic``.

    >>> name("market.ticks.v1")
    'market.ticks.v1.late'
    """
    return f"{topic}.late"


def topic_spec(topic: str, partitions: int) -> TopicSpec:
    """Return the topic of the late ticks of ``topic``."""
    return letters.topic_spec(name(topic), partitions)


def by_record(offsets: Sequence[int], places: Sequence[int], lags_ns: Sequence[int]) -> list[Late]:
    """Return late ticks, given in the order of the log, record by record.

    >>> by_record([7, 9, 9], [0, 2, 3], [50, 10, 20])
    [Late(offset=7, places=[0], late_ns=50), Late(offset=9, places=[2, 3], late_ns=20)]
    """
    found = []
    for offset, ticks in groupby(zip(offsets, places, lags_ns, strict=True), key=lambda tick: tick[0]):
        _, of_record, lags = zip(*ticks, strict=True)
        found.append(Late(offset, list(of_record), max(lags)))
    return found


def encode(late: Sequence[Late], records: Records, topic: str, partition: int) -> list[Record]:
    """Return key, value and headers of the letters of ``records``, one each.

    Args:
        late: What is late in each record.
        records: As they were read.
        topic: Where the records came from.
        partition: Where the records came from.
    """
    made = []
    for position, each in enumerate(late):
        about = {
            "topic": topic,
            "partition": partition,
            "offset": each.offset,
            "index": _runs(each.places),
            "ticks": len(each.places),
            "late-ns": each.late_ns,
        }
        made.append(letters.encode(records, position, _PREFIX, letters.headers(_PREFIX, about)))
    return made


def _runs(places: Sequence[int]) -> str:
    """Return ascending numbers as text, those that follow one another as first and last.

    >>> _runs([0, 2, 3, 4, 9])
    '0,2-4,9'
    """
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][1] == place - 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
