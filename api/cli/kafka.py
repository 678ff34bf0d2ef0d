"""``tickwise kafka``: a local Kafka in the background, its data kept in a folder."""

import json
from pathlib import Path
from typing import Annotated

import typer

from streams.local_kafka import background

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Start, stop and look at a local Kafka.")

NO_ANSWER = 3

Folder = Annotated[Path | None, typer.Option(help="where its data is kept; by default kafka/ in TICKWISE_HOME")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object")]


@app.command()
def start(
    port: Annotated[int, typer.Option(min=0, max=65535, help="port on 127.0.0.1; 0 takes a free one")] = 9092,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Start it, and print its bootstrap address once it answers. It goes on after this command."""
    found = background.start(_folder(folder), port)
    typer.echo(_json(found) if as_json else found.address)


@app.command()
def stop(folder: Folder = None, as_json: Json = False) -> None:
    """Stop it; its data stays."""
    place = _folder(folder)
    stopped = background.stop(place)
    if as_json:
        typer.echo(json.dumps({"stopped": stopped, "folder": str(place.resolve())}))
    else:
        typer.echo("stopped" if stopped else f"no Kafka runs from {place}")


@app.command()
def status(folder: Folder = None, as_json: Json = False) -> None:
    """Say whether it runs and answers; exit code 3 when it does not."""
    found = background.status(_folder(folder))
    if as_json:
        typer.echo(_json(found))
    elif not found.pid:
        typer.echo(f"no Kafka runs from {found.folder}")
    else:
        typer.echo(f"{found.address} {'answers' if found.answers else 'does not answer'} (process {found.pid})")
    if not found.answers:
        raise typer.Exit(NO_ANSWER)


def _folder(given: Path | None) -> Path:
    from data_io.settings import CommonSettings

    return given or CommonSettings.read().home / "kafka"


def _json(found: background.Status) -> str:
    return json.dumps(
        {
            "address": found.address or None,
            "answers": found.answers,
            "pid": found.pid or None,
            "folder": str(found.folder),
        }
    )
