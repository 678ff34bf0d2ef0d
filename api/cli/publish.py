"""`tickwise publish`: ticks of a source onto a topic."""

import asyncio
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from api.cli import output
from data_io.data_fetcher.port import SourceReport, TickFetcher
from data_io.data_fetcher.source_text import column_mapping
from data_io.data_fetcher.sources import open_source
from data_io.publisher import PublishReport, publish
from data_io.settings import CommonSettings
from data_io.topics import admin, ticks
from ml_core.errors import InputError

_LINE_EVERY_S = 5.0  # where there is no terminal for a bar

app = typer.Typer(add_completion=False)


@app.command()
def main(  # noqa: PLR0913  # one parameter an option of the command line
    *,
    source: Annotated[
        str, typer.Option(help="A file, folder or pattern of recorded ticks, or synthetic:symbols=8,ticks=60000.")
    ],
    speed: Annotated[str, typer.Option(help="Times real time on the clock of the ticks (1x, 10x), or max.")] = "max",
    rate: Annotated[float | None, typer.Option(help="Ticks a second at a constant rate, instead of a speed.")] = None,
    topic: Annotated[str, typer.Option(help="The topic; created where it is missing.")] = ticks.NAME,
    partitions: Annotated[int, typer.Option(min=1, max=1000, help="Partitions of a topic that is created.")] = 4,
    kafka: Annotated[
        str | None, typer.Option(help="Bootstrap servers; default TICKWISE_KAFKA or 127.0.0.1:9092.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most so many ticks.")] = None,
    symbol: Annotated[str | None, typer.Option(help="The symbol, where the source does not tell.")] = None,
    columns: Annotated[str | None, typer.Option("--map", help="Columns of a table: ts=time:ms,price=p,size=q.")] = None,
    as_json: output.AsJson = False,
) -> None:
    """Publish the ticks of SOURCE, one JSON record a tick, keyed by symbol and in order."""
    bootstrap = CommonSettings.read(kafka=kafka).kafka
    fetcher = open_source(source, symbol=symbol, columns=column_mapping(columns))
    times = _speed(speed)
    if times is not None and rate is not None:
        raise InputError("give --speed or --rate, not both")
    last, told_s = PublishReport(), 0.0
    console = Console(stderr=True)
    with Progress(
        TextColumn("publishing"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} ticks  {task.fields[per_s]:,.0f}/s"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("ticks", total=limit, per_s=0.0)

        def show(report: PublishReport) -> None:
            nonlocal last, told_s
            last = report
            per_s = report.ticks / max(report.seconds, 1e-9)
            bar.update(task, completed=report.ticks, per_s=per_s)
            if not console.is_terminal and report.seconds - told_s >= _LINE_EVERY_S:
                told_s = report.seconds
                output.note(f"publishing: {report.ticks:,} ticks, {per_s:,.0f}/s")

        async def run() -> None:
            await admin.create_missing(bootstrap, [ticks.topic_spec(topic, partitions)])
            await publish(fetcher, bootstrap=bootstrap, topic=topic, speed=times, rate=rate, limit=limit, progress=show)

        broke_off = True
        try:
            asyncio.run(run())
            broke_off = False
        finally:
            if last.ticks or not broke_off:  # before an error: what went out all the same
                _tell(last, fetcher, topic, as_json=as_json and not broke_off)


def _tell(report: PublishReport, fetcher: TickFetcher, topic: str, *, as_json: bool) -> None:
    if as_json:
        output.dump({"topic": topic, **vars(report), "source": _plain(fetcher.report)})
        return
    kinds = ", ".join(f"{n:,} {kind}s" for kind, n in sorted(report.per_kind.items())) or "no ticks"
    output.note(f"published {report.ticks:,} ticks to {topic} in {report.seconds:.1f} s: {kinds}")
    output.unread(fetcher.report)
    if report.pauses_cut:
        output.note(f"  {report.pauses_cut} silences of the source were shortened")


def _plain(report: SourceReport) -> dict[str, Any]:
    return {"ignored": dict(report.ignored), "skipped": dict(report.skipped), "examples": report.examples}


def _speed(text: str) -> float | None:
    """Return the factor of ``"10x"``, or None for ``"max"``."""
    if text == "max":
        return None
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        raise InputError(f"--speed {text!r} is neither a factor such as 1x or 10x nor max") from None
