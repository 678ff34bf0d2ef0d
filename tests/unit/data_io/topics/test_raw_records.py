import struct

import pytest
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from data_io.topics import raw_records
from data_io.topics.raw_records import RawFetch, unpack
from ml_core.errors import CorruptRecordError, DependencyError, SetupError

CODECS = [pytest.param(0, id="none"), pytest.param(1, id="gzip"), pytest.param(2, id="snappy")]
CODECS += [pytest.param(3, id="lz4"), pytest.param(4, id="zstd")]
PARTS = [
    (b"A", b"one", []),
    (None, b"two", [("trace", b"\x00\xff"), ("content-type", None)]),
    (b"", None, []),
    ("ключ".encode(), b"x" * 3000, [("имя", b"")]),
]


def by_aiokafka(raw: bytes) -> list[tuple]:
    found = []
    records = MemoryRecords(raw)
    while records.has_next():
        found += [(record.offset, record.key, record.value, tuple(record.headers)) for record in records.next_batch()]
    return found


def fetch(raw: bytes, first_offset: int = 0, aborted: list[tuple[int, int]] | None = None) -> RawFetch:
    return RawFetch(raw, first_offset, aborted or [])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("log_append_time", [False, True])
def test_records_are_those_that_aiokafka_reads(batches, codec: int, log_append_time: bool) -> None:
    raw = batches.build(PARTS, base=10, codec=codec, log_append_time=log_append_time)
    raw += batches.build(PARTS * 50, base=14, codec=codec, log_append_time=log_append_time)

    records, next_offset = unpack(fetch(raw))

    assert list(zip(*records, strict=True)) == by_aiokafka(raw)
    assert next_offset == 214


def test_batches_of_different_codecs_stand_side_by_side(batches) -> None:
    raw = b"".join(batches.build(PARTS, base=4 * codec, codec=codec) for codec in range(5))
    records, next_offset = unpack(fetch(raw))
    assert list(zip(*records, strict=True)) == by_aiokafka(raw)
    assert next_offset == 20


def test_a_cut_batch_at_the_end_is_left_for_the_next_fetch(batches) -> None:
    whole, cut = batches.build(PARTS, base=0), batches.build(PARTS, base=4)
    for kept in range(len(cut)):
        records, next_offset = unpack(fetch(whole + cut[:kept]))
        assert (records.offset, next_offset) == ([0, 1, 2, 3], 4)


def test_records_below_the_position_are_dropped(batches) -> None:
    raw = batches.build(PARTS, base=100) + batches.build(PARTS, base=104)
    records, next_offset = unpack(fetch(raw, first_offset=103))
    assert (records.offset, next_offset) == ([103, 104, 105, 106, 107], 108)


def test_nothing_fetched_leaves_the_position_where_it_is() -> None:
    records, next_offset = unpack(fetch(b"", first_offset=7))
    assert (records.offset, next_offset) == ([], 7)


def test_a_compacted_batch_moves_the_position_past_what_was_removed(batches) -> None:
    records, next_offset = unpack(fetch(batches.build(PARTS, base=5, span=20)))
    assert (records.offset, next_offset) == ([5, 6, 7, 8], 26)


def test_a_batch_that_compaction_emptied_moves_the_position(batches) -> None:
    empty = bytearray(batches.build([(None, b"x", [])], base=5, span=3))
    del empty[61:]
    struct.pack_into(">i", empty, 8, len(empty) - 12)
    struct.pack_into(">i", empty, 57, 0)
    records, next_offset = unpack(fetch(batches.seal(empty)))
    assert (records.offset, next_offset) == ([], 9)


def test_control_batches_hold_no_records(batches) -> None:
    raw = batches.build(PARTS, base=0, producer_id=7, transactional=True)
    raw += batches.marker(4, 7, commit=True) + batches.build(PARTS, base=5)
    records, next_offset = unpack(fetch(raw))
    assert (records.offset, next_offset) == ([0, 1, 2, 3, 5, 6, 7, 8], 9)


def test_aborted_transactions_are_skipped_up_to_their_marker(batches) -> None:
    def of(base: int, producer_id: int, *, transactional: bool = True) -> bytes:
        return batches.build([(None, b"x", [])], base=base, producer_id=producer_id, transactional=transactional)

    # producer 7 aborts 1 to 3 and commits 5; producer 8 commits 2; producer 7 also writes 4 outside of a transaction
    raw = of(0, 7) + of(1, 7) + of(2, 8) + of(3, 7) + of(4, 7, transactional=False)
    raw += batches.marker(5, 7, commit=False) + of(6, 7) + batches.marker(7, 7, commit=True)
    records, next_offset = unpack(fetch(raw, aborted=[(7, 1)]))
    assert (records.offset, next_offset) == ([0, 2, 4, 6], 8)


def test_an_aborted_transaction_may_begin_before_the_fetch_and_end_after_it(batches) -> None:
    raw = batches.build(PARTS, base=50, producer_id=7, transactional=True)
    records, next_offset = unpack(fetch(raw, first_offset=50, aborted=[(7, 3)]))
    assert (records.offset, next_offset) == ([], 54)


@pytest.mark.parametrize("codec", CODECS)
def test_a_flipped_bit_fails_the_checksum(batches, codec: int) -> None:
    raw = batches.build(PARTS, codec=codec)
    for at in range(17, len(raw), 41):
        damaged = bytearray(raw)
        damaged[at] ^= 4
        with pytest.raises(CorruptRecordError, match="checksum"):
            unpack(fetch(bytes(damaged)))


def test_damage_is_worth_a_retry() -> None:
    assert issubclass(CorruptRecordError, DependencyError)


@pytest.mark.parametrize("codec", CODECS[1:])
def test_bytes_that_do_not_decompress_are_damage(batches, codec: int) -> None:
    raw = bytearray(batches.build([(None, b"x" * 500, [])], codec=codec))
    raw[61:] = b"\x07" * (len(raw) - 61)
    with pytest.raises(CorruptRecordError, match=r"decompress|malformed|too short"):
        unpack(fetch(batches.seal(raw)))


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_batch_that_is_too_large_uncompressed_is_named(batches, codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_records, "MAX_BYTES", 10_000)
    raw = batches.build([(None, bytes(10_000), [])], base=7, codec=codec)
    with pytest.raises(SetupError, match=rf"at offset 7, {len(raw) - 61} bytes of \w+, holds more than 10000 bytes"):
        unpack(fetch(raw))


def test_batches_that_are_too_large_together_are_read_one_call_after_the_other(
    batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_records, "MAX_BYTES", 10_000)
    raw = batches.build(PARTS, base=0, producer_id=7, transactional=True)
    raw += b"".join(batches.build(PARTS, base=4 * (codec + 1), codec=codec) for codec in range(5))
    found, at, calls = [], 0, 0
    while at < 24:
        records, behind = unpack(fetch(raw, at, aborted=[(7, 0)]))
        assert behind > at
        found, at, calls = found + records.offset, behind, calls + 1
    assert (found, calls) == (list(range(4, 24)), 2)


def test_the_old_message_formats_are_named_in_the_error(batches) -> None:
    raw = bytearray(batches.build(PARTS))
    raw[16] = 1
    with pytest.raises(CorruptRecordError, match="format 1"):
        unpack(fetch(bytes(raw)))


@given(data=st.data())
def test_malformed_records_under_a_good_checksum_never_read_outside(batches, data: st.DataObject) -> None:
    raw = bytearray(batches.build(PARTS))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(61, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(61, len(raw)))
    del raw[cut:]
    struct.pack_into(">i", raw, 8, len(raw) - 12)
    struct.pack_into(">i", raw, 57, data.draw(st.integers(-1, 6)))
    try:
        records, next_offset = unpack(fetch(batches.seal(raw)))
    except CorruptRecordError:
        return
    assert next_offset == 4
    assert len(records.offset) <= 4
    for parts in (records.key, records.value):
        assert all(part is None or part in bytes(raw) for part in parts)


def test_a_header_name_that_is_no_utf8_is_escaped(batches) -> None:
    raw = bytearray(batches.build([(None, b"v", [("ab", b"x")])]))
    raw[raw.index(b"ab")] = 0xFF
    records, _ = unpack(fetch(batches.seal(raw)))
    assert records.headers == [(("\\xffb", b"x"),)]
