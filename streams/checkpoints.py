"""What the checkpoints of a worker group say about the outputs of a pipeline: all that the state topic still holds."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from aiokafka import TopicPartition

from data_io import log_reader
from data_io.topics import admin, bars, predictions
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import NotFoundError
from ml_core.spec import PipelineSpec
from model_ops_manager.shed import Shed
from model_ops_manager.subject import Committed
from streams.partition_state import PartitionState
from streams.transport import state_log
from streams.transport.state_log import MANIFEST_KEY, Manifest

# With exactly-once delivery outputs can be read a moment after the checkpoint that was committed with them.
VISIBLE_S = 10.0


class Checkpoints(NamedTuple):
    """What was said of one partition."""

    shed: Shed  # by the last one
    committed: Committed


async def read(bootstrap: str, group: str, spec: PipelineSpec) -> dict[int, Checkpoints]:
    """Return what ``group`` said of each partition of the ticks of ``spec``; none where it has said nothing.

    Raises:
        KafkaUnavailableError: Kafka did not answer in time. A retry is safe.
        NotFoundError: There is no topic of ticks.
        SetupError: A manifest is of a later version than is known here.
    """
    topic_id = (await admin.describe(bootstrap, spec.source.topic)).topic_id
    topic = state_log.name(group)
    try:
        count = (await admin.describe(bootstrap, topic)).partitions
    except NotFoundError:
        return {}
    visible_ms = (time.time() - VISIBLE_S) * 1000
    found: dict[int, list[tuple[Manifest, bool]]] = {}
    async with log_reader.consumer(bootstrap) as consumer:
        held = await log_reader.held(consumer, [TopicPartition(topic, number) for number in range(count)])
        async for tp, records in log_reader.read(consumer, held):
            for record in records:
                if record.key == MANIFEST_KEY and record.value:
                    manifest = Manifest.model_validate_json(record.value)
                    found.setdefault(tp.partition, []).append((manifest, record.timestamp <= visible_ms))
    ours = {number: [each for each in all_of if each[0].topic_id == topic_id] for number, all_of in found.items()}
    return {number: Checkpoints(each[-1][0].shed, committed(each, spec)) for number, each in ours.items() if each}


def committed(manifests: Sequence[tuple[Manifest, bool]], spec: PipelineSpec) -> Committed:
    """Return what ``manifests`` say must be out.

    A model scores all rows from the first of the last manifests that name one, and bars of these rules are written from
    the first of the last that name them. A manifest of a takeover from other features, or from a model that is gone, is
    none of them: what it leaves as it is may have ended anywhere.

    Args:
        manifests: In the order of the log, at least one, each with whether all that was committed with it can be read.
        spec: The pipeline.
    """
    kernels = PartitionState({spec.feature_set: (FeaturePlan.from_spec(spec), [spec])}, {}).kernels
    features, of_bars = spec.feature_set, f"{spec.feature_set}/bars"
    position, serves_from, bars_from = 0, None, None
    for manifest, is_visible in manifests:
        at = manifest.position
        are_ours = manifest.kernels.get(features) == kernels[features]
        if are_ours and is_visible:
            position = at
        serves = spec.name in manifest.models and are_ours and predictions.name(spec.name) not in manifest.stays
        serves_from = _first(serves_from, at) if serves else None
        has_bars = of_bars in kernels and manifest.kernels.get(of_bars) == kernels[of_bars]
        writes = has_bars and are_ours and bars.name(features) not in manifest.stays
        bars_from = _first(bars_from, at) if writes else None
    return Committed(position, serves_from, bars_from)


def _first(known: int | None, at: int) -> int:
    return at if known is None else known
