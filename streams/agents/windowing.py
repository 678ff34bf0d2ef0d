"""From a round of fetched batches to bars, rows, predictions and letters: decode, features, scores, in order."""

import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import faust
import numpy as np
import prometheus_client

from data_io.topics import dead_letters, late_ticks, predictions, record_batch, rows
from data_io.topics.predictions import PredictionBatch
from data_io.topics.ticks import Decoded, TickDecoder
from ml_core.data_processor import features
from ml_core.data_processor.features import KERNEL_VERSION
from ml_core.spec import PipelineSpec
from ml_core.types import Int64, RowBatch
from model_ops_manager.champion import Serving
from model_ops_manager.scoring import Unscored
from streams import bar_outputs, calendar_end, metrics
from streams.agents import scoring
from streams.partition_state import FeatureSetState
from streams.transport.batch_channel import Batch, BatchChannel
from streams.transport.partition import Partition


class _Waiting(NamedTuple):
    """Rows of one partition that wait for the answer of a model."""

    batch: Batch
    state: FeatureSetState
    spec: PipelineSpec
    serving: Serving
    unscored: Unscored


def attach(app: faust.App, channel: BatchChannel, decoder: TickDecoder) -> Any:
    """Register the agent on ``app`` and return it."""

    async def windowing(stream: Any) -> None:
        async for rounds in stream:
            try:
                process(rounds.batches, decoder)
            finally:
                # An agent that is cancelled must not leave the source waiting; what has ended does not hear this.
                rounds.failed(RuntimeError("the agent ended in the middle of a round"))

    return app.agent(channel, name="features.windowing")(windowing)


def process(batches: Sequence[Batch], decoder: TickDecoder) -> None:
    """Move the state of each partition over its batch, hand every output to its producer, and end the batches.

    What goes wrong stops the partition it belongs to, uncommitted; a model that fails stops all that asked it.
    """
    began = time.perf_counter()
    waiting: list[_Waiting] = []
    moved: list[tuple[Batch, int, int]] = []
    for batch in batches:
        try:
            rows_of, next_offset, count = _move(batch, decoder)
        except Exception as error:  # noqa: BLE001 - whatever it is, the partition starts over
            batch.failed(error)
        else:
            waiting += rows_of
            moved.append((batch, next_offset, count))
    try:
        _score(waiting)
    except Exception as error:  # noqa: BLE001 - as above
        for each in waiting:
            each.batch.failed(error)
    for batch, next_offset, count in moved:
        batch.done(next_offset, count)
    metrics.BATCH_SECONDS.observe(time.perf_counter() - began)


def _move(batch: Batch, decoder: TickDecoder) -> tuple[list[_Waiting], int, int]:
    """Return the rows that wait for a model, the offset of the next batch and the number of rows made."""
    partition = batch.partition
    decoded = decoder.decode_fetch(batch.fetch, partition.state.symbols)
    partition.outputs.begin()
    _publish_rejects(partition, decoded)
    metrics.TICKS.labels(partition.shared.topic).inc(len(decoded.ticks))
    waiting: list[_Waiting] = []
    lags: list[Int64] = []
    count = 0
    for name, state in partition.state.sets.items():
        if state.bars is not None:
            bar_outputs.make(partition, name, decoded.ticks, state.bars)
        made, lag_N = features.move(decoded.ticks, state.features)
        lags.append(lag_N)
        windows = scoring.windows(made, state)
        count += len(made)
        # While state is rebuilt, ticks whose outputs are out already only move it.
        unwritten = _behind(made, partition.tails.first(rows.name(name), made.offset_N, made.index_N))
        for spec in state.pipelines:
            partition.state.labelled[spec.name].observe(unwritten)
        if len(unwritten):
            calendar_end.count_unknown(name, state.pipelines[0].source.calendar, unwritten)
            _publish_rows(partition, name, state, unwritten)
        for spec in state.pipelines:
            first = partition.tails.first(predictions.name(spec.name), made.offset_N, made.index_N)
            if (serving := partition.serving.get(spec.name)) is not None and first < len(made):
                x_NTF, ready_N = windows[spec.features.window]
                unscored = Unscored(_behind(made, first), x_NTF[first:], ready_N[first:])
                waiting.append(_Waiting(batch, state, spec, serving, unscored))
    _publish_late(partition, decoded, lags)
    return waiting, decoded.next_offset, count


def _behind(made: RowBatch, first: int) -> RowBatch:
    return made.select(slice(first, None)) if first else made


def _score(waiting: Sequence[_Waiting]) -> None:
    answers = scoring.step([(each.unscored, each.serving) for each in waiting])
    for each, answer in zip(waiting, answers, strict=True):
        try:
            _publish_predictions(each, answer)
        except Exception as error:  # noqa: BLE001 - the partition whose outputs cannot be queued starts over
            each.batch.failed(error)


def _publish_rejects(partition: Partition, decoded: Decoded) -> None:
    topic = partition.shared.topic
    last, offsets = partition.tails.last(dead_letters.name(topic)), decoded.reject_records.offset
    rejects = [r for r in decoded.rejects if (offsets[r.position], r.index) > last]
    if not rejects:
        return
    contents = dead_letters.contents(rejects, decoded.reject_records, topic, partition.number)
    partition.outputs.hold(dead_letters.name(topic), contents)
    for reason, count in Counter(reject.reason for reject in rejects).items():
        _rejected(topic, reason).inc(count)


@cache
def _rejected(topic: str, reason: str) -> prometheus_client.Counter:
    """Return the counter of a reason; bad records of many kinds would have it looked up for nearly each of them."""
    return metrics.REJECTS.labels(topic, reason)


def _publish_late(partition: Partition, decoded: Decoded, lags: Sequence[Int64]) -> None:
    """Count late ticks, and copy the records of those beyond lateness once, whichever feature sets want them.

    Args:
        partition: Where they came from.
        decoded: What was fetched.
        lags: Of each feature set, by tick.
    """
    lag_N = np.maximum.reduce(lags)  # clocks differ where the bounds of gaps do
    if lag_N.max(initial=0) <= 0:
        return
    ticks, topic = decoded.ticks, partition.shared.topic
    last, _ = partition.tails.last(late_ticks.name(topic))
    late_I = np.flatnonzero((lag_N > 0) & (ticks.offset_N > last))
    beyond_I = late_I[lag_N[late_I] > partition.shared.lateness_ns]
    metrics.LATE.labels(topic, "true").inc(len(beyond_I))
    metrics.LATE.labels(topic, "false").inc(len(late_I) - len(beyond_I))
    if len(beyond_I):
        late = late_ticks.by_record(*(each[beyond_I].tolist() for each in (ticks.offset_N, ticks.index_N, lag_N)))
        records = decoded.records_at([each.offset for each in late])
        copied = late_ticks.encode(late, records, topic, partition.number)
        partition.outputs.send(late_ticks.name(topic), record_batch.pack(copied))


def _publish_rows(partition: Partition, name: str, state: FeatureSetState, made: RowBatch) -> None:
    if state.rows is None:
        plan = state.plan
        state.rows = rows.RowEncoder(plan.names, plan.hash, KERNEL_VERSION, partition.shared.topic_id)
    partition.outputs.send(rows.name(name), state.rows.record_batches(made))
    metrics.ROWS.labels(name).inc(len(made))


def _publish_predictions(each: _Waiting, scored: PredictionBatch) -> None:
    partition, name, version = each.batch.partition, each.spec.name, each.serving.version.version
    encoder = each.state.encoders.get(name)
    if encoder is None or encoder.version != version:
        encoder = each.state.encoders[name] = predictions.ENCODERS[each.spec.predictions.format](
            topic_id=partition.shared.topic_id,
            partition=partition.number,
            horizons_ns=each.serving.scorer.contract.horizons_ns,
            model=name,
            version=version,
        )
    partition.outputs.send(predictions.name(name), encoder.record_batches(scored))
    ok = int(np.isfinite(scored.score_NH).all(axis=1).sum())
    metrics.PREDICTIONS.labels(name, "ok").inc(ok)
    metrics.PREDICTIONS.labels(name, "abstained").inc(len(scored.score_NH) - ok)
