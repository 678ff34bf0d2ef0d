"""A partition without a broker: its memory is real, Kafka has its outputs at once, and checkpoints are kept."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from data_io.topics.ticks import TickDecoder
from ml_core.data_processor import features
from ml_core.data_processor.features import FeaturePlan
from ml_core.spec import PipelineSpec
from streams.agents import windowing
from streams.transport.batch_channel import Batch
from streams.transport.batch_sender import BatchSender
from streams.transport.partition import Partition, Phase
from streams.transport.shared import Shared
from tests.agents.in_memory import Recorded, fetch_of


class Sent(Recorded):
    """Outputs that Kafka has at once."""

    has_room, waiting_s = True, 0.0

    def go_on(self) -> None:
        pass

    def stop(self) -> None:
        pass

    async def settle(self) -> None:
        pass


async def unreported(_partition: int, _manifest: Any) -> None:
    """Report label counts to nobody."""


def built(
    spec: PipelineSpec,
    models: Any,
    *,
    topic: str = "ticks",
    on_checkpoint: Callable[[int, Any], Awaitable[None]] = unreported,
) -> Partition:
    """A partition of ``spec`` that nobody has claimed."""
    sets = {spec.feature_set: (FeaturePlan.from_spec(spec), [spec])}
    shared = Shared("127.0.0.1:1", "group", topic, "id", 1, sets, models, on_checkpoint=on_checkpoint)
    return Partition(shared, 0, BatchSender("127.0.0.1:1"))


def opened(partition: Partition) -> Partition:
    """The same, at work."""
    features.warm_up()
    partition.phase, partition.outputs = Phase.OPEN, Sent()
    return partition


async def move(partition: Partition, values: Sequence[bytes], first_offset: int = 0) -> None:
    """Let the agent work on one batch."""
    batch = Batch(partition, fetch_of(values, first_offset=first_offset))
    windowing.process([batch], TickDecoder())
    partition.advance(*await batch.ended)


def keep_commits(partition: Partition) -> list[tuple]:
    """Keep what a checkpoint would write."""
    kept: list[tuple] = []

    async def commit(written, blocks) -> None:
        kept.append((written, blocks))

    partition._log.commit = commit
    return kept
