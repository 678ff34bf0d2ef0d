"""From a fetched batch to rows, predictions and dead letters: decode, features, scores, in that order."""

import time
from typing import Any

import faust
import numpy as np

from data_io.topics import dead_letters, predictions, record_batch, rows
from data_io.topics.ticks import Decoded, TickDecoder
from ml_core.data_processor import features
from ml_core.spec import PipelineSpec
from ml_core.types import RowBatch
from streams import metrics
from streams.agents import scoring
from streams.partition_state import FeatureSetState
from streams.transport.batch_channel import Batch, BatchChannel
from streams.transport.partition import Partition


def attach(app: faust.App, channel: BatchChannel, decoder: TickDecoder) -> Any:
    """Register the agent on ``app`` and return it."""

    async def windowing(stream: Any) -> None:
        async for batch in stream:  # one event = one fetched batch of one partition
            try:
                process(batch, decoder)
            except Exception as error:  # noqa: BLE001 - the partition stops here, uncommitted, and starts over
                batch.failed(error)
            finally:
                # An agent that is cancelled must not leave the source waiting; after `done` this says nothing.
                batch.failed(RuntimeError("the agent ended in the middle of a batch"))

    return app.agent(channel, name="features.windowing")(windowing)


def process(batch: Batch, decoder: TickDecoder) -> None:
    """Move the partition's state over ``batch`` and hand every output to its producer."""
    began = time.perf_counter()
    partition = batch.partition
    decoded = decoder.decode_fetch(batch.fetch, partition.state.symbols)
    partition.outputs.begin()
    _publish_rejects(partition, decoded)
    metrics.TICKS.labels(partition.shared.topic).inc(len(decoded.ticks))
    count = 0
    for name, state in partition.state.sets.items():
        made = features.step(decoded.ticks, state.features)
        windows = scoring.windows(made, state)
        count += len(made)
        # While state is rebuilt, ticks whose outputs are out already only move it.
        live_N = made.offset_N >= partition.publish_from
        if not live_N.all():
            made = made.select(live_N)
            windows = {window: (x_NTF[live_N], ready_N[live_N]) for window, (x_NTF, ready_N) in windows.items()}
        for spec in state.pipelines:
            partition.state.labelled[spec.name].observe(made)
        if len(made):
            _publish_rows(partition, name, state, made)
            for spec in state.pipelines:
                _publish_predictions(partition, state, spec, made, windows)
    metrics.BATCH_SECONDS.observe(time.perf_counter() - began)
    batch.done(decoded.next_offset, count)


def _publish_rejects(partition: Partition, decoded: Decoded) -> None:
    topic = partition.shared.topic
    rejects = [r for r in decoded.rejects if decoded.reject_records.offset[r.position] >= partition.publish_from]
    if not rejects:
        return
    records = [dead_letters.encode(reject, decoded.reject_records, topic, partition.number) for reject in rejects]
    partition.outputs.send(dead_letters.name(topic), record_batch.pack(records))
    for reject in rejects:
        metrics.REJECTS.labels(topic, reject.reason).inc()


def _publish_rows(partition: Partition, name: str, state: FeatureSetState, made: RowBatch) -> None:
    partition.outputs.send(rows.name(name), state.rows.record_batches(made))
    metrics.ROWS.labels(name).inc(len(made))


def _publish_predictions(
    partition: Partition, state: FeatureSetState, spec: PipelineSpec, made: RowBatch, windows: scoring.Windows
) -> None:
    serving = partition.serving.get(spec.name)
    if serving is None:
        return
    scored = scoring.step(made, windows, spec.features.window, serving)
    encoder = state.encoders.get(spec.name)
    if encoder is None or encoder.version != serving.version.version:
        encoder = state.encoders[spec.name] = predictions.ENCODERS[spec.predictions.format](
            topic_id=partition.shared.topic_id,
            partition=partition.number,
            horizons_ns=serving.scorer.contract.horizons_ns,
            model=spec.name,
            version=serving.version.version,
        )
    partition.outputs.send(predictions.name(spec.name), encoder.record_batches(scored))
    ok = int(np.isfinite(scored.score_NH[:, 0]).sum())
    metrics.PREDICTIONS.labels(spec.name, "ok").inc(ok)
    metrics.PREDICTIONS.labels(spec.name, "abstained").inc(len(made) - ok)
