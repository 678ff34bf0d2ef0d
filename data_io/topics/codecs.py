"""Decompresses the records of a batch into room of a fixed size: what claims to be more is never made."""

import struct
import zlib
from collections.abc import Callable, Iterator

import cramjam

NAMES = ("none", "gzip", "snappy", "lz4", "zstd")  # by the number that a record batch gives
_GZIP = 31  # window of 32 kB with the header and checksum of gzip
_MEMBERS = 1_000  # of one gzip stream; a producer makes one
# Snappy has no frames, so Java clients cut what they compress into blocks with their lengths in front.
_XERIAL, _XERIAL_HEADER_BYTES = b"\x82SNAPPY\0", 16
_LENGTH = struct.Struct(">I")

Buffer = bytes | memoryview


class NoRoomError(Exception):
    """What is decompressed is larger than the room for it."""


def decompress(kind: int, data: Buffer, room: memoryview) -> int:
    """Write what ``data`` holds to the beginning of ``room``, and return how many bytes that are.

    Raises:
        NoRoomError: They are more than ``room`` takes.
        Exception: Of whatever kind: ``data`` is damaged.
    """
    return _DECOMPRESS[kind](data, room)


def _none(data: Buffer, room: memoryview) -> int:
    if len(data) > len(room):
        raise NoRoomError
    room[: len(data)] = data
    return len(data)


def _gzip(data: Buffer, room: memoryview) -> int:
    at, members = 0, 0
    while data:
        members += 1
        if members > _MEMBERS:  # each costs a copy of all that follows
            raise zlib.error(f"more than {_MEMBERS} members")
        member = zlib.decompressobj(_GZIP)
        text = member.decompress(data, len(room) - at + 1)
        at += _none(text, room[at:])
        if not member.eof:
            raise zlib.error("the stream is cut")
        data = member.unused_data
    return at


def _snappy(data: Buffer, room: memoryview) -> int:
    at = 0
    for block in _snappy_blocks(data):
        length = cramjam.snappy.decompress_raw_len(block)
        if length > len(room) - at:
            raise NoRoomError
        at += cramjam.snappy.decompress_raw_into(block, room[at : at + length])
    return at


def _snappy_blocks(data: Buffer) -> Iterator[Buffer]:
    if data[: len(_XERIAL)] != _XERIAL:
        yield data
        return
    at = _XERIAL_HEADER_BYTES
    while at < len(data):
        end = at + _LENGTH.size + _LENGTH.unpack_from(data, at)[0]
        if end > len(data):
            raise ValueError("a block is cut")
        yield data[at + _LENGTH.size : end]
        at = end


def _by_cramjam(decompress_into: Callable[[Buffer, memoryview], int]) -> Callable[[Buffer, memoryview], int]:
    def into(data: Buffer, room: memoryview) -> int:
        try:
            return decompress_into(data, room)
        except cramjam.DecompressionError as error:
            if "whole buffer" in str(error):
                raise NoRoomError from error
            raise

    return into


_DECOMPRESS: tuple[Callable[[Buffer, memoryview], int], ...] = (
    _none,
    _gzip,
    _snappy,
    _by_cramjam(cramjam.lz4.decompress_into),
    _by_cramjam(cramjam.zstd.decompress_into),
)
