"""`tickwise reproduce`: train a registered version once more and lay its figures beside the recorded ones."""

import re
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from api.cli.output import AsJson, dump, note, say, table
from ml_core.errors import InputError
from ml_core.fit import Progress
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.mlflow_agent import MlflowAgent
from model_ops_manager.reproduction import Reproduction, load
from model_ops_manager.reproduction import reproduce as train_again

OTHER_DATA = 5

app = typer.Typer(help="Train a version once more.", pretty_exceptions_enable=False)


@app.command()
def reproduce(
    model: Annotated[str, typer.Argument(help="models:/NAME/VERSION, or NAME/VERSION.")],
    parts: Annotated[
        Path | None, typer.Option(help="Folder of the own parts; default: that of TICKWISE_PIPELINES.")
    ] = None,
    run_recorded_parts: Annotated[
        bool, typer.Option(help="Run the own parts as the model store has them: trust it as your own code.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch the ticks of MODEL by their offsets, train with its pipeline and seed, and compare.

    Exit code 5 where the training data are not the recorded ones, 1 where they are and the model differs.
    """
    name, number = _named(model)
    settings = RunnerSettings.read()
    agent = MlflowAgent(settings.tracking_uri, settings.home)
    version = agent.version(name, number)
    recorded, recipe = load(agent, version)
    with tempfile.TemporaryDirectory(prefix="tickwise-parts-") as unpacked:
        folder = Path(unpacked) if run_recorded_parts else parts or _folder(settings.pipelines)
        if run_recorded_parts:
            recipe.unpack(folder)
        found = train_again(
            agent,
            version,
            recorded,
            recipe.spec(folder),
            kafka=settings.kafka,
            max_ticks=settings.max_ticks,
            archive=settings.archive,
            threads=recipe.threads or settings.job_threads,
            progress=_show,
        )
    _tell(found, as_json)
    if found.is_comparable and not found.same_data:
        raise typer.Exit(OTHER_DATA)
    if not (found.same_weights and all(each.is_equal for each in found.figures)):
        raise typer.Exit(1)


def _named(text: str) -> tuple[str, int]:
    """Return name and version.

    >>> _named("models:/btc/3"), _named("btc/3")
    (('btc', 3), ('btc', 3))
    """
    match = re.fullmatch(r"(?:models:/)?([^/]+)/([1-9]\d*)", text)
    if match is None:
        raise InputError(f"{text!r} does not name a version; write models:/NAME/VERSION, such as models:/btc/3")
    return match[1], int(match[2])


def _folder(pipelines: Path) -> Path:
    return (pipelines if pipelines.is_dir() else pipelines.parent).resolve()


def _show(progress: Progress) -> None:
    note(f"epoch {progress.epoch}/{progress.epochs}: validation loss {progress.validation_loss:.6g}")


def _tell(found: Reproduction, as_json: bool) -> None:
    if as_json:
        dump(
            {
                "version": f"{found.version.name}/{found.version.version}",
                "ticks": found.ticks,
                "dataset": {"recorded": found.recorded_hash, "reproduced": found.reproduced_hash},
                "same_data": found.same_data if found.is_comparable else None,
                "same_weights": found.same_weights,
                "metrics": {each.name: [each.recorded, each.reproduced] for each in found.figures},
            }
        )
        return
    rows = [{**each._asdict(), "equal": "yes" if each.is_equal else "NO"} for each in found.figures]
    table(rows, ("name", "recorded", "reproduced", "equal"), empty="no metrics")
    if found.recorded_hash is None:
        data = "not recorded"
    elif not found.is_comparable:
        data = "unknown, the recorded hash is of an older form"
    else:
        data = "the same" if found.same_data else "OTHER"
    say(f"{found.ticks:,} ticks; training data: {data}; weights: {'the same' if found.same_weights else 'OTHER'}")
