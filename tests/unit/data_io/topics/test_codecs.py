"""What is decompressed is what was compressed, and never more than there is room for."""

import gzip
import resource
import struct
import sys
import zlib
from collections.abc import Callable

import cramjam
import pytest
from aiokafka import codec as by_aiokafka
from hypothesis import given, settings
from hypothesis import strategies as st

from data_io.topics.codecs import NAMES, NoRoomError, decompress

MEGABYTE = 1 << 20
XERIAL = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": by_aiokafka.gzip_encode,
    "snappy": by_aiokafka.snappy_encode,
    "raw snappy": lambda data: bytes(by_aiokafka.snappy_encode(data, xerial_compatible=False)),
    "lz4": by_aiokafka.lz4_encode,
    "zstd": by_aiokafka.zstd_encode,
}


def number(name: str) -> int:
    return NAMES.index(name.removeprefix("raw "))


def block(data: bytes) -> bytes:
    made = bytes(cramjam.snappy.compress_raw(data))
    return struct.pack(">I", len(made)) + made


def a_gigabyte(name: str) -> bytes:
    """Return what holds 1024 MB of zeros: written a megabyte after the other, so that nobody has to hold them here."""
    if name == "raw snappy":
        return b"\x80\x80\x80\x80\x04" + b"\0" * 100
    zeros = bytes(MEGABYTE)
    if name == "gzip":  # its members are bounded one by one
        member = zlib.compressobj(1, wbits=31)
        return b"".join(member.compress(zeros) for _ in range(1024)) + member.flush()
    return XERIAL + block(zeros) * 1024 if name == "snappy" else COMPRESS[name](zeros) * 1024


@pytest.mark.parametrize("name", list(COMPRESS))
@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=200) | st.binary(max_size=9).map(lambda part: part * 9_000))
def test_what_fits_is_what_was_compressed(name: str, data: bytes) -> None:
    room = bytearray(b"\xa5" * (len(data) + 8))
    made = COMPRESS[name](data)
    for fits in (len(data), len(data) + 8):
        assert decompress(number(name), memoryview(made), memoryview(room)[:fits]) == len(data)
        assert room == data + b"\xa5" * 8
    if data:
        with pytest.raises(NoRoomError):
            decompress(number(name), made, memoryview(room)[: len(data) - 1])


@pytest.mark.parametrize("name", list(COMPRESS))
def test_what_claims_to_be_more_is_refused_before_it_is_made(name: str) -> None:
    bomb, room = a_gigabyte(name), memoryview(bytearray(MEGABYTE))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NoRoomError):
        decompress(number(name), bomb, room)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 64 * MEGABYTE


@pytest.mark.parametrize("name", list(COMPRESS))
def test_what_is_cut_is_damaged_and_not_too_large(name: str) -> None:
    made = COMPRESS[name](b"tick" * 500)
    for kept in range(len(XERIAL) + 1, len(made) - 1, 3):
        with pytest.raises(Exception, match=r"\w") as caught:  # of any kind but one
            decompress(number(name), made[:kept], memoryview(bytearray(2000)))
        assert not isinstance(caught.value, NoRoomError)


def test_members_of_gzip_follow_each_other() -> None:
    room = memoryview(bytearray(9))
    assert decompress(1, gzip.compress(b"one") + gzip.compress(b"") + gzip.compress(b"two"), room) == 6
    assert bytes(room[:6]) == b"onetwo"


def test_more_members_of_gzip_than_anybody_writes_are_refused() -> None:
    """Each costs a copy of all that follows."""
    with pytest.raises(zlib.error, match="members"):
        decompress(1, gzip.compress(b"") * 1_001, memoryview(bytearray(9)))
