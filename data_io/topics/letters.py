"""Letters: records copied to a topic of their own, byte for byte, with headers that say whence and why."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version

from data_io.topics.admin import DAY_MS, TopicSpec, log_topic
from data_io.topics.record_batch import Record
from data_io.topics.records import Header, Records

# Compressed batches can hold records that no broker takes uncompressed; of those the beginning is kept.
MAX_VALUE_BYTES = 3_500_000


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
    """Return key, value and headers of the letter of one of ``records``; what is added stands last."""
    value = records.value[position]
    if value is not None and len(value) > MAX_VALUE_BYTES:
        added = [*added, (prefix + "cut-from", str(len(value)).encode())]
        value = value[:MAX_VALUE_BYTES]
    return records.key[position], value, [*records.headers[position], *added]


@cache
def _code_version() -> str:
    return version("tickwise")
