"""`tickwise predict`: the predictions that a model gives of past ticks, to a Parquet file or a topic."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from api.cli.output import AsJson, dump, say, unread
from api.cli.ranges import asked_for
from data_io import log_reader
from data_io.data_fetcher.sources import open_source
from data_io.settings import CommonSettings
from data_io.sinks.port import TOPIC
from data_io.topics import admin
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import InputError, KafkaUnavailableError, ModelNotFoundError
from ml_core.model.fitted import FittedModel
from ml_core.model.runtime import Scorer
from ml_core.spec import PipelineSpec, find, load_all
from ml_core.types import OffsetRange
from model_ops_manager.batch_prediction import Predicted, Sink, of_file, of_topic
from model_ops_manager.batch_prediction import predict as predict_all
from model_ops_manager.champion import load_serving, must_fit
from model_ops_manager.mlflow_agent import MlflowAgent
from model_ops_manager.parity import Arrival, Offsets
from model_ops_manager.prediction_sinks import ParquetSink, TopicSink, must_take

app = typer.Typer(help="Predict past ticks.", pretty_exceptions_enable=False)


@app.command()
def predict(
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline.")],
    out: Annotated[str, typer.Option(help="A file such as predictions.parquet, or topic:NAME, which must be there.")],
    source: Annotated[
        str | None, typer.Option(help="Ticks of a file, folder or pattern; default: of the pipeline's topic.")
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", help="PARTITION:FIRST-LAST, offsets of ticks; default: all."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="2026-11-29T10:00, UTC: ticks that arrived at Kafka from then on.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="And before this time of arrival.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Default: the champion.")] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of a model, instead of a version.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make rows and predictions of past ticks as a worker does and write the predictions to OUT.

    State begins with the first tick there is in Kafka and archive, so a range late in a long topic takes its time.
    """
    if not out.startswith(TOPIC) and not out.endswith(".parquet"):
        raise InputError(f"{out!r} is no target; write a file such as predictions.parquet, or topic:NAME")
    settings = CommonSettings.read()
    spec = find(load_all(settings.pipelines), pipeline)
    scorer, number = _scorer(settings, spec, version, model)
    asked = asked_for(ranges, since, until)
    if source is not None and asked is not None:
        raise InputError("--source is read whole: --range, --from and --to are for ticks on the topic")
    found = asyncio.run(_run(settings, spec, scorer, number, source, asked, out))
    if as_json:
        dump({"pipeline": spec.name, "version": number, "out": out, **found._asdict()})
    else:
        say(f"{found.ticks:,} ticks, {found.rows:,} predictions, {found.scored:,} of them with a score: {out}")


async def _run(
    settings: CommonSettings,
    spec: PipelineSpec,
    scorer: Scorer,
    version: int,
    source: str | None,
    asked: Offsets | Arrival | None,
    out: str,
) -> Predicted:
    about: dict[str, Any] = {"horizons_ns": scorer.contract.horizons_ns, "model": spec.name, "version": version}
    async with AsyncExitStack() as stack:
        if source is not None:
            about["topic_id"], partitions = hashlib.sha256(source.encode()).hexdigest()[:16], [0]
            fetcher = open_source(source)
            stack.callback(lambda: unread(fetcher.report))
            parts = of_file(fetcher, spec, scorer)
        else:
            about["topic_id"] = (await admin.describe(settings.kafka, spec.source.topic)).topic_id
            wanted = await _wanted(settings, spec, asked)
            partitions = [each.partition for each in wanted]
            parts = of_topic(settings.kafka, wanted, spec, scorer, settings.archive)
        sink: Sink
        if out.startswith(TOPIC):
            await must_take(settings.kafka, out.removeprefix(TOPIC), partitions)
            producer = await stack.enter_async_context(_producer(settings.kafka))
            sink = TopicSink(producer, out.removeprefix(TOPIC), **about)
        else:
            sink = ParquetSink(Path(out), **about)
        return await predict_all(parts, sink)


async def _wanted(settings: CommonSettings, spec: PipelineSpec, asked: Offsets | Arrival | None) -> list[OffsetRange]:
    if asked is not None and not isinstance(asked, Arrival):
        return [OffsetRange(partition=number, start=start, end=end) for number, (start, end) in sorted(asked.items())]
    topic = spec.source.topic
    info = await admin.describe(settings.kafka, topic)
    async with log_reader.consumer(settings.kafka) as consumer:
        held = await log_reader.held(consumer, [TopicPartition(topic, number) for number in range(info.partitions)])
        if asked is not None:
            held = await log_reader.arrived(consumer, held, *asked)
    if not held:
        raise InputError(f"topic {topic!r} holds no such ticks")
    return list(held.values())


@asynccontextmanager
async def _producer(kafka: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True)
    try:
        await producer.start()
    except KafkaError as error:
        raise KafkaUnavailableError(f"Kafka at {kafka} did not answer: {error!r}") from error
    try:
        yield producer
    finally:
        await producer.stop()


def _scorer(
    settings: CommonSettings, spec: PipelineSpec, version: int | None, model: Path | None
) -> tuple[Scorer, int]:
    """Return what scores, and its version; 0 of a model in a folder."""
    check = must_fit(FeaturePlan.from_spec(spec).hash, spec.features.window)
    if model is not None:
        scorer = FittedModel.load(model).scorer()
        check(scorer.contract)
        return scorer, 0
    agent = MlflowAgent(settings.tracking_uri, settings.home)
    if version is None:
        champion = agent.champion(spec.name)
        if champion is None:
            raise ModelNotFoundError(f"pipeline {spec.name!r} has no champion; name a version or a folder of a model")
        version = champion.version
    return load_serving(agent, spec.name, version, check).scorer, version
