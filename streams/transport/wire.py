"""The two requests of the hot path as bytes: produce (version 7) and fetch (version 10), and their answers.

Source: https://kafka.apache.org/protocol; every broker from Kafka 2.1 on speaks both versions.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import TopicPartition

PRODUCE, PRODUCE_VERSION = 0, 7
FETCH, FETCH_VERSION = 1, 10  # to a later one also brokers answer that follow the leader, and lag behind it
MALFORMED = (struct.error, UnicodeDecodeError)  # what reading an answer raises where it is not one
_ACKS_ALL = -1

_PRODUCE_HEAD = struct.Struct(">hhii")  # transactional id (null), acks, timeout, topics
_FETCH_HEAD = struct.Struct(">iiiibiii")  # replica, wait, least and most bytes, isolation, session, its epoch, topics
_FETCH_PARTITION = struct.Struct(">iiqqi")  # number, leader epoch, offset, begin of a follower's log, most bytes
_FETCH_END = struct.pack(">i", 0)  # topics forgotten by a session
_COUNT, _LENGTH, _NUMBERED = struct.Struct(">i"), struct.Struct(">h"), struct.Struct(">ii")
_WRITTEN = struct.Struct(">ihqqq")  # partition, error, offset, time, begin of the log
_FETCHED = struct.Struct(">ihqqqi")  # partition, error, high watermark, last stable offset, begin of the log, aborted
_ABORTED = struct.Struct(">qq")  # producer id and first offset of an aborted transaction


class Fetched(NamedTuple):
    """What a fetch answers for one partition."""

    error: int
    highwater: int
    readable: int  # up to here nothing belongs to an open transaction
    aborted: list[tuple[int, int]]  # producer id and first offset
    raw: memoryview


def produce(batches: Mapping[str, Sequence[tuple[int, Any]]], timeout_ms: int) -> list[Any]:
    """Return the parts of a request that writes ``batches``: of each topic partition and record batch, one at most."""
    parts: list[Any] = []
    front = _PRODUCE_HEAD.pack(-1, _ACKS_ALL, timeout_ms, len(batches))
    for topic, written in batches.items():
        front += _text(topic) + _COUNT.pack(len(written))
        for partition, data in written:
            parts += [front + _NUMBERED.pack(partition, len(data)), data]
            front = b""
    return parts


def produced(answer: memoryview) -> dict[TopicPartition, int]:
    """Return the error code of every partition in the answer to ``produce``; 0 is none."""
    found: dict[TopicPartition, int] = {}
    (topics,) = _COUNT.unpack_from(answer)
    at = _COUNT.size
    for _ in range(topics):
        topic, at = _read_text(answer, at)
        (partitions,) = _COUNT.unpack_from(answer, at)
        at += _COUNT.size
        for _ in range(partitions):
            partition, error, _, _, _ = _WRITTEN.unpack_from(answer, at)
            at += _WRITTEN.size
            found[TopicPartition(topic, partition)] = error
    return found


def fetch(
    wanted: Iterable[tuple[TopicPartition, int, int]], *, wait_ms: int, most_bytes: int, committed: bool
) -> bytes:
    """Return a request for what lies from an offset on in each partition of ``wanted``.

    Args:
        wanted: Partition, offset, most bytes of the partition. A broker fills its answer in this order, and only the
            first batch of the first partition that has one may be larger than what is asked for.
        wait_ms: How long the broker waits for the first byte.
        most_bytes: Most bytes of the answer.
        committed: Whether transactions that have not ended are held back.
    """
    topics: dict[str, list[bytes]] = {}
    for tp, offset, most in wanted:
        part = _FETCH_PARTITION.pack(tp.partition, -1, offset, -1, most)
        topics.setdefault(tp.topic, []).append(part)
    parts = [_FETCH_HEAD.pack(-1, wait_ms, 1, most_bytes, committed, 0, -1, len(topics))]
    for topic, partitions in topics.items():
        parts += [_text(topic), _COUNT.pack(len(partitions)), *partitions]
    return b"".join([*parts, _FETCH_END])


def fetched(answer: memoryview) -> tuple[int, dict[TopicPartition, Fetched]]:
    """Return the error code of the answer to ``fetch``, and what it holds of each partition, uncopied."""
    found: dict[TopicPartition, Fetched] = {}
    _, error, _, topics = struct.unpack_from(">ihii", answer)  # throttled for, error, session
    at = 14
    for _ in range(topics):
        topic, at = _read_text(answer, at)
        (partitions,) = _COUNT.unpack_from(answer, at)
        at += _COUNT.size
        for _ in range(partitions):
            partition, code, highwater, readable, _, count = _FETCHED.unpack_from(answer, at)
            at += _FETCHED.size
            aborted = []
            for _ in range(count):  # -1 is null
                aborted.append(_ABORTED.unpack_from(answer, at))
                at += _ABORTED.size
            (length,) = _COUNT.unpack_from(answer, at)
            at += _COUNT.size
            length = max(length, 0)
            found[TopicPartition(topic, partition)] = Fetched(
                code, highwater, readable, aborted, answer[at : at + length]
            )
            at += length
    return error, found


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def _read_text(answer: memoryview, at: int) -> tuple[str, int]:
    (length,) = _LENGTH.unpack_from(answer, at)
    at += _LENGTH.size
    return bytes(answer[at : at + length]).decode(), at + length
