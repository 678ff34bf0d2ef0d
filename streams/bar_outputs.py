"""Bars on their way out: those that ticks have ended, and those of symbols that have fallen silent."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from data_io.topics import bars as bars_topic
from data_io.topics import record_batch
from ml_core.data_processor import bars
from ml_core.data_processor.bars import BarState
from ml_core.data_processor.cleaning import select
from ml_core.types import BarBatch, BarStatus, TickBatch
from streams import metrics

BARS_AT_ONCE = 500  # of less than two kilobytes: they are one record batch

if TYPE_CHECKING:
    from streams.transport.partition import Partition


def make(partition: Partition, feature_set: str, ticks: TickBatch, state: BarState) -> None:
    """Move ``state`` over ``ticks`` and queue the bars that they end; those that are out already only move it."""
    tails, count = partition.tails, len(ticks)
    renumbers = feature_set in tails.renumbers
    first = tails.first(bars_topic.name(feature_set), ticks.offset_N, ticks.index_N) if renumbers else count
    counted = int(np.searchsorted(ticks.offset_N, partition.publish_from))  # those before it were counted once
    for begin, end in itertools.pairwise(sorted({0, first, counted, count})):
        if begin == first:
            renumber(partition, feature_set)
        part = ticks if end - begin == count else select(ticks, slice(begin, end))
        made = bars.step(part, state)
        if begin >= counted:
            _count_left_out(feature_set, made)
        _publish_ended(partition, feature_set, made)


def renumber(partition: Partition, feature_set: str) -> None:
    """Have bars begin with a revision above all that are out; called when all ticks of the tail are in the state."""
    partition.tails.renumbers.discard(feature_set)
    state = partition.state.sets[feature_set].bars
    if state is not None:
        state.renumber()


def _count_left_out(feature_set: str, made: BarBatch) -> None:
    if made.too_late:
        metrics.TOO_LATE.labels(feature_set).inc(made.too_late)
    if made.misdated:
        metrics.MISDATED.labels(feature_set).inc(made.misdated)


def _publish_ended(partition: Partition, feature_set: str, made: BarBatch) -> None:
    if len(made):
        first = partition.tails.first(bars_topic.name(feature_set), made.offset_B, made.index_B)
        _publish(partition, feature_set, made.select(slice(first, None)))


def publish_silent(partition: Partition, now_ns: int) -> bool:
    """Queue the bars that are provisional at ``now_ns`` of the wall clock; return whether there were any."""
    any_due = False
    for name, state in partition.state.sets.items():
        due = state.silent_bars.due(now_ns) if state.silent_bars is not None else None
        if due is not None:
            _publish(partition, name, due)
            any_due = True
    return any_due


def _publish(partition: Partition, feature_set: str, made: BarBatch) -> None:
    for part in _parts(made):
        records = bars_topic.encode(part, topic_id=partition.shared.topic_id, partition=partition.number)
        partition.outputs.send(bars_topic.name(feature_set), record_batch.pack(records))
    for status in BarStatus:
        if count := int((made.status_B == status).sum()):
            metrics.BARS.labels(feature_set, status.name.lower()).inc(count)


def _parts(made: BarBatch) -> Iterator[BarBatch]:
    """Cut bars into what one record batch holds, between two ticks: those of one tick are out together, or none is."""
    is_same_tick_B = (made.offset_B[1:] == made.offset_B[:-1]) & (made.index_B[1:] == made.index_B[:-1])
    is_cut_B = ~is_same_tick_B | (made.offset_B[1:] < 0)  # provisional ones are of no tick
    cuts, begin = np.append(np.flatnonzero(is_cut_B) + 1, len(made)), 0
    while begin < len(made):
        first, last = np.searchsorted(cuts, [begin, begin + BARS_AT_ONCE], "right").tolist()
        end = int(cuts[max(first, last - 1)])
        yield made.select(slice(begin, end))
        begin = end
