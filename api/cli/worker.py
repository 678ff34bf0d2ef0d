"""``tickwise worker``: run the stream worker."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def worker(
    pipelines: Annotated[Path | None, typer.Option(help="a pipeline file, or a folder of them")] = None,
    kafka: Annotated[str | None, typer.Option(help="bootstrap servers")] = None,
    instance: Annotated[str | None, typer.Option(help="static membership: a name unique to this worker")] = None,
    port: Annotated[int | None, typer.Option(help="port of /livez, /readyz and /metrics")] = None,
) -> None:
    """Make rows and predictions of ticks until stopped (SIGTERM or Ctrl-C)."""
    from api.cli.process import begin
    from streams.settings import WorkerSettings
    from streams.worker import run

    begin()
    run(WorkerSettings.read(pipelines=pipelines, kafka=kafka, instance=instance, worker_port=port))
