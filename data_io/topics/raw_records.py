"""Reads fetched v2 record batches: checks, decompresses, drops control batches and aborted transactions.

Source: Kafka's message format, https://kafka.apache.org/documentation/#messageformat.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from data_io.topics import codecs
from data_io.topics.crc32c import crc32c
from data_io.topics.record_walk import MIN_RECORD_BYTES, Batches, Places, find_records, read_headers
from data_io.topics.records import Header, Records
from ml_core.errors import CorruptRecordError, SetupError

# base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first and last time, producer id, its
# epoch, its sequence, count
_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH_END = 12
_CRC_END = 21
_MAGIC_V2 = 2
_CODEC, _TRANSACTIONAL, _CONTROL = 0x07, 0x10, 0x20
_ABORT = 0
# Of what is decompressed at once: a megabyte of zeros takes some bytes, so a small fetch could fill all memory. It is
# above all that a fetch holds uncompressed, and sixty times what a producer puts into a batch.
MAX_BYTES = 64 << 20


class RawFetch(NamedTuple):
    """Record batches of one partition as fetched bytes."""

    raw: bytes | memoryview  # the last batch may be cut
    first_offset: int  # the position asked for; batches may begin below it
    aborted: list[tuple[int, int]]  # producer id and first offset of aborted transactions; empty where all is read


class FoundRecords(NamedTuple):
    """The records of a fetch, still in place."""

    data: bytes | memoryview  # holds the records, uncompressed
    places: Places
    next_offset: int  # where the next fetch begins

    def take(self, positions: Iterable[int]) -> Records:
        """Return the records at ``positions`` as Python values, in that order."""
        data, where = self.data, self.places
        columns = (where.key_at_N, where.key_len_N, where.value_at_N, where.value_len_N)
        at = np.fromiter(positions, np.int64)
        key_at, key_len, value_at, value_len = (column[at].tolist() for column in columns)

        def texts(places: list[int], lengths: list[int]) -> list[bytes | None]:
            # A length of -1 means null.
            return [None if n < 0 else bytes(data[start : start + n]) for start, n in zip(places, lengths, strict=True)]

        headers: list[tuple[Header, ...]] = [()] * len(at)
        count = where.header_count_N[at]
        for n in np.flatnonzero(count).tolist():
            headers[n] = read_headers(data, int(where.headers_at_N[at[n]]), int(count[n]))
        return Records(where.offset_N[at].tolist(), texts(key_at, key_len), texts(value_at, value_len), headers)


class _Batch(NamedTuple):
    base: int
    span: int
    records: int
    attributes: int
    producer_id: int
    start: int  # of the records, compressed or not
    end: int


def unpack(fetch: RawFetch) -> tuple[Records, int]:
    """Return the records of ``fetch`` that a reader of committed data sees, and the offset of the next fetch.

    Batches that would be more than MAX_BYTES together are left for another call: the offset lies in front of them.

    Raises:
        CorruptRecordError: A batch is damaged. Fetching again is safe.
        SetupError: One batch alone would be more than MAX_BYTES: someone has to decide about it.
    """
    found = find(fetch)
    return found.take(range(len(found.places.offset_N))), found.next_offset


def find(fetch: RawFetch) -> FoundRecords:
    """Return where the records of ``fetch`` lie, as ``unpack`` returns them.

    Raises:
        CorruptRecordError, SetupError: As ``unpack``.
    """
    next_offset = fetch.first_offset
    kept: list[_Batch] = []
    waiting = sorted(fetch.aborted, key=lambda transaction: transaction[1], reverse=True)
    aborted_producers: set[int] = set()
    for batch in _whole_batches(fetch.raw):
        next_offset = max(next_offset, batch.base + batch.span + 1)
        while waiting and waiting[-1][1] <= batch.base:
            aborted_producers.add(waiting.pop()[0])
        if batch.attributes & _CONTROL:
            if batch.producer_id in aborted_producers and _is_abort(fetch.raw, batch):
                aborted_producers.discard(batch.producer_id)
        elif batch.records and not (batch.attributes & _TRANSACTIONAL and batch.producer_id in aborted_producers):
            kept.append(batch)
    kept = [batch for batch in kept if batch.base + batch.span >= fetch.first_offset]
    data, batches = _uncompressed(fetch.raw, kept)
    if (taken := len(batches.base_B)) < len(kept):
        next_offset = max(fetch.first_offset, kept[taken].base)
    places = find_records(batches, fetch.first_offset)
    if places is None:
        raise CorruptRecordError(
            f"a record batch between offsets {fetch.first_offset} and {next_offset} holds malformed records"
        )
    return FoundRecords(data, places, next_offset)


def _whole_batches(raw: bytes | memoryview) -> Iterator[_Batch]:
    """Yield the batches of ``raw`` up to the first that is cut, each with its checksum checked."""
    view = memoryview(raw)
    at, size = 0, len(raw)
    while size - at >= _HEADER.size:
        base, length, _, magic, crc, attributes, span, _, _, producer_id, _, _, count = _HEADER.unpack_from(raw, at)
        end = at + _LENGTH_END + length
        if end > size:
            return
        if magic != _MAGIC_V2:
            raise CorruptRecordError(
                f"offset {base} is in message format {magic}; only format 2 (Kafka 0.11 and later) is read"
            )
        if end < at + _HEADER.size or span < 0 or count < 0 or crc32c(view[at + _CRC_END : end]) != crc:
            raise CorruptRecordError(f"the record batch at offset {base} fails its checksum")
        yield _Batch(base, span, count, attributes, producer_id, at + _HEADER.size, end)
        at = end


def _uncompressed(raw: bytes | memoryview, kept: list[_Batch]) -> tuple[bytes | memoryview, Batches]:
    """Return the bytes of as many of ``kept`` as fit into MAX_BYTES, and where they are."""
    buffer: bytes | memoryview = raw
    bounds = [(batch.start, batch.end) for batch in kept]
    if any(batch.attributes & _CODEC for batch in kept):
        buffer, ends = _decompressed(raw, kept)
        bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        kept = kept[: len(ends)]
    for batch, (start, end) in zip(kept, bounds, strict=True):
        if batch.records > (end - start) // MIN_RECORD_BYTES:
            raise CorruptRecordError(
                f"the record batch at offset {batch.base} is too short for its {batch.records} records"
            )
    columns = np.array(
        [
            [start for start, _ in bounds],
            [end for _, end in bounds],
            [batch.base for batch in kept],
            [batch.span for batch in kept],
            [batch.records for batch in kept],
        ],
        np.int64,
    )
    whole = np.frombuffer(buffer, np.uint8)
    whole.flags.writeable = False  # one type, compressed or not, so that the kernel is compiled once
    return buffer, Batches(whole, *columns)


def _decompressed(raw: bytes | memoryview, kept: list[_Batch]) -> tuple[memoryview, list[int]]:
    """Return the bytes of the first of ``kept``, one behind the other, and where those of each end."""
    room = memoryview(np.empty(MAX_BYTES, np.uint8))  # type: ignore[arg-type]  # an array is a buffer
    ends: list[int] = []
    at = 0  # pages behind it are never touched, and so are no memory
    for batch in kept:
        data, kind = raw[batch.start : batch.end], batch.attributes & _CODEC
        try:
            at += codecs.decompress(kind, data, room[at:])
        except codecs.NoRoomError:
            if ends:
                break
            raise SetupError(
                f"the record batch at offset {batch.base}, {len(data)} bytes of {codecs.NAMES[kind]}, holds more than "
                f"{MAX_BYTES} bytes and is not read"
            ) from None
        except Exception as error:  # the codecs share no error; all of them mean damage
            raise CorruptRecordError(
                f"the record batch at offset {batch.base} (codec {kind}) cannot be decompressed: {error!r}"
            ) from error
        ends.append(at)
    return room[:at], ends


def _is_abort(raw: bytes | memoryview, batch: _Batch) -> bool:
    if not batch.records:
        return False
    found = find_records(_uncompressed(raw, [batch])[1], batch.base)
    if found is None or found.key_len_N[0] < 4:
        raise CorruptRecordError(f"the control batch at offset {batch.base} is malformed")
    at = int(found.key_at_N[0])
    _version, kind = struct.unpack_from(">hh", raw, at)
    return bool(kind == _ABORT)
