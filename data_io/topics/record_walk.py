"""Finds the records in the bytes of v2 record batches, without an object per record.

Source: Kafka's message format, https://kafka.apache.org/documentation/#messageformat. Shapes: B batches, N records.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from data_io.topics.json_scan import byte_at, inlined, kernel, outermost
from ml_core.types import Int32, Int64, UInt8

# length, attributes, time delta, offset delta, key length, value length, header count: one byte each at least
MIN_RECORD_BYTES = 7
_CONTENT_TYPE = np.frombuffer(b"content-type", np.uint8)


class Batches(NamedTuple):
    """The record batches of one fetch that hold data for the reader, uncompressed; B batches."""

    buffer: UInt8
    start_B: Int64  # where the records of a batch begin in `buffer`
    end_B: Int64
    base_B: Int64  # base offset
    span_B: Int64  # last offset minus base offset
    count_B: Int64  # records, at most what MIN_RECORD_BYTES allows


class Places(NamedTuple):
    """Where the parts of N records lie in the buffer of their batches."""

    offset_N: Int64
    key_at_N: Int64
    key_len_N: Int64  # -1: no key
    value_at_N: Int64
    value_len_N: Int64  # -1: no value
    headers_at_N: Int64  # behind the header count
    header_count_N: Int32
    typed_N: UInt8  # 1 where a header is named content-type


def find_records(batches: Batches, first_offset: int) -> Places | None:
    """Return the places of all records at or above ``first_offset``, in order; None when a batch is malformed."""
    room = sum(batches.count_B.tolist())
    at_6N = np.empty((6, room), np.int64)
    counts, typed = np.empty(room, np.int32), np.empty(room, np.uint8)
    places = Places(at_6N[0], at_6N[1], at_6N[2], at_6N[3], at_6N[4], at_6N[5], counts, typed)
    found = _walk(batches, first_offset, _CONTENT_TYPE, places)
    if found == room:
        return places
    return None if found < 0 else Places._make(column[:found] for column in places)


def read_headers(data: bytes | memoryview, at: int, count: int) -> tuple[tuple[str, bytes | None], ...]:
    """Return the headers of one record that ``find_records`` has found; a name that is no UTF-8 is escaped."""
    headers = []
    for _ in range(count):
        length, at = _varint_of(data, at)
        name, at = bytes(data[at : at + length]), at + length
        length, at = _varint_of(data, at)
        value = None if length < 0 else bytes(data[at : at + length])
        at += max(length, 0)
        headers.append((name.decode(errors="backslashreplace"), value))
    return tuple(headers)


def _varint_of(data: bytes | memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return (value >> 1) ^ -(value & 1), at


@inlined
def _varint(at: int, end: int) -> Any:
    """Return a zigzag varint and the place behind it; place -1 where it is cut, too long, or ``at`` was -1 already."""
    value, shift = numba.uint64(0), numba.uint64(0)
    while 0 <= at < end and shift < 64:
        byte = byte_at(at)
        at += 1
        value |= numba.uint64(byte & 127) << shift
        shift += numba.uint64(7)
        if byte < 128:
            return numba.int64(value >> numba.uint64(1)) ^ -numba.int64(value & numba.uint64(1)), at
    return 0, -1


@inlined
def _bytes(at: int, end: int) -> Any:
    """Return length (-1: null) and place of a byte string, and the place behind it; places -1 where it does not fit."""
    length, at = _varint(at, end)
    if at < 0 or length < -1 or length > end - at:
        return 0, -1, -1
    return length, at, at + max(length, 0)


@kernel
def _is_named(at: int, length: int, name: Any) -> bool:
    if length != name.shape[0]:
        return False
    for i in range(length):
        byte = byte_at(at + i)
        if (byte | 32 if 65 <= byte <= 90 else byte) != name[i]:  # 65 to 90: A to Z
            return False
    return True


@kernel
def _headers(at: int, end: int, count: int, content_type: Any) -> tuple[int, int]:
    """Return the place behind ``count`` headers (-1: malformed) and whether one is named ``content_type``."""
    typed = 0
    for _ in range(count):
        name_len, name_at, at = _bytes(at, end)
        if name_len < 0 or at < 0:
            return -1, 0
        if _is_named(name_at, name_len, content_type):
            typed = 1
        _, _, at = _bytes(at, end)
        if at < 0:
            return -1, 0
    return at, typed


@outermost
def _walk(batches: Any, first_offset: int, content_type: Any, out: Any) -> int:
    """Fill ``out`` and return the number of records; -1 where a batch is malformed. Never reads outside a batch.

    A place of -1 passes through all reads that follow it, so one look at the end of a record is enough.
    """
    start = batches.buffer.ctypes.data
    n, newest = 0, numba.int64(-1)
    for b in range(batches.start_B.shape[0]):
        at, batch_end = start + batches.start_B[b], start + batches.end_B[b]
        for _ in range(batches.count_B[b]):
            length, at = _varint(at, batch_end)
            if at < 0 or length < 1 or length > batch_end - at:
                return -1
            end = at + length
            _, at = _varint(at + 1, end)  # time delta; the byte before it holds attributes that nobody uses
            delta, at = _varint(at, end)
            key_len, key_at, at = _bytes(at, end)
            value_len, value_at, at = _bytes(at, end)
            count, headers_at = _varint(at, end)
            if headers_at < 0 or count < 0 or count > end - headers_at:
                return -1
            at, typed = headers_at, 0
            if count:
                at, typed = _headers(headers_at, end, count, content_type)
            offset = batches.base_B[b] + delta
            if at != end or delta < 0 or delta > batches.span_B[b] or offset <= newest:
                return -1
            newest = offset
            if offset >= first_offset:
                out.offset_N[n] = offset
                out.key_at_N[n], out.key_len_N[n] = key_at - start, key_len
                out.value_at_N[n], out.value_len_N[n] = value_at - start, value_len
                out.headers_at_N[n], out.header_count_N[n], out.typed_N[n] = headers_at - start, count, typed
                n += 1
        if at != batch_end:
            return -1
    return n
