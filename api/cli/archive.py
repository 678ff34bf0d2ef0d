"""`tickwise archive`: ticks and rows kept beyond the retention of their topics."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from api.cli.output import AsJson, dump, note, table

app = typer.Typer(no_args_is_help=True, help="Ticks and rows as Parquet files.", pretty_exceptions_enable=False)

Folder = Annotated[Path | None, typer.Option(help="Folder of the archive; default TICKWISE_ARCHIVE.")]
Kafka = Annotated[str | None, typer.Option(help="Bootstrap servers; default TICKWISE_KAFKA or 127.0.0.1:9092.")]


@app.command()
def run(
    archive: Folder = None,
    pipelines: Annotated[Path | None, typer.Option(help="A pipeline file, or a folder of them.")] = None,
    kafka: Kafka = None,
    port: Annotated[int | None, typer.Option(help="Port of /livez, /readyz and /metrics.")] = None,
) -> None:
    """Archive ticks and rows of all pipelines until stopped (SIGTERM or Ctrl-C)."""
    from api.cli.process import begin
    from data_io.archive import archiver
    from data_io.archive.settings import ArchiveSettings

    begin()
    archiver.run(ArchiveSettings.read(archive=archive, pipelines=pipelines, kafka=kafka, archive_port=port))


@app.command()
def status(archive: Folder = None, kafka: Kafka = None, as_json: AsJson = False) -> None:
    """Show what is archived of each partition, what is missing in between, and how far the topic is ahead."""
    from data_io.archive import report
    from data_io.archive.settings import ArchiveSettings
    from ml_core.errors import InvalidSettingsError

    settings = ArchiveSettings.read(archive=archive, kafka=kafka)
    if settings.archive is None:
        raise InvalidSettingsError("TICKWISE_ARCHIVE is not set: name the folder of the archive")
    found, why = asyncio.run(report.status(settings.archive, settings.kafka))
    if why:
        note(f"lag is not known: {why}")
    if as_json:
        dump([each._asdict() for each in found])
        return
    shown = [{**each._asdict(), "holes": " ".join(f"{a}-{b - 1}" for a, b in each.holes)} for each in found]
    table(shown, report.PartitionStatus._fields, empty="nothing is archived")
