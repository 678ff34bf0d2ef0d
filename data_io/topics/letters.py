"""Letters: records copied to a topic of their own, byte for byte, with headers that say whence and why."""

from bisect import bisect_right
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from itertools import accumulate

from data_io.topics import record_batch
from data_io.topics.admin import DAY_MS, TopicSpec, log_topic
from data_io.topics.record_batch import Record
from data_io.topics.records import Header, Records

# Compressed batches can hold records that no broker takes uncompressed; of those the beginning is kept. With what is
# added, a letter of so many bytes of its record lies below what the outputs of a worker take.
MAX_BYTES = 3_500_000
# Of the key, and of the headers, of a record that has more than MAX_BYTES.
MAX_PART_BYTES = 100_000
CUT = ("cut-key-from", "cut-headers-from", "cut-from")  # headers that say how many bytes there were


def topic_spec(name: str, partitions: int) -> TopicSpec:
    """Return a topic of letters: a month to look into them.

    A letter is larger than its record by the headers that are added, so the bound lies above Kafka's default.
    """
    return log_topic(name, partitions, retention_ms=30 * DAY_MS, **{"max.message.bytes": str(4 << 20)})


def headers(prefix: str, about: Mapping[str, object]) -> list[Header]:
    """Return ``about`` as headers, and by which version of the code they were added."""
    # A text may quote half of a surrogate pair, which has no UTF-8.
    return [
        (prefix + part, str(text).encode(errors="backslashreplace"))
        for part, text in (*about.items(), ("version", _code_version()))
    ]


def encode(records: Records, position: int, prefix: str, added: list[Header]) -> Record:
    """Return key, value and headers of the letter of one of ``records``; what is added stands last.

    Of a record that is too large, key, headers and value are cut, and CUT say so.
    """
    key, value, kept = records.key[position], records.value[position], records.headers[position]
    if not fits(key, value, record_batch.headers(kept)):
        key, value, kept, cut = _cut(key, value, kept)
        added = [*added, *((prefix + name, b"%d" % size) for name, size in cut.items())]
    return key, value, [*kept, *added]


def fits(key: bytes | None, value: bytes | None, encoded: bytes) -> bool:
    """Return whether a letter takes all of a record, whose headers are given as their bytes."""
    return len(key or b"") + len(value or b"") + len(encoded) <= MAX_BYTES


def _cut(
    key: bytes | None, value: bytes | None, kept: tuple[Header, ...]
) -> tuple[bytes | None, bytes | None, tuple[Header, ...], dict[str, int]]:
    cut: dict[str, int] = {}
    if key is not None and len(key) > MAX_PART_BYTES:
        cut["cut-key-from"] = len(key)
        key = key[:MAX_PART_BYTES]
    ends = list(accumulate(len(record_batch.headers([header])) for header in kept))
    if ends and ends[-1] > MAX_PART_BYTES:
        cut["cut-headers-from"] = ends[-1]
        kept = kept[: bisect_right(ends, MAX_PART_BYTES)]
    room = MAX_BYTES - len(key or b"") - (ends[len(kept) - 1] if kept else 0)
    if value is not None and len(value) > room:
        cut["cut-from"] = len(value)
        value = value[:room]
    return key, value, kept, cut


@cache
def _code_version() -> str:
    return version("tickwise")
