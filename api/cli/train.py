"""`tickwise train`: train a pipeline's model on a file, without Kafka and without MLflow."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.folders import made
from api.cli.output import AsJson, dump, note, say, table, unread
from data_io.data_fetcher.sources import open_source, source_hash
from ml_core import fit as learning
from ml_core import spec as pipelines
from ml_core.errors import InputError
from ml_core.evaluation.bootstrap import LEVEL, Interval
from ml_core.model.export import restated
from ml_core.model.fitted import FittedModel

app = typer.Typer(help="Train on a file, without Kafka.", pretty_exceptions_enable=False)

INTERVAL = f"{LEVEL:.0%} interval"
PRIOR_OF = {"holdout_log_loss": "prior_log_loss", "holdout_squared_error": "prior_squared_error"}


@app.command()
def train(
    pipeline: Annotated[Path, typer.Option(help="The pipeline file.")],
    history: Annotated[
        str | None,
        typer.Option(help="File, folder, pattern or synthetic:...; default: source.history of the pipeline."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the model; default: models/<pipeline>.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="Folder of a model to go on from, instead of from scratch.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of weights and order of batches.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train on the ticks of HISTORY, print how the model does on rows it was not trained on, and save it."""
    spec = pipelines.load(pipeline)
    learning.check(spec)
    source = history or spec.source.history
    if source is None:
        raise InputError(f"give --history, or write source.history into {pipeline}")
    before = FittedModel.load(start) if start else None
    fetcher = open_source(source)
    frame = fetcher.fetch()
    if spec.source.symbols is not None:
        frame = frame[frame["symbol"].isin(spec.source.symbols)].reset_index(drop=True)
    note(f"{len(frame):,} ticks of {source}")
    unread(fetcher.report)
    folder = made(out or Path("models") / spec.name)
    fit = learning.fit(frame, spec, start=before, seed=seed, progress=_show)
    model = restated(fit.model, source_hash=source_hash(source, fetcher), parent=str(start) if start else None)
    model.save(folder)
    if as_json:
        intervals = {name: each._asdict() for name, each in fit.intervals.items()}
        about = {"pipeline": spec.name, "folder": str(folder)}
        dump({**about, "metrics": fit.metrics, "intervals": intervals, "report": model.report})
        return
    table(_rows(fit), ["metric", "model", INTERVAL, "prior"], empty="no metrics")
    for reason in sorted({each.reason for each in fit.intervals.values() if each.reason}):
        say(f"without an interval, a figure may be chance: {reason}")
    say(f"saved in {folder}")


def _show(progress: learning.Progress) -> None:
    best = ", best so far" if progress.epoch == progress.best_epoch else ""
    note(f"epoch {progress.epoch}/{progress.epochs}: validation loss {progress.validation_loss:.6g}{best}")


def _rows(fit: learning.Fit) -> list[dict[str, float | str | None]]:
    metrics, priors = fit.metrics, set(PRIOR_OF.values())
    return [
        {
            "metric": name,
            "model": value,
            INTERVAL: _ends(fit.intervals.get(name)),
            "prior": metrics.get(PRIOR_OF.get(name, "")),
        }
        for name, value in metrics.items()
        if name not in priors
    ]


def _ends(interval: Interval | None) -> str | None:
    return None if interval is None or interval.low is None else f"{interval.low:.4g} to {interval.high:.4g}"
