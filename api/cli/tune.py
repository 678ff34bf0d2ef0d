"""`tickwise tune`: search the space that a pipeline file declares, on a file or as a job."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.folders import made
from api.cli.jobs import show_job, submit_spec
from api.cli.output import AsJson, dump, note, say, table, unread
from data_io.data_fetcher.sources import open_source
from data_io.settings import CommonSettings
from ml_core import fit as learning
from ml_core import spec as pipelines
from ml_core.errors import InputError
from ml_core.types import JobKind
from model_ops_manager import study
from model_ops_manager.search_space import Trial, best, check_space

app = typer.Typer(help="Search the space that a pipeline file declares.", pretty_exceptions_enable=False)


@app.command()
def tune(
    pipeline: Annotated[Path, typer.Argument(help="The pipeline file.")],
    history: Annotated[
        str | None,
        typer.Option(help="File, folder, pattern or synthetic:...; default: source.history of the pipeline."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the study; default: studies/<pipeline>.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of weights and order of batches.")] = 0,
    as_job: Annotated[bool, typer.Option("--job", help="Have a runner do it, on ticks of the topic.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try what the section tune asks for, judged by validation rows, and print the sections of the best trial.

    A study that was interrupted goes on where it was when it is started again with the same ticks and file.
    """
    spec = pipelines.load(pipeline)
    check_space(spec)
    if as_job:
        if history is not None or out is not None:
            raise InputError("--history and --out are for a study here; a job takes ticks of the topic and logs runs")
        job = submit_spec(
            CommonSettings.read(),
            spec,
            {"pipeline": spec.name, "kind": JobKind.TUNE, "seed": seed, "trigger": "cli"},
        )
        show_job(job, as_json=as_json)
        return
    learning.check(spec)
    source = history or spec.source.history
    if source is None:
        raise InputError(f"give --history, or write source.history into {pipeline}")
    fetcher = open_source(source)
    frame = fetcher.fetch()
    if spec.source.symbols is not None:
        frame = frame[frame["symbol"].isin(spec.source.symbols)].reset_index(drop=True)
    note(f"{len(frame):,} ticks of {source}")
    unread(fetcher.report)
    folder = made(out or Path("studies") / spec.name)
    trials = study.run(
        spec, learning.prepare(frame, spec), study.StudyFile(folder / "trials.json"), seed=seed, told=_show
    )
    found = best(trials)
    section = study.as_toml(found.values)
    (folder / "best.toml").write_text(section + "\n", encoding="utf-8")
    if as_json:
        dump(
            {
                "pipeline": spec.name,
                "folder": str(folder),
                "best": {"trial": found.number, "validation_loss": found.loss, "values": found.values},
                "trials": [{"state": each.state, "values": each.values, "losses": each.losses} for each in trials],
            }
        )
        return
    rows = [{"trial": each.number, "state": each.state, "loss": each.loss, **each.values} for each in trials]
    table(rows, ["trial", "state", "loss", *spec.tune.space], empty="no trials")
    say(f"\n{section}\n")
    say(f"saved in {folder / 'best.toml'}")


def _show(trial: Trial) -> None:
    loss = f"validation loss {trial.loss:.6g}" if trial.losses else trial.error
    note(f"trial {trial.number}: {trial.state}, {loss}")
