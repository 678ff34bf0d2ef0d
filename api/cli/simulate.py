"""`tickwise simulate`: a pipeline's whole loop over past ticks in virtual time, with retraining, without Kafka."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.output import AsJson, note, say, table, unread
from api.cli.ranges import time_ms
from data_io.data_fetcher.port import END_OF_TIME_NS
from data_io.data_fetcher.sources import open_source
from ml_core import spec as pipelines
from ml_core.errors import InputError, SetupError
from ml_core.model.fitted import FittedModel
from ml_core.quantities import parse_duration
from model_ops_manager import prediction_run
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.prediction_sinks import ParquetSink
from model_ops_manager.simulation import GIVEN, Simulation, Trainer, ticks_of, utc

PREDICTIONS, REPORT = "predictions.parquet", "simulation.json"
MS_NS = 1_000_000

app = typer.Typer(help="Run a pipeline over past ticks.", pretty_exceptions_enable=False)


@app.command()
def simulate(
    pipeline: Annotated[Path, typer.Argument(help="The pipeline file.")],
    history: Annotated[
        str | None,
        typer.Option(help="File, folder, dataset:NAME@V or synthetic:...; default: source.history of the pipeline."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="2026-11-29T10:00, UTC: begin with the ticks of this event time.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="And end before this one.")] = None,
    out: Annotated[Path | None, typer.Option(help=f"Folder for {PREDICTIONS} and {REPORT}.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a model that scores from the start; default: the first one trained.")
    ] = None,
    training_takes: Annotated[str, typer.Option(help="Virtual time from a trigger to the swap, such as 30s.")] = "0s",
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of every training.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make rows of the ticks of HISTORY, score, wait for outcomes, retrain and swap as a worker and a runner would.

    The clock is that of the ticks: the result does not depend on how fast this runs, and two runs give equal bytes.
    The last line is JSON.
    """
    spec = pipelines.load(pipeline)
    source = history or spec.source.history
    if source is None:
        raise InputError(f"give --history, or write source.history into {pipeline}")
    settings = RunnerSettings.read()
    if model is None and not spec.retrain.when:
        raise InputError(f"nothing would score: give --model, or write retrain.when into {pipeline}")
    trainer = _trainer(spec, seed, settings.job_threads) if spec.retrain.when else None
    sink = None if out is None else _sink(out, source, spec)
    simulation = Simulation(
        spec,
        trainer,
        training_takes_ns=_duration_ns("--training-takes", training_takes),
        max_ticks=settings.max_ticks,
        sink=sink,
        tell=note,
    )
    try:
        if model is not None:
            simulation.start_with(FittedModel.load(model))
        start_ns, end_ns = _ns("--from", since, 0), _ns("--to", until, END_OF_TIME_NS)
        fetcher = open_source(source)
        for ticks in ticks_of(fetcher, simulation.symbols, start_ns, end_ns):
            simulation.add(ticks)
        unread(fetcher.report)
        report = {"source": source, **simulation.report()}
        _keep(report, sink, out, simulation.predictions)
    except BaseException:
        if sink is not None:
            sink.discard()
        raise
    if not as_json:
        _tell(report)
    say(json.dumps(report))


def _trainer(spec: pipelines.PipelineSpec, seed: int, threads: int) -> Trainer:
    # Imported here: a simulation without training does without torch.
    from ml_core.fit import check
    from model_ops_manager.simulated_training import JobTrainer

    check(spec)
    return JobTrainer(spec, seed, threads)


def _sink(out: Path, source: str, spec: pipelines.PipelineSpec) -> ParquetSink:
    topic_id = prediction_run.of_source(source).topic_id  # equal rows have equal names
    return ParquetSink(
        out / PREDICTIONS, topic_id=topic_id, horizons_ns=spec.label.horizons, model=spec.name, version=0
    )


def _duration_ns(option: str, text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from None


def _ns(option: str, text: str | None, default_ns: int) -> int:
    return default_ns if text is None else time_ms(option, text) * MS_NS


def _keep(report: dict[str, Any], sink: ParquetSink | None, out: Path | None, predictions: int) -> None:
    if sink is None or out is None:
        return
    if predictions:
        sink.finish()
    else:
        sink.discard()
        (out / PREDICTIONS).unlink(missing_ok=True)  # of a simulation before
    try:
        (out / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise SetupError(f"cannot write {out / REPORT}: {error.strerror or error}") from error


def _tell(report: dict[str, Any]) -> None:
    say(
        f"{report['pipeline']}: {report['ticks']:,} ticks, {report['rows']:,} rows, "
        f"{report['rows_without_model']:,} of them before the first model; "
        f"{utc(report['from_ns'])} to {utc(report['to_ns'])}"
    )
    table([_row(each) for each in report["versions"]], _COLUMNS, empty="no model was made")
    for each in report["versions"]:
        if each["trigger"] != GIVEN:
            verdict = "promoted" if each["promoted"] else "not promoted"
            say(f"version {each['version']}, {verdict}: {each['reason']}")
        if each["metrics"]:
            metrics = ", ".join(f"{name} {value:.5g}" for name, value in each["metrics"].items())
            say(f"version {each['version']}, on {each['matured']:,} rows with outcomes: {metrics}")
    for each in report["failed"]:
        say(f"{each['trigger']} at {utc(each['started_ns'])} failed: {each['error']}")


_COLUMNS = ("version", "trigger", "at", "ticks", "trained on", "scored from", "to", "rows", "matured")


def _row(version: dict[str, Any]) -> dict[str, Any]:
    served = version["served"]
    made = version["trigger"] != GIVEN
    return {
        "version": version["version"],
        "trigger": version["trigger"],
        "at": utc(version["started_ns"]) if made else None,
        "ticks": version["ticks"] if made else None,
        "trained on": f"{utc(version['first_tick_ns'])} to {utc(version['last_tick_ns'])}" if made else None,
        "scored from": utc(served["from_ns"]) if served else None,
        "to": utc(served["to_ns"]) if served else None,
        "rows": version["scored"],
        "matured": version["matured"],
    }
