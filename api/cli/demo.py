"""``tickwise demo``: everything at once, in about two minutes."""

import json
import sys
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    source: Annotated[
        str | None, typer.Option(help="recorded ticks: a file or folder (default: a synthetic market)")
    ] = None,
) -> None:
    """Start Kafka and every process, publish, train, score, retrain and swap; the last line is a JSON summary."""
    from rich.console import Console

    from api.demo.story import Story

    summary = Story(source, Console(stderr=True, highlight=False)).play()
    sys.stdout.write(json.dumps(summary) + "\n")
