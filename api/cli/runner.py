"""``tickwise runner``: run training jobs."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def runner(
    kafka: Annotated[str | None, typer.Option(help="bootstrap servers")] = None,
    home: Annotated[Path | None, typer.Option(help="folder for what has no store of its own")] = None,
    max_parallel: Annotated[int | None, typer.Option(help="jobs at once, each a process of its own")] = None,
) -> None:
    """Take up training jobs until stopped (SIGTERM or Ctrl-C); what still runs then waits for another runner."""
    from api.cli.process import begin
    from model_ops_manager.jobs.runner import run
    from model_ops_manager.jobs.settings import RunnerSettings

    begin()
    run(RunnerSettings.read(kafka=kafka, home=home, max_parallel=max_parallel))
