"""How commands print: a table for people, JSON for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from data_io.data_fetcher.port import SourceReport

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def say(text: str) -> None:
    """Print one line on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print one line on stderr, where it mixes with no data."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def unread(report: "SourceReport") -> None:
    """Print what a source gave no ticks of, with the first places of what could not be used, and times gone wrong."""
    if report.in_1970:
        note(
            f"  {report.in_1970:,} times lie in 1970: is the unit ms? Name it, as in ts=time:ms; it is ns where none is"
        )
    for word, counts in (("left out", report.ignored), ("skipped as unusable", report.skipped)):
        for what, n in counts.most_common(10):
            note(f"  {word}: {n:,} x {what}")
    for example in report.examples[:5]:
        note(f"  {_printable(example)}")


def dump(value: Any) -> None:
    """Print ``value`` as one line of JSON."""
    say(json.dumps(value, default=_plain))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str) -> None:
    """Print ``columns`` of ``rows`` as a table, or the line ``empty``."""
    if not rows:
        say(empty)
        return
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(_text(row.get(column)) for column in columns))
    # a pipe has no width; a wide one keeps every row on its line
    Console(width=None if sys.stdout.isatty() else 240, markup=False, highlight=False, emoji=False).print(grid)


def fields(record: Mapping[str, Any]) -> None:
    """Print the fields of one record, one a line."""
    width = max(map(len, record), default=0)
    for name, value in record.items():
        say(f"{_printable(name):<{width}}  {_text(value)}")


def _printable(text: str) -> str:
    r"""Return ``text`` with everything escaped that a terminal would obey, but for ends of lines.

    >>> print(_printable("AB\x1b[2J"))
    AB\x1b[2J
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, default=_plain)
    return _printable(str(value))


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)
