"""The topic ``<topic>.dlq``: records that were refused, byte for byte, with the reason and the place they came from."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from data_io.topics import letters, record_batch
from data_io.topics.admin import TopicSpec
from data_io.topics.record_batch import VARINTS, Record, sized
from data_io.topics.records import Header, Records, Reject
from ml_core.errors import InputError

_PREFIX = "tickwise.dlq."
_FIRST = "reason"  # of the headers that are added
REPLAY_OF = "tickwise.replay-of"  # header of a record that was sent again: which dead letter it was


def name(topic: str) -> str:
    """Return the topic of the dead letters of ``topic``.

    >>> name("market.ticks.v1")
    'market.ticks.v1.dlq'
    """
    return f"{topic}.dlq"


def topic_spec(topic: str, partitions: int) -> TopicSpec:
    """Return the topic of the dead letters of ``topic``."""
    return letters.topic_spec(name(topic), partitions)


def headers(reason: str, detail: str, topic: str, partition: int, offset: int, index: int = 0) -> list[Header]:
    """Return the headers that say why and whence a record was refused, and by which version of the code."""
    about = {
        "reason": reason,
        "detail": detail,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "index": index,
    }
    return letters.headers(_PREFIX, about)


def encode(reject: Reject, records: Records, topic: str, partition: int) -> Record:
    """Return key, value and headers of the dead letter of ``reject``.

    Args:
        reject: What was refused; its position counts in ``records``.
        records: What was decoded.
        topic: Where the record came from.
        partition: Where the record came from.
    """
    at = reject.position
    added = headers(reject.reason, reject.detail, topic, partition, records.offset[at], reject.index)
    return letters.encode(records, at, _PREFIX, added)


def contents(rejects: Sequence[Reject], records: Records, topic: str, partition: int) -> list[bytes]:
    """Return the dead letters of ``rejects`` as ``record_batch.content`` returns what ``encode`` makes of each.

    A topic may hold many records that cannot be read, and the ticks between them have a microsecond each: so what
    all letters of a reason have in common is made once.
    """
    return [_content(reject, records, topic, partition) for reject in rejects]


def _content(reject: Reject, records: Records, topic: str, partition: int) -> bytes:
    at, index, reason, detail = reject
    key, value, kept = records.key[at], records.value[at], records.headers[at]
    before = record_batch.headers(kept) if kept else b""
    if key is None or value is None or not letters.fits(key, value, before):
        return record_batch.content(*encode(reject, records, topic, partition))
    front, middle, behind, added = _common(reason, topic, partition, index)
    about, offset = detail.encode(errors="backslashreplace"), b"%d" % records.offset[at]
    parts = (
        VARINTS[len(key)], key, VARINTS[len(value)], value, VARINTS[len(kept) + added], before,
        front, VARINTS[len(about)], about, middle, VARINTS[len(offset)], offset, behind,
    )  # fmt: skip
    return b"".join(parts)


@lru_cache(256)
def _common(reason: str, topic: str, partition: int, index: int) -> tuple[bytes, bytes, bytes, int]:
    """Return the headers that are added, cut where detail and offset belong, and how many they are."""
    added = headers(reason, "", topic, partition, 0, index)
    pieces, piece = [], b""
    for name, text in added:
        piece += b"".join(sized(name.encode()))
        if name in (f"{_PREFIX}detail", f"{_PREFIX}offset"):
            pieces.append(piece)
            piece = b""
        else:
            piece += b"".join(sized(text))
    front, middle = pieces
    return front, middle, piece, len(added)


class Letter(NamedTuple):
    """A record that was refused, as it was, and what is known about it."""

    key: bytes | None
    value: bytes | None
    headers: list[Header]
    about: dict[str, str]  # reason, detail, topic, partition, offset, index, version; what was cut

    @property
    def reason(self) -> str:
        """Short and stable."""
        return self.about["reason"]

    @property
    def source(self) -> tuple[str, int, int, int]:
        """Topic, partition, offset and index in the record that it came from."""
        about = self.about
        return about["topic"], int(about["partition"]), int(about["offset"]), int(about["index"])


def is_letter(found: Sequence[Header]) -> bool:
    """Return whether headers are those of a dead letter."""
    return any(name == _PREFIX + _FIRST for name, _ in found)


def decode(key: bytes | None, value: bytes | None, found: Sequence[Header]) -> Letter:
    """Return what ``encode`` was given.

    Raises:
        InputError: It is no dead letter of tickwise.
    """
    names = [name for name, _ in found]
    if not is_letter(found):
        raise InputError(f"a record without the header {_PREFIX}{_FIRST} is no dead letter")
    # The record may have been a dead letter itself: what was added stands last.
    begin = len(names) - 1 - names[::-1].index(_PREFIX + _FIRST)
    about = {name.removeprefix(_PREFIX): (text or b"").decode(errors="replace") for name, text in found[begin:]}
    if "topic" not in about or not all(about.get(part, "").isdecimal() for part in ("partition", "offset", "index")):
        raise InputError("a record that does not say where it came from is no dead letter")
    return Letter(key, value, list(found[:begin]), about)
