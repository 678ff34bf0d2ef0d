"""What the checkpoints of a worker group say about the outputs of a pipeline: all that the state topic still holds."""

import time
from collections.abc import Mapping
from typing import NamedTuple

from data_io.topics import admin, bars, predictions
from ml_core.data_processor.features import FeaturePlan
from ml_core.spec import PipelineSpec
from model_ops_manager.shed import Shed
from model_ops_manager.subject import Committed
from streams.partition_state import PartitionState
from streams.transport import state_log
from streams.transport.state_log import Manifest

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
    visible_ms, kernels = (time.time() - VISIBLE_S) * 1000, kernels_of(spec)
    told: dict[int, Told] = {}
    async for number, manifest, time_ms in state_log.manifests(bootstrap, group):
        if manifest.topic_id == topic_id:
            each = told.setdefault(number, Told(spec, kernels))
            each.take(manifest, is_visible=time_ms <= visible_ms)
    return {number: Checkpoints(each.shed, each.committed) for number, each in told.items()}


def kernels_of(spec: PipelineSpec) -> dict[str, str]:
    """Return what a manifest says of state that was made by features and rules of bars of ``spec``."""
    return PartitionState({spec.feature_set: (FeaturePlan.from_spec(spec), [spec])}, {}).kernels


class Told:
    """What the manifests of one partition say, taken in the order of the log.

    A model scores all rows from the first of the last manifests that name one, and bars of these rules are written from
    the first of the last that name them. A manifest of a takeover from other features, or from a model that is gone, is
    none of them: what it leaves as it is may have ended anywhere.
    """

    def __init__(self, spec: PipelineSpec, kernels: Mapping[str, str]) -> None:
        """Ask about ``spec``, of ``kernels``."""
        self._spec, self._kernels = spec, kernels
        self.shed, self.committed = Shed(), Committed()

    def take(self, manifest: Manifest, *, is_visible: bool) -> None:
        """Take the next one; ``is_visible``: all that was committed with it can be read by now."""
        features, of_bars = self._spec.feature_set, f"{self._spec.feature_set}/bars"
        position, serves_from, bars_from = self.committed
        at, found, ours = manifest.position, manifest.kernels, self._kernels
        are_ours = found.get(features) == ours[features]
        serves = self._spec.name in manifest.models and predictions.name(self._spec.name) not in manifest.stays
        writes = of_bars in ours and found.get(of_bars) == ours[of_bars] and bars.name(features) not in manifest.stays
        self.shed = manifest.shed
        self.committed = Committed(
            at if are_ours and is_visible else position,
            _first(serves_from, at) if are_ours and serves else None,
            _first(bars_from, at) if are_ours and writes else None,
        )


def _first(known: int | None, at: int) -> int:
    return at if known is None else known
