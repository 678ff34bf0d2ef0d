"""A run of batch prediction, as the command and the job make it: which ticks, by which version, to where."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from data_io import log_reader
from data_io.data_fetcher.port import SourceReport
from data_io.data_fetcher.sources import open_source
from data_io.settings import CommonSettings
from data_io.sinks.port import TOPIC
from data_io.topics import admin, job_requests
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import InputError, KafkaUnavailableError, ModelNotFoundError
from ml_core.model.runtime import Scorer
from ml_core.spec import PipelineSpec
from ml_core.types import OffsetRange, TickBatch
from model_ops_manager.batch_prediction import Predicted, Replay, Sink, of_file, of_topic, predict
from model_ops_manager.champion import Check, load_serving, must_fit
from model_ops_manager.mlflow_agent import MlflowAgent
from model_ops_manager.parity import Arrival, Offsets
from model_ops_manager.prediction_sinks import ParquetSink, TopicSink, must_take

Parts = AsyncIterator[tuple[Replay, TickBatch]]


class Ticks(NamedTuple):
    """The ticks of a run; equal ones get predictions of equal names."""

    topic_id: str  # of the topic; of a file the beginning of its SHA-256, of another source that of its text
    ranges: tuple[OffsetRange, ...] | None  # of the pipeline's topic; None: a source, which is read whole
    source: str | None = None

    @property
    def partitions(self) -> list[int]:
        """The partitions that predictions are of."""
        return [0] if self.ranges is None else [each.partition for each in self.ranges]


def of_source(source: str) -> Ticks:
    """Return the ticks of ``source``, named by its content where it is one file."""
    if not Path(source).is_file():
        return Ticks(hashlib.sha256(source.encode()).hexdigest()[:16], None, source)
    with Path(source).open("rb") as file:
        return Ticks(hashlib.file_digest(file, "sha256").hexdigest()[:16], None, source)


async def on_topic(kafka: str, topic: str, asked: Offsets | Arrival | None) -> Ticks:
    """Return the ticks of ``topic`` that are asked for; None: all that it holds.

    Raises:
        InputError: It holds none of them. A retry will not help.
        NotFoundError: There is no such topic.
        KafkaUnavailableError: A retry is safe.
    """
    info = await admin.describe(kafka, topic)
    if asked is not None and not isinstance(asked, Arrival):
        ranges = [OffsetRange(partition=number, start=start, end=end) for number, (start, end) in sorted(asked.items())]
        return Ticks(info.topic_id, tuple(ranges))
    async with log_reader.consumer(kafka) as consumer:
        held = await log_reader.held(consumer, [TopicPartition(topic, number) for number in range(info.partitions)])
        if asked is not None:
            held = await log_reader.arrived(consumer, held, *asked)
    if not held:
        raise InputError(f"topic {topic!r} holds no such ticks")
    return Ticks(info.topic_id, tuple(held.values()))


def check_of(spec: PipelineSpec) -> Check:
    """Return a check that a model takes the rows of ``spec``."""
    return must_fit(FeaturePlan.from_spec(spec).hash, spec.features.window)


def version_of(agent: MlflowAgent, spec: PipelineSpec, version: int | None) -> int:
    """Return ``version``, or that of the champion.

    Raises:
        ModelNotFoundError: There is no champion. A retry will not help.
    """
    if version is not None:
        return version
    champion = agent.champion(spec.name)
    if champion is None:
        raise ModelNotFoundError(f"pipeline {spec.name!r} has no champion; name a version or a folder of a model")
    return champion.version


def load_scorer(agent: MlflowAgent, spec: PipelineSpec, version: int) -> Scorer:
    """Return the model of a version; raises as ``load_serving``."""
    return load_serving(agent, spec.name, version, check_of(spec)).scorer


async def run(  # noqa: PLR0913  # what is passed by name has a default
    settings: CommonSettings,
    spec: PipelineSpec,
    scorer: Scorer,
    version: int,
    ticks: Ticks,
    out: str,
    *,
    mark: str = "",
    watched: Callable[[Parts], Parts] | None = None,
    closing: Callable[[], None] | None = None,
    unread: Callable[[SourceReport], None] | None = None,
) -> Predicted:
    """Write the predictions of ``ticks`` to ``out``; equal arguments give equal files, and records of equal content.

    Args:
        settings: Kafka, the archive and the folder of data sets.
        spec: The pipeline.
        scorer: Its model.
        version: What predictions say of it; 0: none.
        ticks: What to predict.
        out: A Parquet file, which is there when all of it is, or ``topic:NAME``.
        mark: What tells the unfinished file from those of other runs.
        watched: What the ticks go through on their way.
        closing: Called when all predictions are made, before a file gets its name.
        unread: Hears of a source, when it is read, what it gave no ticks of.

    Raises:
        InputError, NotFoundError, ArchiveDamagedError: What is asked for is not there, or cannot be written to, or
            ``out`` would replace ticks of the source.
        KafkaUnavailableError, ArchiveUnavailableError: A retry is safe.
        SetupError: The folder of ``out`` cannot be written to.
    """
    about = {
        "topic_id": ticks.topic_id,
        "horizons_ns": scorer.contract.horizons_ns,
        "model": spec.name,
        "version": version,
    }
    async with AsyncExitStack() as stack:
        if ticks.ranges is None:
            fetcher = open_source(ticks.source or "", home=settings.home)
            if unread is not None:
                stack.callback(lambda: unread(fetcher.report))
            parts = of_file(fetcher, spec, scorer)
        else:
            parts = of_topic(settings.kafka, ticks.ranges, spec, scorer, settings.archive)
        sink = await stack.enter_async_context(_sink(settings.kafka, spec, ticks, out, about, mark))
        return await predict(parts if watched is None else watched(parts), sink, closing)


@asynccontextmanager
async def _sink(
    kafka: str, spec: PipelineSpec, ticks: Ticks, out: str, about: dict[str, Any], mark: str
) -> AsyncIterator[Sink]:
    if not out.startswith(TOPIC):
        if ticks.source is not None and _is_of(Path(out), Path(ticks.source)):
            raise InputError(f"{out} holds ticks of the source, which would be lost; name another file")
        sink = ParquetSink(Path(out), mark=mark, **about)
        try:
            yield sink
        except BaseException:
            sink.discard()
            raise
        return
    topic = out.removeprefix(TOPIC)
    if topic in (spec.source.topic, job_requests.NAME):
        raise InputError(f"{topic!r} is no topic for predictions: others read something else from it")
    await must_take(kafka, topic, ticks.partitions)
    producer = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True)
    try:
        await producer.start()
    except KafkaError as error:
        raise KafkaUnavailableError(f"Kafka at {kafka} did not answer: {error!r}") from error
    try:
        yield TopicSink(producer, topic, **about)
    finally:
        await producer.stop()


def _is_of(out: Path, source: Path) -> bool:
    """Return whether ``out`` is there, and is the file ``source`` or in the folder ``source``."""
    return out.exists() and source.exists() and source.resolve() in (out.resolve(), *out.resolve().parents)
