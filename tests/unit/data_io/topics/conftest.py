"""Record batches as a broker would return them, built by aiokafka."""

import struct
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

Part = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]


def build(
    parts: Sequence[Part],
    *,
    base: int = 0,
    codec: int = 0,
    producer_id: int = -1,
    transactional: bool = False,
    control: bool = False,
    log_append_time: bool = False,
    span: int | None = None,
) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=int(transactional),
        producer_id=producer_id,
        producer_epoch=0,
        base_sequence=0,
        batch_size=1 << 30,
    )
    for i, (key, value, headers) in enumerate(parts):
        builder.append(i, 1_723_075_200_000 + i, key, value, headers)
    raw = bytearray(builder.build())
    struct.pack_into(">q", raw, 0, base)
    attributes = struct.unpack_from(">h", raw, 21)[0] | (0x20 if control else 0) | (0x08 if log_append_time else 0)
    struct.pack_into(">h", raw, 21, attributes)
    if span is not None:
        struct.pack_into(">i", raw, 23, span)
    return seal(raw)


def seal(raw: bytearray) -> bytes:
    """Give a batch whose bytes were changed the checksum that fits them."""
    struct.pack_into(">I", raw, 17, calc_crc32c(memoryview(raw)[21:]))
    return bytes(raw)


def values(*texts: bytes | None) -> list[Part]:
    return [(None, text, []) for text in texts]


def marker(base: int, producer_id: int, *, commit: bool) -> bytes:
    """Return the control batch that ends a transaction."""
    key = struct.pack(">hh", 0, int(commit))
    part: Part = (key, struct.pack(">hi", 0, 0), [])
    return build([part], base=base, producer_id=producer_id, transactional=True, control=True)


@pytest.fixture(scope="session")
def batches() -> SimpleNamespace:
    return SimpleNamespace(build=build, seal=seal, values=values, marker=marker)
