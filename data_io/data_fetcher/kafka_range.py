"""Ticks of exact offset ranges of a topic as a frame: what a training job reads.

They come from the archive where it has them, and from Kafka where not; the frame is the same.

Shapes: N ticks.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from aiokafka import TopicPartition

from data_io import log_reader
from data_io.archive import layout, reader
from data_io.archive.layout import ArchiveFile, Place
from data_io.archive.reader import Piece
from data_io.topics import admin
from data_io.topics.records import Records, Reject
from data_io.topics.ticks import TickDecoder
from ml_core import frames
from ml_core.data_processor.gap_marks import GapMark
from ml_core.errors import InputError, NotEnoughDataError
from ml_core.types import Bool, Int64, OffsetRange, SymbolTable, TickBatch

# Newest event time, past which one tick in a thousand may lie: a stray one from the future would hide all others.
_NEWEST_SHARE = 0.999


class Fetched(NamedTuple):
    """Ticks of a topic, partition after partition in arrival order, with ``partition``, ``offset`` and ``index``."""

    frame: pd.DataFrame
    ranges: tuple[OffsetRange, ...]  # exactly what was read
    rejected: dict[str, int]  # how many records are no ticks, by reason
    marks: tuple[GapMark, ...] = ()  # what is known to be missing of them; see `gap_range`
    mark_ranges: tuple[OffsetRange, ...] = ()  # exactly where that was read


async def newest_ranges(
    bootstrap: str, topic: str, max_ticks: int, archive: Path | None = None
) -> tuple[OffsetRange, ...]:
    """Return the newest ``max_ticks`` offsets of ``topic``, shared out over its partitions as far as they reach back.

    Where ``archive`` goes on without a hole before the first offset in Kafka, so do they.

    Raises:
        NotEnoughDataError: The topic is empty. A retry helps once there are ticks.
        NotFoundError: There is no such topic.
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
    """
    info = await admin.describe(bootstrap, topic)
    tps = [TopicPartition(topic, number) for number in range(info.partitions)]
    async with log_reader.consumer(bootstrap) as consumer:
        begins, ends = await log_reader.bounds(consumer, tps)
    files = {tp: await asyncio.to_thread(_files, archive, tp, info.topic_id) for tp in tps}
    held = {tp: ends[tp] - layout.earliest(files[tp], begins[tp]) for tp in tps}
    total = sum(held.values())
    if not total:
        raise NotEnoughDataError(f"topic {topic!r} holds no ticks")
    share = min(1.0, max_ticks / total)
    starts = {tp: ends[tp] - max(1, int(held[tp] * share)) for tp in tps if held[tp]}
    return tuple(OffsetRange(partition=tp.partition, start=start, end=ends[tp]) for tp, start in starts.items())


async def fetch_ranges(
    bootstrap: str,
    topic: str,
    ranges: Sequence[OffsetRange],
    decoder: TickDecoder,
    *,
    limit: int | None = None,
    archive: Path | None = None,
) -> Fetched:
    """Return the ticks of ``ranges``; each range is read whole, or an error says what is missing.

    Args:
        bootstrap: Kafka.
        topic: Topic of ticks.
        ranges: Half-open ranges, one a partition at most.
        decoder: Of the topic's format. What it refuses is counted and left out, as the worker does.
        limit: Most offsets to read; None: no limit.
        archive: Folder of archived ticks; None: all come from Kafka.

    Raises:
        NotEnoughDataError: There is no range, one is empty, or they hold no tick. A retry will not help.
        InputError: A range names a partition or offsets that neither topic nor archive has, lost ones are named; or
            there are more than ``limit``. A retry will not help.
        ArchiveDamagedError: A file of the archive is not what its name says. A retry will not help.
        NotFoundError: There is no such topic. A retry will not help.
        KafkaUnavailableError, ArchiveUnavailableError: A retry is safe.
    """
    _check_asked(topic, ranges, limit)
    info = await admin.describe(bootstrap, topic)
    wanted = {TopicPartition(topic, each.partition): each for each in ranges}
    unknown = [tp.partition for tp in wanted if tp.partition >= info.partitions]
    if unknown:
        raise InputError(
            f"topic {topic!r} has partitions 0 to {info.partitions - 1}, so there is none of number {unknown[0]}"
        )
    symbols, rejected = SymbolTable(limit=sys.maxsize), Counter[str]()  # what is read first decides nothing

    def decode(records: Records) -> TickBatch:
        batch, rejects = decoder.decode(records, symbols)
        rejected.update(_reasons(rejects))
        return batch

    parts: dict[TopicPartition, dict[Piece, list[TickBatch]]] = {}
    async with log_reader.consumer(bootstrap) as consumer:
        begins, ends = await log_reader.bounds(consumer, list(wanted))
        for tp, each in wanted.items():  # listed after the bounds: what is deleted by now is archived by now
            files = await asyncio.to_thread(_files, archive, tp, info.topic_id)
            parts[tp] = {piece: [] for piece in reader.split(files, each.start, each.end)}
            _check_held(tp, parts[tp], begins[tp], ends[tp])
        for pieces in _rounds(parts):
            there = {tp: OffsetRange(partition=tp.partition, start=a, end=b) for tp, (a, b, _) in pieces.items()}
            async for tp, found in log_reader.read(consumer, there):
                parts[tp][pieces[tp]].append(await asyncio.to_thread(decode, log_reader.columns(found)))

    def decode_file(tp: TopicPartition, file: ArchiveFile, start: int, end: int) -> list[TickBatch]:
        return [decode(found) for found in reader.read(_place(tp, info.topic_id), file, start, end)]

    for tp, known in parts.items():
        for start, end, file in known:
            if file is not None:
                known[Piece(start, end, file)] = await asyncio.to_thread(decode_file, tp, file, start, end)
    batches = [[batch for part in known.values() for batch in part] for known in parts.values()]
    counts = [sum(map(len, found)) for found in batches]
    if not sum(counts):
        refused = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common()) or "nothing"
        raise NotEnoughDataError(f"the ranges of {topic!r} hold no ticks; refused: {refused}")
    ticks = _joined([batch for found in batches for batch in found], symbols)
    frame = frames.to_frame(ticks)
    frame["partition"] = np.repeat(np.array([tp.partition for tp in parts], dtype=np.int32), counts)
    if len(ticks.symbols) > (most := SymbolTable().limit):
        full_N = ticks.symbol_N >= most
        rejected["symbols_full"] += int(full_N.sum())
        frame = frame[~full_N].reset_index(drop=True)
        frame["symbol"] = frame["symbol"].cat.remove_unused_categories()
    return Fetched(frame, tuple(ranges), dict(rejected))


async def records_until(
    bootstrap: str, topic: str, wanted: OffsetRange, archive: Path | None = None
) -> AsyncGenerator[Records, None]:
    """Yield the records of one partition, from the first that Kafka or ``archive`` holds to the end of ``wanted``.

    Raises:
        InputError, NotFoundError, ArchiveDamagedError, KafkaUnavailableError, ArchiveUnavailableError: As
            ``fetch_ranges``.
    """
    info = await admin.describe(bootstrap, topic)
    tp = TopicPartition(topic, wanted.partition)
    if tp.partition >= info.partitions:
        raise InputError(f"topic {topic!r} has no partition {tp.partition}")
    async with log_reader.consumer(bootstrap) as consumer:
        begins, ends = await log_reader.bounds(consumer, [tp])
        files = await asyncio.to_thread(_files, archive, tp, info.topic_id)
        first = layout.earliest(files, begins[tp])
        pieces = reader.split(files, first, wanted.end)
        _check_held(tp, reader.split(files, wanted.start, wanted.end), begins[tp], ends[tp])
        for start, end, file in pieces:
            if file is None:
                there = {tp: OffsetRange(partition=tp.partition, start=start, end=end)}
                async for _, found in log_reader.read(consumer, there):
                    yield log_reader.columns(found)
            else:
                for records in reader.read(_place(tp, info.topic_id), file, start, end):
                    yield records


def within_span(fetched: Fetched, span_ns: int) -> Fetched:
    """Return the ticks of at most the last ``span_ns`` of event time, with the exact ranges they stand in.

    In each partition everything from its first tick that is young enough on is kept, so that ranges have no holes.

    Raises:
        NotEnoughDataError: There is no tick.
    """
    frame = fetched.frame
    if frame.empty:
        raise NotEnoughDataError("there are no ticks to take the last span of")
    ts_ns_N: Int64 = frame["ts_ns"].to_numpy()
    newest_ns = int(np.quantile(ts_ns_N, _NEWEST_SHARE, method="higher"))
    partition_N, offset_N = frame["partition"].to_numpy(), frame["offset"].to_numpy()
    kept_N: Bool = np.zeros(len(frame), dtype=np.bool_)
    ranges = []
    for each in fetched.ranges:
        here_N = partition_N == each.partition
        young = np.flatnonzero(here_N & (ts_ns_N >= newest_ns - span_ns))
        if len(young):
            start = int(offset_N[young[0]])
            kept_N |= here_N & (offset_N >= start)
            ranges.append(OffsetRange(partition=each.partition, start=start, end=each.end))
    return fetched._replace(frame=frame[kept_N].reset_index(drop=True), ranges=tuple(ranges))


def _check_asked(topic: str, ranges: Sequence[OffsetRange], limit: int | None) -> None:
    if not ranges:
        raise NotEnoughDataError(f"no range of topic {topic!r} is given")
    for each in ranges:
        if each.start >= each.end:
            raise NotEnoughDataError(
                f"the range [{each.start}, {each.end}) of partition {each.partition} of {topic!r} is empty"
            )
    twice = [number for number, count in Counter(each.partition for each in ranges).items() if count > 1]
    if twice:
        raise InputError(f"partition {twice[0]} of {topic!r} is named twice; give one range for each")
    asked = sum(each.end - each.start for each in ranges)
    if limit is not None and asked > limit:
        raise InputError(f"the ranges of {topic!r} hold {asked} offsets, at most {limit} are read for one job")


def _place(tp: TopicPartition, topic_id: str) -> Place:
    return Place(tp.topic, topic_id, tp.partition)


def _files(archive: Path | None, tp: TopicPartition, topic_id: str) -> list[ArchiveFile]:
    return [] if archive is None else layout.listed(_place(tp, topic_id).folder(archive))


def _check_held(tp: TopicPartition, pieces: Iterable[Piece], begin: int, end: int) -> None:
    """Make sure that Kafka has what no file covers."""
    for piece in pieces:
        if piece.file is None and piece.start < begin:
            raise InputError(
                f"offsets {piece.start} to {min(begin, piece.end) - 1} of partition {tp.partition} of {tp.topic!r} "
                f"are lost: retention has deleted them and no archive has them, it now begins at {begin}"
            )
        if piece.file is None and piece.end > end:
            raise InputError(
                f"partition {tp.partition} of {tp.topic!r} ends at offset {end}, before the asked {piece.end}"
            )


def _rounds(parts: Mapping[TopicPartition, Iterable[Piece]]) -> Iterator[dict[TopicPartition, Piece]]:
    """Yield what Kafka has to give, one piece a partition at a time."""
    left = {tp: [piece for piece in pieces if piece.file is None] for tp, pieces in parts.items()}
    while left := {tp: pieces for tp, pieces in left.items() if pieces}:
        yield {tp: pieces.pop(0) for tp, pieces in left.items()}


def _reasons(rejects: Sequence[Reject]) -> Counter[str]:
    return Counter(reject.reason for reject in rejects)


def _joined(batches: Sequence[TickBatch], symbols: SymbolTable) -> TickBatch:
    """Return all ticks as one batch, its symbols in the order they come in: it shows not what was read first."""
    columns: Any = zip(*(batch[:-1] for batch in batches), strict=True)
    fields: dict[str, Any] = dict(zip(TickBatch._fields, map(np.concatenate, columns), strict=False))
    symbol_N = fields["symbol_N"]
    used, first = np.unique(symbol_N, return_index=True)
    in_order = used[np.argsort(first)]
    code_of = np.zeros(len(symbols), np.int32)
    code_of[in_order] = np.arange(len(in_order), dtype=np.int32)
    fields["symbol_N"] = code_of[symbol_N]
    return TickBatch(**fields, symbols=[symbols.names[each] for each in in_order])
