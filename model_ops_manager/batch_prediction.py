"""Predictions of past ticks, equal to the bit to those that a worker with the same model makes of them.

Shapes: N ticks or rows, T rows of a window, F features.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from data_io.data_fetcher.kafka_range import records_until
from data_io.data_fetcher.port import TickStream
from data_io.topics.predictions import PredictionBatch
from data_io.topics.ticks import TickDecoder
from ml_core.data_processor import cleaning, features
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.data_processor.windows import Tail
from ml_core.model.runtime import Scorer
from ml_core.spec import PipelineSpec
from ml_core.types import OffsetRange, SymbolTable, TickBatch
from model_ops_manager import scoring
from model_ops_manager.scoring import Unscored

CHUNK_TICKS = 50_000


class Sink(Protocol):
    """Where predictions go."""

    async def add(self, partition: int, made: PredictionBatch) -> None:
        """Take predictions of one partition, in order."""
        ...

    async def close(self) -> None:
        """Make sure that all is there; what was begun and not closed is not there, or can be told from what is."""
        ...


class Predicted(NamedTuple):
    """What was made of past ticks."""

    ticks: int
    rows: int
    scored: int  # of the rows; others were abstained from


class Replay:
    """The state of one partition, moved over its ticks in order."""

    def __init__(self, spec: PipelineSpec, scorer: Scorer, partition: int = 0, first: int = 0) -> None:
        """Begin before the first tick; rows of ticks before the offset ``first`` only move the state.

        Raises:
            SpecError, UnknownPartError: A feature is wrong. A retry will not help.
        """
        plan = FeaturePlan.from_spec(spec)
        self.partition, self.first = partition, first
        self.symbols = SymbolTable()
        self._state = FeatureState(plan, self.symbols)
        self._tail = Tail(spec.features.window, len(plan.names)) if spec.features.window > 1 else None
        self._scorer = scorer

    def predictions(self, ticks: TickBatch) -> PredictionBatch:
        """Return the predictions of the rows that ``ticks``, the next ones, make from ``first`` on."""
        made = features.step(ticks, self._state)
        if self._tail is None:
            x_NTF, ready_N = made.x_NF[:, None, :], np.ones(len(made), np.bool_)
        else:
            x_NTF, ready_N = self._tail.windows(made)
        if len(made) and int(made.offset_N[0]) < self.first:
            asked_N = made.offset_N >= self.first
            made, x_NTF, ready_N = made.select(asked_N), x_NTF[asked_N], ready_N[asked_N]
        [scored] = scoring.score([Unscored(made, x_NTF, ready_N)], self._scorer)
        return scored


async def predict(
    parts: AsyncIterator[tuple[Replay, TickBatch]], sink: Sink, closing: Callable[[], None] | None = None
) -> Predicted:
    """Give ``sink`` the predictions of ``parts``, one after the other, and return how many there were.

    Memory is bounded by the largest part. ``closing`` is called before the sink is closed.
    """
    ticks = rows = scored = 0
    async for replay, batch in parts:
        made = await asyncio.to_thread(replay.predictions, batch)
        ticks += int(np.count_nonzero(batch.offset_N >= replay.first))
        rows += len(made)
        scored += int(np.count_nonzero(((made.flags_N & int(scoring.ABSTAIN)) == 0) & made.window_ok_N))
        if len(made):
            await sink.add(replay.partition, made)
    if closing is not None:
        closing()
    await sink.close()
    return Predicted(ticks, rows, scored)


async def of_file(source: TickStream, spec: PipelineSpec, scorer: Scorer) -> AsyncIterator[tuple[Replay, TickBatch]]:
    """Yield the ticks of a file, as a worker would find them on a topic of one partition.

    Raises:
        InputError: The source cannot be read to its end. A retry will not help.
    """
    replay = Replay(spec, scorer)
    for batch in source.stream(CHUNK_TICKS):
        kept, _ = cleaning.clean(batch)
        for name in batch.symbols[len(replay.symbols) :]:
            replay.symbols.add(name)
        yield replay, kept


async def of_topic(
    bootstrap: str,
    ranges: Sequence[OffsetRange],
    spec: PipelineSpec,
    scorer: Scorer,
    archive: Path | None = None,
) -> AsyncIterator[tuple[Replay, TickBatch]]:
    """Yield the ticks of ``ranges``, and all before them that there are, because state begins with the first tick.

    Raises:
        InputError: A range is not there. A retry will not help.
        NotFoundError: There is no such topic.
        ArchiveDamagedError: A file of the archive is not what its name says. A retry will not help.
        KafkaUnavailableError, ArchiveUnavailableError: A retry is safe.
    """
    decoder = TickDecoder(spec.source.map)
    for each in ranges:
        replay = Replay(spec, scorer, each.partition, each.start)
        async with aclosing(records_until(bootstrap, spec.source.topic, each, archive)) as found:
            async for records in found:
                batch, _ = decoder.decode(records, replay.symbols)
                yield replay, batch
