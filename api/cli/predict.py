"""`tickwise predict`: the predictions that a model gives of past ticks, to a Parquet file or a topic."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.jobs import show_job, submit_spec
from api.cli.output import AsJson, dump, say, unread
from api.cli.ranges import asked_for
from data_io.settings import CommonSettings
from data_io.sinks.port import TOPIC
from ml_core.errors import InputError
from ml_core.model.fitted import FittedModel
from ml_core.model.runtime import Scorer
from ml_core.spec import PipelineSpec, find, load_all
from ml_core.types import JobKind
from model_ops_manager import prediction_run
from model_ops_manager.batch_prediction import Predicted
from model_ops_manager.champion import must_be_of
from model_ops_manager.mlflow_agent import MlflowAgent
from model_ops_manager.parity import Arrival, Offsets

app = typer.Typer(help="Predict past ticks.", pretty_exceptions_enable=False)


@app.command()
def predict(  # noqa: PLR0913, PLR0917  # one parameter an option of the command line
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
    as_job: Annotated[
        bool, typer.Option("--job", help="Have a runner do it: OUT and --source are names in folders of its settings.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make rows and predictions of past ticks as a worker does and write the predictions to OUT.

    State begins with the first tick there is in Kafka and archive, so a range late in a long topic takes its time.
    """
    if not out.startswith(TOPIC) and not out.endswith(".parquet"):
        raise InputError(f"{out!r} is no target; write a file such as predictions.parquet, or topic:NAME")
    settings = CommonSettings.read()
    spec = find(load_all(settings.pipelines), pipeline)
    asked = asked_for(ranges, since, until)
    if source is not None and asked is not None:
        raise InputError("--source is read whole: --range, --from and --to are for ticks on the topic")
    if as_job:
        if model is not None:
            raise InputError("--model is a folder of this machine; a job takes a --version")
        show_job(submit_spec(settings, spec, _job(spec, out, source, asked, version)), as_json=as_json)
        return
    scorer, number = _scorer(settings, spec, version, model)
    found = asyncio.run(_run(settings, spec, scorer, number, source, asked, out))
    if as_json:
        dump({"pipeline": spec.name, "version": number, "out": out, **found._asdict()})
    else:
        say(f"{found.ticks:,} ticks, {found.rows:,} predictions, {found.scored:,} of them with a score: {out}")


def _job(
    spec: PipelineSpec, out: str, source: str | None, asked: Offsets | Arrival | None, version: int | None
) -> dict[str, Any]:
    """Return the job that does as asked."""
    job: dict[str, Any] = {"pipeline": spec.name, "kind": JobKind.PREDICT, "trigger": "cli"}
    work: dict[str, Any] = {"to": out, "source": source, "version": version}
    if isinstance(asked, Arrival):
        since_ms, until_ms = asked
        work |= {"since": _time(since_ms), "until": _time(until_ms)}
    elif asked is not None:
        job["ranges"] = [{"partition": number, "start": start, "end": end} for number, (start, end) in asked.items()]
    return {**job, "predict": work}


def _time(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)


async def _run(
    settings: CommonSettings,
    spec: PipelineSpec,
    scorer: Scorer,
    version: int,
    source: str | None,
    asked: Offsets | Arrival | None,
    out: str,
) -> Predicted:
    if source is not None:
        ticks = prediction_run.of_source(source)
    else:
        ticks = await prediction_run.on_topic(settings.kafka, spec.source.topic, asked)
    return await prediction_run.run(settings, spec, scorer, version, ticks, out, unread=unread)


def _scorer(
    settings: CommonSettings, spec: PipelineSpec, version: int | None, model: Path | None
) -> tuple[Scorer, int]:
    """Return what scores, and its version; 0 of a model in a folder."""
    if model is not None:
        scorer = FittedModel.load(model).scorer()
        prediction_run.check_of(spec)(scorer.contract)
        must_be_of(spec)(scorer.contract)
        return scorer, 0
    agent = MlflowAgent(settings.tracking_uri, settings.home)
    number = prediction_run.version_of(agent, spec, version)
    return prediction_run.load_scorer(agent, spec, number), number
