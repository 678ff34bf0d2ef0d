"""The topic ``<topic>.dlq``: records that were refused, byte for byte, with the reason and the place they came from."""

from functools import cache
from importlib.metadata import version

from data_io.topics.admin import DAY_MS, TopicSpec, log_topic
from data_io.topics.records import Header, Records, Reject

_PREFIX = "tickwise.dlq."
# Compressed batches can hold records that no broker takes uncompressed; of those the beginning is kept.
MAX_VALUE_BYTES = 3_500_000


def name(topic: str) -> str:
    """Return the topic of the dead letters of ``topic``.

    >>> name("market.ticks.v1")
    'market.ticks.v1.dlq'
    """
    return f"{topic}.dlq"


def topic_spec(topic: str, partitions: int) -> TopicSpec:
    """Return the topic of the dead letters of ``topic``: a month to look into them.

    A dead letter is larger than its record by the headers that say why, so the bound lies above Kafka's default.
    """
    return log_topic(name(topic), partitions, retention_ms=30 * DAY_MS, **{"max.message.bytes": str(4 << 20)})


def headers(reason: str, detail: str, topic: str, partition: int, offset: int, index: int = 0) -> list[Header]:
    """Return the headers that say why and whence a record was refused, and by which version of the code."""
    about = {
        "reason": reason,
        "detail": detail,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "index": index,
        "version": _code_version(),
    }
    # A detail may quote half of a surrogate pair, which has no UTF-8.
    return [(_PREFIX + part, str(text).encode(errors="backslashreplace")) for part, text in about.items()]


def encode(
    reject: Reject, records: Records, topic: str, partition: int
) -> tuple[bytes | None, bytes | None, list[Header]]:
    """Return key, value and headers of the dead letter of ``reject``.

    Args:
        reject: What was refused; its position counts in ``records``.
        records: What was decoded.
        topic: Where the record came from.
        partition: Where the record came from.
    """
    at, value = reject.position, records.value[reject.position]
    added = headers(reject.reason, reject.detail, topic, partition, records.offset[at], reject.index)
    if value is not None and len(value) > MAX_VALUE_BYTES:
        added.append((_PREFIX + "cut-from", str(len(value)).encode()))
        value = value[:MAX_VALUE_BYTES]
    return records.key[at], value, [*records.headers[at], *added]


@cache
def _code_version() -> str:
    return version("tickwise")
