"""What all partitions of a worker have in common."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from data_io.topics import bars, dead_letters, late_ticks, predictions, rows
from ml_core.data_processor.features import FeaturePlan
from ml_core.spec import PipelineSpec
from model_ops_manager.champion import Serving
from streams.transport import published
from streams.transport.published import PlaceOf
from streams.transport.state_log import Manifest


class Models(Protocol):
    """Where the models of the pipelines come from."""

    def current(self, pipeline: str) -> Serving | None:
        """Return the champion that passed its probe; None while there is none."""

    async def load(self, pipeline: str, version: int) -> Serving:
        """Return one version, probed.

        Raises:
            ModelNotFoundError: It is gone. A retry will not help.
            ModelStoreUnavailableError: A retry is safe.
            ModelRefusedError: It failed its probe.
        """


@dataclass(frozen=True)
class Shared:
    """What all partitions of a worker have in common."""

    bootstrap: str
    group: str
    topic: str
    topic_id: str
    partitions: int
    sets: Mapping[str, tuple[FeaturePlan, Sequence[PipelineSpec]]]
    models: Models
    on_checkpoint: Callable[[int, Manifest], Awaitable[None]]
    checkpoint_s: float = 5.0
    checkpoint_rows: int = 2_000_000
    exactly_once: bool = False  # outputs are in the transaction of the checkpoint
    linger_s: float = 0.0  # how long ticks are gathered after the last batch before the next is handed out
    shed_lag: int | None = None  # of ticks; further behind, a partition skips to the latest. None: it never does

    @property
    def pipelines(self) -> list[PipelineSpec]:
        """All pipelines, set after set."""
        return [spec for _, pipelines in self.sets.values() for spec in pipelines]

    @property
    def lateness_ns(self) -> int:
        """How far behind its symbol's clock a tick still counts as usual; all pipelines agree on it."""
        return self.pipelines[0].source.lateness

    @property
    def named(self) -> dict[str, PlaceOf]:
        """The topics of outputs that have names, and where a record says of which tick it is."""
        found: dict[str, PlaceOf] = {rows.name(name): published.of_rows for name in self.sets}
        found |= {bars.name(name): published.of_bars for name, (_, specs) in self.sets.items() if specs[0].bars}
        return found | dict.fromkeys(self.scored, published.of_predictions)

    @property
    def scored(self) -> list[str]:
        """The topics of predictions."""
        return [predictions.name(spec.name) for spec in self.pipelines]

    @property
    def outputs(self) -> list[str]:
        """All topics that outputs go to; letters have no names, and other groups may write those of the same ticks."""
        return [dead_letters.name(self.topic), late_ticks.name(self.topic), *self.named]
