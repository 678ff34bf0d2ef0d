"""`tickwise data`: data sets, ticks or bars of any source under a name, a version and a hash."""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.output import AsJson, dump, fields, say, table, unread
from data_io.data_fetcher import transform as transforms
from data_io.data_fetcher.port import END_OF_TIME_NS, TickFetcher, contents
from data_io.data_fetcher.source_text import column_mapping, time_ns
from data_io.data_fetcher.sources import open_source
from data_io.datasets.manifest import DatasetId, Manifest, TransformNote
from data_io.datasets.store import DatasetStore, Origin
from data_io.settings import CommonSettings
from data_io.sinks.port import TOPIC, UNDERSTOOD, open_sink
from ml_core.errors import InputError, NotFoundError

app = typer.Typer(no_args_is_help=True, help="Import, look at and export data sets.", pretty_exceptions_enable=False)

Home = Annotated[Path | None, typer.Option(help="Folder of the data sets; default TICKWISE_HOME or .tickwise.")]
Name = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="The data set; without a version the newest.")]
From = Annotated[str | None, typer.Option("--from", help="Only from this time on: 2024-01-02, 2024-01-02T14:30:00Z.")]
Until = Annotated[str | None, typer.Option("--to", help="Only before this time.")]


@app.command("import")
def import_(  # one parameter an option of the command line
    *,
    source: Annotated[str, typer.Argument(help="A file, folder, pattern, lake, or ccxt:... and the like.")],
    name: Annotated[str, typer.Option(help="Name of the data set; its next version is made.")],
    transform: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="Own function over it, DataFrame -> DataFrame.")
    ] = None,
    symbol: Annotated[str | None, typer.Option(help="The symbol, where the source does not tell.")] = None,
    columns: Annotated[str | None, typer.Option("--map", help="Columns of a table: ts=time:ms,price=p,size=q.")] = None,
    start: From = None,
    until: Until = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Keep the ticks or bars of SOURCE as a data set; equal content again gives the version that is there."""
    store = _store(home)
    function = transforms.find(transform, Path.cwd()) if transform else None
    fetcher = open_source(source, symbol=symbol, columns=column_mapping(columns), home=home)
    chunks = contents(fetcher, start_ns=_ns(start, 0), end_ns=_ns(until, END_OF_TIME_NS))
    origin = Origin(
        source=_shown(source, fetcher),
        ts_source=fetcher.ts_source,
        transform=TransformNote(part=function.part, code_hash=function.code_hash) if function else None,
        left_out=lambda: fetcher.report.ignored + fetcher.report.skipped,
    )
    done = store.put(name, function.apply(chunks) if function else chunks, origin, datetime.now(UTC))
    manifest = done.manifest
    unread(fetcher.report)
    if as_json:
        dump({**manifest.model_dump(mode="json"), "new": done.is_new})
        return
    if not done.is_new:
        say(f"{manifest.id} holds the same {manifest.rows:,} rows already")
        return
    say(f"{manifest.id}: {_amount(manifest)}, hash {manifest.content_hash[:16]}")


@app.command("list")
def list_(home: Home = None, as_json: AsJson = False) -> None:
    """List the versions of all data sets."""
    store = _store(home)
    rows = [row for name in store.names() for row in map(_row, _versions(store, name))]
    if as_json:
        dump(rows)
        return
    table(rows, ["data set", "kinds", "rows", "symbols", "first", "last", "hash", "source"], empty="no data sets")


@app.command()
def show(name: Name, home: Home = None, as_json: AsJson = False) -> None:
    """Show what a data set says of itself."""
    manifest = _store(home).find(DatasetId.parse(name))
    record: dict[str, Any] = {"id": str(manifest.id), **manifest.model_dump(mode="json")}
    if as_json:
        dump(record)
    else:
        fields(record | {"first": _time(manifest.first_ts_ns), "last": _time(manifest.last_ts_ns)})


@app.command()
def export(
    name: Name,
    out: Annotated[str, typer.Option(metavar="FILE|FOLDER|topic:NAME", help=f"Where to: {UNDERSTOOD}.")],
    start: From = None,
    until: Until = None,
    kafka: Annotated[
        str | None, typer.Option(help="Bootstrap servers; default TICKWISE_KAFKA or 127.0.0.1:9092.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a data set to a file, a lake or a topic; files and lakes are sources for `import` again."""
    settings = CommonSettings.read(kafka=kafka, home=home)
    fetcher = DatasetStore(settings.home).open(DatasetId.parse(name))
    read = fetcher.chunks if out.startswith(TOPIC) else partial(contents, fetcher)  # a topic takes ticks alone
    chunks = read(start_ns=_ns(start, 0), end_ns=_ns(until, END_OF_TIME_NS))
    rows = open_sink(out, settings.kafka).write(chunks, fetcher.ts_source)
    if as_json:
        dump({"id": str(fetcher.manifest.id), "out": out, "rows": rows})
    else:
        say(f"{fetcher.manifest.id}: {rows:,} rows written to {out}")


def _store(home: Path | None) -> DatasetStore:
    return DatasetStore(CommonSettings.read(home=home).home)


def _versions(store: DatasetStore, name: str) -> list[Manifest | DatasetId]:
    """Return what each version says of itself; of a damaged one the id."""
    found: list[Manifest | DatasetId] = []
    for version in store.versions(name):
        wanted = DatasetId(name, version)
        try:
            found.append(store.find(wanted))
        except InputError:
            found.append(wanted)
        except NotFoundError:  # deleted meanwhile
            continue
    return found


def _row(manifest: Manifest | DatasetId) -> dict[str, Any]:
    if isinstance(manifest, DatasetId):
        return {"data set": str(manifest), "kinds": "damaged"}
    return {
        "data set": str(manifest.id),
        "kinds": ", ".join(manifest.kinds),
        "rows": manifest.rows,
        "symbols": len(manifest.symbols),
        "first": _time(manifest.first_ts_ns),
        "last": _time(manifest.last_ts_ns),
        "hash": manifest.content_hash[:16],
        "source": manifest.source,
    }


def _amount(manifest: Manifest) -> str:
    kinds = " and ".join(f"{kind}s" for kind in manifest.kinds)
    return f"{manifest.rows:,} rows ({kinds}) of {len(manifest.symbols)} symbols"


def _time(ts_ns: int) -> str:
    return datetime.fromtimestamp(ts_ns / 1e9, UTC).isoformat(timespec="milliseconds")


def _ns(text: str | None, default: int) -> int:
    return default if text is None else time_ns(text)


def _shown(source: str, fetcher: TickFetcher) -> str:
    """Return the text of a source for the manifest; of newest data sets the version that it was."""
    manifest = getattr(fetcher, "manifest", None)
    return source if manifest is None else f"dataset:{manifest.id}"
