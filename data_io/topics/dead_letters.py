"""The topic ``<topic>.dlq``: records that were refused, byte for byte, with the reason and the place they came from."""

from data_io.topics.records import Header, Records, Reject

_PREFIX = "tickwise.dlq."


def name(topic: str) -> str:
    """Return the topic of the dead letters of ``topic``.

    >>> name("market.ticks.v1")
    'market.ticks.v1.dlq'
    """
    return f"{topic}.dlq"


def encode(
    reject: Reject, records: Records, topic: str, partition: int, version: str
) -> tuple[bytes | None, bytes | None, list[Header]]:
    """Return key, value and headers of the dead letter of ``reject``.

    Args:
        reject: What was refused; its position counts in ``records``.
        records: What was decoded.
        topic: Where the record came from.
        partition: Where the record came from.
        version: Of the code that refused it.
    """
    at = reject.position
    about = {
        "reason": reject.reason,
        "detail": reject.detail,
        "topic": topic,
        "partition": partition,
        "offset": records.offset[at],
        "index": reject.index,
        "version": version,
    }
    # A detail may quote half of a surrogate pair, which has no UTF-8.
    added = [(_PREFIX + part, str(text).encode(errors="backslashreplace")) for part, text in about.items()]
    return records.key[at], records.value[at], [*records.headers[at], *added]
