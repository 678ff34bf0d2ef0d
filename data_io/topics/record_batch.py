"""A v2 record batch that is written here, as bytes, and becomes whole when its producer is known.

Source: Kafka's message format, https://kafka.apache.org/documentation/#messageformat.
"""

import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_io.topics.crc32c import crc32c
from data_io.topics.records import Header
from ml_core.types import UInt8

Record = tuple[bytes | None, bytes | None, Sequence[Header]]  # key, value, headers

HEADER_BYTES = 61
# Below the broker's default message.max.bytes of 1,048,588, so that a full batch is never refused.
BATCH_BYTES = 1_000_000
_FRAME_BYTES = 24  # length, attributes and deltas of a record, at most
_FROM_LENGTH = struct.Struct(">iib")  # length, partition leader epoch, magic
_FROM_CRC = struct.Struct(
    ">Ihiqqqhii"
)  # CRC, attributes, last offset delta, two times, producer, epoch, sequence, count
_LENGTH_AT, _CRC_AT, _ATTRIBUTES_AT = 8, 17, 21
_MAGIC, _TRANSACTIONAL = 2, 0x10


class RecordBatch(NamedTuple):
    """Records with room for the header of their batch in front of them."""

    data: UInt8
    records: int


def seal(batch: RecordBatch, *, producer_id: int, epoch: int, sequence: int, transactional: bool) -> None:
    """Write the header of ``batch``, which is complete then."""
    data, count = memoryview(batch.data), batch.records  # type: ignore[arg-type]  # an array is a buffer
    now_ms = time.time_ns() // 1_000_000  # the broker puts its own time in its place
    attributes = _TRANSACTIONAL if transactional else 0
    data[:_LENGTH_AT] = bytes(_LENGTH_AT)
    _FROM_LENGTH.pack_into(data, _LENGTH_AT, len(data) - _LENGTH_AT - 4, -1, _MAGIC)
    about = (attributes, count - 1, now_ms, now_ms, producer_id, epoch, sequence, count)
    _FROM_CRC.pack_into(data, _CRC_AT, 0, *about)
    _FROM_CRC.pack_into(data, _CRC_AT, crc32c(data[_ATTRIBUTES_AT:]), *about)


def pack(records: Sequence[Record]) -> list[RecordBatch]:
    """Return batches of ``records``, in order, of at most BATCH_BYTES unless one record alone has more."""
    return join([content(*record) for record in records])


def content(key: bytes | None, value: bytes | None, added: Sequence[Header]) -> bytes:
    """Return the bytes of a record but for its place in the batch: all from the length of the key on."""
    return b"".join((*sized(key), *sized(value), VARINTS[len(added)], headers(added)))


def headers(added: Sequence[Header]) -> bytes:
    """Return the bytes of the headers of a record, without their number."""
    return b"".join(part for name, text in added for part in (*sized(name.encode()), *sized(text)))


def join(contents: Sequence[bytes]) -> list[RecordBatch]:
    """Return batches of records, given as ``content`` returns them, in order and bounded as those of ``pack``."""
    made: list[RecordBatch] = []
    parts, delta, size = [bytes(HEADER_BYTES)], 0, 0
    for each in contents:
        more = _FRAME_BYTES + len(each)
        if delta and size + more > BATCH_BYTES:
            made.append(_batch(parts, delta))
            parts, delta, size = [bytes(HEADER_BYTES)], 0, 0
        front = _FRONTS[delta] if delta < len(_FRONTS) else b"\0\0" + VARINTS[delta]
        parts += (VARINTS[len(front) + len(each)], front, each)
        delta += 1
        size += more
    return [*made, _batch(parts, delta)] if delta else made


def _batch(parts: Sequence[bytes], records: int) -> RecordBatch:
    return RecordBatch(np.frombuffer(bytearray().join(parts), np.uint8), records)


def sized(content: bytes | None) -> tuple[bytes, ...]:
    """Return the parts of ``content`` with its length in front."""
    return (VARINTS[-1],) if content is None else (VARINTS[len(content)], content)


class _Varints(dict[int, bytes]):
    """64-bit numbers as zigzag varints: looked up where they are small, as nearly all lengths and places are."""

    def __missing__(self, value: int) -> bytes:
        value = value << 1 ^ value >> 63
        written = bytearray()
        while value > 127:
            written.append(value & 127 | 128)
            value >>= 7
        written.append(value)
        return bytes(written)


VARINTS = _Varints()
VARINTS.update({value: VARINTS[value] for value in range(-1, 1024)})
_FRONTS = tuple(b"\0\0" + VARINTS[delta] for delta in range(1024))  # attributes, delta of time, place in the batch
