"""Ticks as finished Kafka record batches, so that sending costs next to nothing: only times and checksums are renewed.

A slot is what is sent at once: for each partition at most one batch. Source of the format:
https://kafka.apache.org/documentation/#messageformat. Shapes: N ticks by slot and partition, B batches, J slots.
"""

import struct
from pathlib import Path
from typing import Any, NamedTuple, Self

import numba
import numpy as np
import numpy.typing as npt
from aiokafka.record.util import calc_crc32c

from ml_core.types import Int32, Int64
from tests.benchmarks.workload import PARTITIONS, Workload

TS_DIGITS = 19  # nanoseconds of the years 2001 to 2286
_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH_END, _CRC_AT, _CRC_END = 12, 17, 21
_TS_KEY = b'"ts":'


class Slots(NamedTuple):
    """One pass of a workload, ready to send."""

    buffer: npt.NDArray[np.uint8]  # the batches back to back
    start_B: Int64
    end_B: Int64
    partition_B: Int32
    count_B: Int32
    first_N_of_B: Int64  # number of its first tick, in this order
    first_B_of_J: Int64  # one entry more than slots
    ts_at_N: Int64  # where the time of a tick begins
    ts_ns_N: Int64  # in the first pass
    span_ns: int

    def __len__(self) -> int:
        """Return the number of slots, not of fields."""
        return len(self.first_B_of_J) - 1

    def slot(self, number: int, passes: int) -> list[tuple[int, memoryview]]:
        """Return (partition, record batch) of one slot, moved to pass ``passes``; valid until the next call for it."""
        parts = []
        for b in range(self.first_B_of_J[number], self.first_B_of_J[number + 1]):
            start, end = int(self.start_B[b]), int(self.end_B[b])
            first = int(self.first_N_of_B[b])
            last = first + int(self.count_B[b])
            _write_times(self.buffer, self.ts_at_N[first:last], self.ts_ns_N[first:last], passes * self.span_ns)
            batch = memoryview(self.buffer)[start:end]
            struct.pack_into(">I", batch, _CRC_AT, calc_crc32c(batch[_CRC_END:]))
            parts.append((int(self.partition_B[b]), batch))
        return parts

    def save(self, path: Path) -> None:
        """Write the slots for another process."""
        np.savez(path, allow_pickle=False, **self._asdict())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return what ``save`` wrote."""
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in cls._fields}
        return cls(**{**arrays, "span_ns": int(arrays["span_ns"])})


def pack(work: Workload, ticks_a_slot: int) -> Slots:
    """Return the pass as slots of ``ticks_a_slot`` ticks, the last one possibly shorter."""
    parts: list[bytes] = []
    starts, ends, partitions, counts, firsts, slot_firsts = [], [], [], [], [], [0]
    ts_at: list[int] = []
    order: list[int] = []
    at = 0
    partition_of = work.partition_N.tolist()
    for begin in range(0, len(work.records), ticks_a_slot):
        members: list[list[int]] = [[] for _ in range(PARTITIONS)]
        for i in range(begin, min(begin + ticks_a_slot, len(work.records))):
            members[partition_of[i]].append(i)
        for partition, numbers in enumerate(members):
            if not numbers:
                continue
            batch, places = _batch([work.records[i] for i in numbers])
            starts.append(at)
            firsts.append(len(order))
            counts.append(len(numbers))
            partitions.append(partition)
            ts_at += [at + place for place in places]
            order += numbers
            parts.append(batch)
            at += len(batch)
            ends.append(at)
        slot_firsts.append(len(starts))
    return Slots(
        buffer=np.frombuffer(bytearray(b"".join(parts)), np.uint8),
        start_B=np.array(starts, np.int64),
        end_B=np.array(ends, np.int64),
        partition_B=np.array(partitions, np.int32),
        count_B=np.array(counts, np.int32),
        first_N_of_B=np.array(firsts, np.int64),
        first_B_of_J=np.array(slot_firsts, np.int64),
        ts_at_N=np.array(ts_at, np.int64),
        ts_ns_N=work.ticks.ts_ns_N[np.array(order, np.int64)],
        span_ns=work.span_ns,
    )


def _batch(records: list[tuple[bytes, bytes]]) -> tuple[bytes, list[int]]:
    """Return a v2 record batch without producer and compression, and where the time of each tick stands in it."""
    parts: list[bytes] = []
    places: list[int] = []
    at = _HEADER.size
    for delta, (key, value) in enumerate(records):
        head = b"\x00\x00" + _varint(delta) + _varint(len(key)) + key + _varint(len(value))
        length = _varint(len(head) + len(value) + 1)
        places.append(at + len(length) + len(head) + value.index(_TS_KEY) + len(_TS_KEY))
        parts += (length, head, value, b"\x00")
        at += len(length) + len(head) + len(value) + 1
    # the broker stamps the batch; no producer id, so it is not idempotent
    head = _HEADER.pack(0, at - _LENGTH_END, -1, 2, 0, 0, len(records) - 1, 0, 0, -1, -1, -1, len(records))
    return b"".join([head, *parts]), places


def _varint(value: int) -> bytes:
    value <<= 1  # zigzag of a number that is not negative
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


@numba.njit(cache=True)
def _write_times(buffer: Any, at_N: Any, ts_ns_N: Any, shift_ns: int) -> None:
    for i in range(len(at_N)):
        value = ts_ns_N[i] + shift_ns
        for digit in range(TS_DIGITS - 1, -1, -1):
            buffer[at_N[i] + digit] = 48 + value % 10
            value //= 10
