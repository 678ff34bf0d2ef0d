"""`tickwise check`: will a pipeline and its own parts work, before any compute is spent?"""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.output import AsJson, dump, note, table
from data_io.data_fetcher.sources import open_source
from ml_core import spec as pipelines
from ml_core.checks import run_checks
from ml_core.errors import InputError

app = typer.Typer(help="Check a pipeline file and its own parts.", pretty_exceptions_enable=False)

FAILED = 1
_WORDS = {True: "passed", False: "FAILED", None: "not proven"}


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The pipeline file.")],
    source: Annotated[str, typer.Option(help="Ticks for the look-ahead check: a file, folder or synthetic:...")] = (
        "synthetic:symbols=4,ticks=4000,rate=50"
    ),
    ticks: Annotated[int, typer.Option(min=2, help="At most so many ticks of it.")] = 4000,
    as_json: AsJson = False,
) -> None:
    """Build, export, save and load, batch independence, look-ahead and latency of FILE's model, untrained.

    Exit code 1 where a check failed; its name stands in the table.
    """
    spec = pipelines.load(file)
    batch = next(open_source(source).stream(ticks), None)
    if batch is None:
        raise InputError(f"{source} holds no ticks")
    findings = run_checks(spec, batch)
    if as_json:
        dump({"pipeline": spec.name, "checks": [finding._asdict() for finding in findings]})
    else:
        rows = [{"check": each.check, "result": _WORDS[each.passed], "detail": each.detail} for each in findings]
        table(rows, ("check", "result", "detail"), empty="nothing was checked")
    failed = [each.check for each in findings if each.passed is False]
    if failed:
        note(f"failed: {', '.join(failed)}")
        raise typer.Exit(FAILED)
