"""The topic ``labels.counted.v1``: how many rows of a pipeline have a known label, partition by partition."""

import msgspec

from data_io.topics.admin import TopicSpec, log_topic

NAME = "labels.counted.v1"


class LabelCount(msgspec.Struct, frozen=True):
    """Rows of one partition whose label has matured since the first tick."""

    pipeline: str
    topic_id: str  # of the ticks
    partition: int
    labelled: int


def topic_spec() -> TopicSpec:
    """Return the topic: one partition, so that one worker sees every count."""
    return log_topic(NAME, 1)


def encode(count: LabelCount) -> tuple[bytes, bytes]:
    """Return key and value."""
    return count.pipeline.encode(), msgspec.json.encode(count)


def decode(value: bytes | None) -> LabelCount | None:
    """Return the count; None for what is none."""
    try:
        return msgspec.json.decode(value or b"", type=LabelCount)
    except msgspec.DecodeError:
        return None
