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
_FRAME_BYTES = 24  # lengths and deltas of a record, or of a header, at most
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
    made: list[RecordBatch] = []
    group: list[Record] = []
    size = 0
    for record in records:
        key, value, headers = record
        more = _FRAME_BYTES + len(key or b"") + len(value or b"")
        more += sum(_FRAME_BYTES + len(name) + len(content or b"") for name, content in headers)
        if group and size + more > BATCH_BYTES:
            made.append(_pack(group))
            group, size = [], 0
        group.append(record)
        size += more
    return [*made, _pack(group)] if group else made


def _pack(records: Sequence[Record]) -> RecordBatch:
    parts = [bytes(HEADER_BYTES)]
    for delta, (key, value, headers) in enumerate(records):
        body = [b"\0\0", varint(delta), *sized(key), *sized(value), varint(len(headers))]
        for name, content in headers:
            body += [*sized(name.encode()), *sized(content)]
        parts += [varint(sum(map(len, body))), *body]
    return RecordBatch(np.frombuffer(bytearray().join(parts), np.uint8), len(records))


def sized(content: bytes | None) -> tuple[bytes, ...]:
    """Return the parts of ``content`` with its length in front."""
    return (varint(-1),) if content is None else (varint(len(content)), content)


def varint(value: int) -> bytes:
    """Return a 64-bit number as a zigzag varint."""
    value = value << 1 ^ value >> 63
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)
