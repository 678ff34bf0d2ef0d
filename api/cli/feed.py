"""`tickwise feed`: live trades and best quotes of an exchange onto a topic."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Annotated, Any

import typer

from api.cli import output
from data_io.feeds import gaps
from data_io.feeds.report import FeedReport
from data_io.topics import admin, ticks

STOP_S = 4.0  # for what is under way; then Kafka has 5 s to take leave

app = typer.Typer(add_completion=False)


@app.command()
def main(  # noqa: PLR0913  # one parameter an option of the command line
    venue: Annotated[str, typer.Argument(help="binance or coinbase.")],
    symbols: Annotated[list[str], typer.Argument(help="As the venue writes them: BTCUSDT, BTC-USD.")],
    *,
    topic: Annotated[str, typer.Option(help="Topic of the ticks; created where it is missing.")] = ticks.NAME,
    gaps_topic: Annotated[str, typer.Option("--gaps", help="Topic of the gaps; likewise.")] = gaps.NAME,
    partitions: Annotated[int, typer.Option(min=1, max=1000, help="Partitions of topics that are created.")] = 4,
    kafka: Annotated[
        str | None, typer.Option(help="Bootstrap servers; default TICKWISE_KAFKA or 127.0.0.1:9092.")
    ] = None,
    websocket: Annotated[str | None, typer.Option(help="URL instead of the venue's own, without path.")] = None,
    rest: Annotated[str | None, typer.Option(help="Likewise, of the REST side.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many ticks.")] = None,
    as_json: output.AsJson = False,
) -> None:
    """Publish ticks of SYMBOLS as they come, until stopped (SIGTERM or Ctrl-C).

    What a lost connection has missed is asked for afterwards, of Binance with the key in TICKWISE_BINANCE_API_KEY where
    there is one; what cannot be had is marked on the topic of gaps.
    """
    from api.cli.process import begin
    from data_io.feeds import publishing
    from data_io.feeds.live import LiveFeed
    from data_io.feeds.settings import FeedSettings
    from data_io.feeds.venues import VENUES
    from ml_core.errors import InputError, nearest

    begin()
    settings = FeedSettings.read(kafka=kafka)
    bootstrap = settings.kafka
    if venue not in VENUES:
        raise InputError(f"no venue {venue!r}{nearest(venue, VENUES)}")
    feed = LiveFeed(
        VENUES[venue](),
        [symbol.upper() for symbol in symbols],
        websocket=websocket,
        rest=rest,
        api_key=settings.api_key(venue),
    )
    published = 0

    def count(total: int) -> None:
        nonlocal published
        published = total

    async def run() -> None:
        specs = [ticks.topic_spec(topic, partitions), gaps.topic_spec(partitions)._replace(name=gaps_topic)]
        await admin.create_missing(bootstrap, specs)
        await publishing.publish(
            feed, bootstrap=bootstrap, topic=topic, gaps_topic=gaps_topic, progress=count, limit=limit
        )

    broke_off = True
    try:
        asyncio.run(_until_stopped(run(), feed.stop))
        broke_off = False
    finally:
        _tell(published, feed.report, topic, as_json=as_json and not broke_off)


async def _until_stopped(work: Coroutine[Any, Any, None], stop: Callable[[], None]) -> None:
    """Do ``work``; on SIGTERM or Ctrl-C it is told to ``stop``, and given `STOP_S` for it."""
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    working = asyncio.create_task(work, name="feed")
    waiting = asyncio.create_task(asked.wait(), name="asked-to-stop")
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    stop()
    _, late = await asyncio.wait({working}, timeout=STOP_S)
    if late:
        working.cancel()
    with suppress(asyncio.CancelledError):
        await working


def _tell(published: int, report: FeedReport, topic: str, *, as_json: bool) -> None:
    if as_json:
        output.dump({"topic": topic, "published": published, **vars(report)})
        return
    output.note(f"published {published:,} ticks to {topic}")
    output.note(
        f"  {report.connections} connections, {report.lost.total()} lost; {report.holes} holes: {report.backfilled:,} "
        f"trades back-filled by {report.requests} questions, {report.missing:,} missing"
    )
    for word, counts in (("gap", report.gaps), ("left out", report.ignored), ("skipped as unusable", report.skipped)):
        for what, n in counts.most_common(10):
            output.note(f"  {word}: {n:,} x {what}")
    for example in report.examples[:5]:
        output.note(f"  {example}")
