"""`tickwise dlq`: what was refused and why; send it again after a fix, or delete it."""

import asyncio
import base64
import time
from collections import Counter
from collections.abc import Set
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from api.cli.output import AsJson, dump, fields, note, say, table
from data_io import dead_letter_queue as queue
from data_io.dead_letter_queue import Place
from data_io.settings import CommonSettings
from data_io.topics import ticks
from data_io.topics.dead_letters import Letter
from ml_core.errors import InputError, nearest
from ml_core.spec import parse_duration

app = typer.Typer(no_args_is_help=True, help="Look at refused ticks, send them again.", pretty_exceptions_enable=False)

_SHOWN_BYTES = 400

Topic = Annotated[str, typer.Option(help="The topic of ticks that they were refused from.")]
Kafka = Annotated[str | None, typer.Option(help="Bootstrap servers; default TICKWISE_KAFKA or 127.0.0.1:9092.")]
Reason = Annotated[str | None, typer.Option(help="Only those refused for this reason, such as missing:price.")]


@app.command("list")
def list_letters(
    topic: Topic = ticks.NAME,
    reason: Reason = None,
    newest: Annotated[int, typer.Option(min=0, help="How many are listed besides the counts.")] = 20,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """Count dead letters by reason, and list the newest."""
    counts, found, reasons = asyncio.run(_listed(_bootstrap(kafka), topic, reason, newest))
    if as_json:
        dump({"reasons": dict(counts), "newest": found})
        return
    _hint(reason, reasons)
    table(
        [{"reason": each, "letters": count} for each, count in counts.most_common()],
        ("reason", "letters"),
        empty="no dead letters",
    )
    if found:
        say("")
        table(found, ("partition", "offset", "at", "reason", "detail", "source"), empty="")


@app.command()
def show(
    partition: Annotated[int, typer.Argument(min=0)],
    offset: Annotated[int, typer.Argument(min=0, help="Of the dead letter, as listed.")],
    topic: Topic = ticks.NAME,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: its record as it was, and why it was refused."""
    place, letter = asyncio.run(queue.find(_bootstrap(kafka), topic, partition, offset))
    if as_json:
        record = {"key": _base64(letter.key), "value": _base64(letter.value)}
        dump({**_described(place, letter), **record, "headers": [[k, _base64(v)] for k, v in letter.headers]})
        return
    record = {"key": _text(letter.key), "value": _text(letter.value)}
    fields({**_described(place, letter), **record, **{f"header {k}": _text(v) for k, v in letter.headers}})


@app.command()
def replay(
    topic: Topic = ticks.NAME,
    reason: Reason = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """Send them to the topic again, in order, each once; what had to be left is tried again by the next replay."""
    report = asyncio.run(queue.replay(_bootstrap(kafka), topic, reason, limit))
    if as_json:
        dump({"sent": dict(report.sent), "left": dict(report.left)})
        return
    say(f"sent {report.sent.total()} to {topic}")
    for why, count in report.left.most_common():
        note(f"left {count}, which the next replay tries again: {why}")
    _hint(reason, report.reasons)


@app.command()
def purge(
    topic: Topic = ticks.NAME,
    older_than: Annotated[str | None, typer.Option(help="Only those older than this, such as 90m or 7d.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """Delete them; they cannot be brought back."""
    try:
        age_ns = parse_duration(older_than) if older_than else None
    except ValueError as error:
        raise InputError(f"--older-than: {error}") from None
    if not yes:
        typer.confirm(
            f"Delete the dead letters of {topic}{f' older than {older_than}' if older_than else ''}?", abort=True
        )
    before_ms = None if age_ns is None else (time.time_ns() - age_ns) // 1_000_000
    count = asyncio.run(queue.purge(_bootstrap(kafka), topic, before_ms))
    if as_json:
        dump({"deleted_offsets": count})
    else:
        say(f"deleted {count} offsets: letters, and what replays have noted between them")


def _bootstrap(kafka: str | None) -> str:
    return CommonSettings.read(kafka=kafka).kafka


async def _listed(
    bootstrap: str, topic: str, reason: str | None, newest: int
) -> tuple[Counter[str], list[dict[str, Any]], set[str]]:
    counts: Counter[str] = Counter()
    reasons: set[str] = set()
    found: list[dict[str, Any]] = []
    async for place, letter in queue.read(bootstrap, topic):
        reasons.add(letter.reason)
        if reason not in (None, letter.reason):
            continue
        counts[letter.reason] += 1
        found.append(_described(place, letter))
        if len(found) > 2 * newest:
            found = _newest(found, newest)
    return counts, _newest(found, newest), reasons


def _hint(reason: str | None, reasons: Set[str]) -> None:
    """Say which reasons there are where none is ``reason``."""
    if reason is not None and reasons and reason not in reasons:
        note(f"no dead letter has the reason {reason!r}{nearest(reason, reasons)}")


def _newest(found: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return sorted(found, key=lambda each: each["at"])[len(found) - min(count, len(found)) :]


def _described(place: Place, letter: Letter) -> dict[str, Any]:
    topic, partition, offset, index = letter.source
    return {
        "partition": place.partition,
        "offset": place.offset,
        "at": datetime.fromtimestamp(place.time_ms / 1000, UTC),
        "reason": letter.reason,
        "detail": letter.about.get("detail", ""),
        "source": f"{topic}/{partition}/{offset}/{index}",
        "version": letter.about.get("version", ""),
    }


def _text(value: bytes | None) -> str | None:
    if value is None:
        return None
    text = value[:_SHOWN_BYTES].decode(errors="backslashreplace")
    shown = "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)
    return shown if len(value) <= _SHOWN_BYTES else f"{shown} ... ({len(value)} bytes, whole with --json)"


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
