"""Bars on their way out: those that ticks have ended, and those of symbols that have fallen silent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_io.topics import bars as bars_topic
from data_io.topics import record_batch
from ml_core.types import BarBatch, BarStatus
from streams import metrics

if TYPE_CHECKING:
    from streams.transport.partition import Partition


def publish_ended(partition: Partition, feature_set: str, made: BarBatch) -> None:
    """Queue the bars that a batch of ticks has ended; those that are out already only moved state."""
    is_new = partition.position >= partition.publish_from  # else it was counted before state was rebuilt
    if made.too_late and is_new:
        metrics.TOO_LATE.labels(feature_set).inc(made.too_late)
    if made.misdated and is_new:
        metrics.MISDATED.labels(feature_set).inc(made.misdated)
    if len(made):
        _publish(partition, feature_set, made.select(made.offset_B >= partition.publish_from))


def publish_silent(partition: Partition, now_ns: int) -> bool:
    """Queue the bars that are provisional at ``now_ns`` of the wall clock; return whether there were any."""
    any_due = False
    for name, state in partition.state.sets.items():
        due = state.silent_bars.due(now_ns) if state.silent_bars is not None else None
        if due is not None:
            _publish(partition, name, due)
            any_due = True
    return any_due


def _publish(partition: Partition, feature_set: str, bars: BarBatch) -> None:
    if not len(bars):
        return
    records = bars_topic.encode(bars, topic_id=partition.shared.topic_id, partition=partition.number)
    partition.outputs.send(bars_topic.name(feature_set), record_batch.pack(records))
    for status in BarStatus:
        if count := int((bars.status_B == status).sum()):
            metrics.BARS.labels(feature_set, status.name.lower()).inc(count)
