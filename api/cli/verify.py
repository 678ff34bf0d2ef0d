"""`tickwise verify`: can the numbers be trusted?"""

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from api.cli.output import AsJson, dump, note, say
from api.cli.ranges import asked_for, one_range
from data_io.data_fetcher.sources import open_source
from data_io.settings import CommonSettings
from ml_core.data_processor import look_ahead as ahead
from ml_core.data_processor.features import FeaturePlan
from ml_core.data_processor.windows import Tail
from ml_core.errors import InputError
from ml_core.model.fitted import FittedModel
from ml_core.model.runtime import Scorer
from ml_core.spec import PipelineSpec, find, load_all
from ml_core.types import Float32, RowBatch
from model_ops_manager import parity as checked
from model_ops_manager import scoring
from model_ops_manager.champion import Check, load_serving, must_fit
from model_ops_manager.compared import Compared
from model_ops_manager.mlflow_agent import MlflowAgent
from model_ops_manager.parity import Parity
from model_ops_manager.parity_check import BEFORE_FIRST
from model_ops_manager.scoring import Unscored
from model_ops_manager.shed import Shed
from streams import checkpoints
from streams.checkpoints import Checkpoints
from streams.settings import WorkerSettings

app = typer.Typer(no_args_is_help=True, help="Can the numbers be trusted?", pretty_exceptions_enable=False)

DIFFERENT = 1

Pipeline = Annotated[str, typer.Argument(help="Name of the pipeline.")]


@app.command()
def parity(
    pipeline: Pipeline,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", help="PARTITION:FIRST-LAST, offsets of ticks; default: as far as outputs reach."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="2026-11-29T10:00, UTC unless it names a zone: ticks that arrived at Kafka from then on. "
            "The time is the one Kafka stamped, not the event time in the tick.",
        ),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="And before this time of arrival.")] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="Worker group; its checkpoints say what must be out and which ticks it skipped. "
            "Default: TICKWISE_GROUP, or from the topic."
        ),
    ] = None,
    shed: Annotated[
        list[str] | None,
        typer.Option("--shed", help="PARTITION:FIRST-LAST, offsets that were skipped, instead of the checkpoints."),
    ] = None,
    kafka: Annotated[
        str | None, typer.Option(help="Bootstrap servers; default TICKWISE_KAFKA or 127.0.0.1:9092.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute rows, predictions and bars from their ticks and compare bits.

    Exit code 1 where they differ, where something is missing that a checkpoint says is out, or where it is not proven:
    there are ticks and nothing could be compared, or what should have been compared could not.
    """
    settings = WorkerSettings.read(kafka=kafka, group=group)
    spec = find(load_all(settings.pipelines), pipeline)
    models = MlflowAgent(settings.tracking_uri, settings.home)
    asked, topic, given = asked_for(ranges, since, until), spec.source.topic, _shed(shed or [])
    worker_group = settings.group or f"tickwise-{topic}"

    async def verified() -> tuple[Parity, dict[int, Checkpoints]]:
        said = {} if given else await checkpoints.read(settings.kafka, worker_group, spec)
        skipped = given or {number: each.shed for number, each in said.items()}
        committed = {number: each.committed for number, each in said.items()}
        return await checked.verify(settings.kafka, spec, models, asked, skipped, committed), said

    report, said = asyncio.run(verified())
    if as_json:
        dump(report.as_dict())
    else:
        _tell(report)
    if not report.ranges:
        note(f"{topic} holds no ticks: there is nothing to compare")
        return
    _tell_what_is_not_known(report, said, worker_group)
    if report.is_empty:
        note("nothing was compared, so nothing is proven: no output of these ticks is out that could be computed again")
    for kind, reasons in report.unproven.items():
        for why, count in reasons.items():
            note(f"not proven: {count} {kind} could not be compared ({why})")
    if report.is_empty or report.unproven or not report.is_equal:
        raise typer.Exit(DIFFERENT)


@app.command("look-ahead")
def look_ahead(
    pipeline: Pipeline,
    source: Annotated[str, typer.Option(help="Ticks to try it on: a file, folder or synthetic:...")] = (
        "synthetic:symbols=8,ticks=20000,rate=50"
    ),
    ticks: Annotated[int, typer.Option(min=2, help="At most so many ticks of it.")] = 20_000,
    cuts: Annotated[int, typer.Option(min=1, help="At how many places they are cut off.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the places.")] = 0,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a model whose scores are looked at; default: the champion.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Cut ticks off at random places; exit code 1 where a row or score before the cut is another than without it."""
    settings = CommonSettings.read()
    spec = find(load_all(settings.pipelines), pipeline)
    plan = FeaturePlan.from_spec(spec)
    batch = next(open_source(source).stream(ticks), None)
    if batch is None:
        raise InputError(f"{source} holds no ticks")
    scorer = _scorer(settings, spec, must_fit(plan.hash, spec.features.window), model)
    score = None if scorer is None else partial(_scores, spec.features.window, scorer)
    found = ahead.find(batch, plan.anew, cuts=cuts, seed=seed, score=score)
    if as_json:
        counts = {"ticks": len(batch), "rows": found.rows, "scored": None if scorer is None else found.scored}
        dump({**counts, "cuts": cuts, "leaks": [leak._asdict() for leak in found.leaks]})
    else:
        scored = "no predictions (there is no champion)" if scorer is None else f"{found.scored} predictions"
        told = f"{len(found.leaks)} leaks" if found.leaks else "no leak"
        say(f"{len(batch)} ticks, cut off at {cuts} places, {found.rows} rows and {scored} compared: {told}")
        for leak in found.leaks:
            say(f"  {leak}")
    if found.leaks:
        raise typer.Exit(DIFFERENT)


def _scorer(settings: CommonSettings, spec: PipelineSpec, check: Check, folder: Path | None) -> Scorer | None:
    """Return that of the model in ``folder``, else of the champion; None where there is none."""
    if folder is not None:
        scorer = FittedModel.load(folder).scorer()
        check(scorer.contract)
        return scorer
    if settings.mlflow_tracking_uri is None and not (settings.home / "mlflow.db").exists():
        return None  # asking would make the store
    models = MlflowAgent(settings.tracking_uri, settings.home)
    champion = models.champion(spec.name)
    return None if champion is None else load_serving(models, spec.name, champion.version, check).scorer


def _scores(window: int, scorer: Scorer, rows: RowBatch) -> Float32:
    """Return the scores (R, H) of all rows since the beginning, as a worker scores them."""
    x_RTF, ready_R = Tail(window, rows.x_NF.shape[1]).windows(rows)
    return scoring.score([Unscored(rows, x_RTF, ready_R)], scorer)[0].score_NH


def _shed(texts: list[str]) -> dict[int, Shed]:
    found: dict[int, Shed] = {}
    for partition, (start, end) in sorted(map(one_range, texts)):
        found[partition] = found.get(partition, Shed()).add(start, end)
    return found


def _tell(report: Parity) -> None:
    for what, compared in report.outputs.items():
        say(f"{what}: {_words(compared)}")
    for partition, offset in report.state_from.items():
        if offset:
            say(f"partition {partition}: ticks before {offset} are gone or were skipped, state starts there")
    for partition, (first, end) in report.not_out.items():
        say(f"partition {partition}: offsets {first} to {end - 1} have no outputs yet, or make none: left out")


def _tell_what_is_not_known(report: Parity, said: Mapping[int, Checkpoints], group: str) -> None:
    unsaid = [each.partition for each in report.ranges if each.partition not in said]
    if unsaid:
        partitions = ", ".join(map(str, unsaid))
        note(
            f"no checkpoint of group {group!r} was read about partition {partitions}: whether more should be out, or "
            "predictions from an earlier tick on, is not known; name the worker's group with --group"
        )
    serves = {number: each.committed.serves_from for number, each in said.items()}
    if report.predictions.unchecked[BEFORE_FIRST] and any(offset is not None for offset in serves.values()):
        told = ", ".join(f"{offset} of partition {number}" for number, offset in serves.items() if offset is not None)
        note(f"checkpoints name a model from offset {told} on; whether one served before is not known")


def _words(compared: Compared) -> str:
    counts = {
        "missing": compared.missing,
        "unexpected": compared.unexpected,
        "conflicting": compared.conflicting,
        "misplaced": compared.misplaced,
        "repeated": compared.repeated,
        "renumbered": compared.renumbered,
        "shed": compared.shed,
    }
    words = [f"{compared.compared} compared", *(f"{count} {what}" for what, count in counts.items() if count)]
    words += [f"{count} differ in {what}" for what, count in compared.mismatches.most_common()]
    words += [f"{count} unchecked ({why})" for why, count in compared.unchecked.items() if count]
    if compared.first:
        first = compared.first
        of = f" of {first['of']}" if "of" in first else ""
        words.append(
            f"first: {first['what']}{of} at {first['partition']}/{first['offset']}/{first['index']} is "
            f"{first['found']} instead of {first['expected']}"
        )
    return ", ".join(words)
