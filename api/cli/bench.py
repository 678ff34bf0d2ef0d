"""``tickwise bench``: the full benchmark against other engines, about 55 minutes on two cores."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    page: Annotated[
        Path | None, typer.Option(help="folder for page, plots and JSON (default: docs/benchmarks)")
    ] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="of every measurement (default: 5)")] = None,
) -> None:
    """Measure every contender on the same work and write a dated page; the last line on standard output is JSON."""
    from ml_core.errors import SetupError

    root = Path(__file__).parents[2]
    if not (root / "tests" / "benchmarks" / "__main__.py").is_file():
        raise SetupError("the benchmark is part of a checkout of tickwise, not of the installed package: run it there")
    folder = (page or root / "docs" / "benchmarks").absolute()
    command = [sys.executable, "-m", "tests.benchmarks", "full", "--page", str(folder)]
    command += [] if runs is None else ["--runs", str(runs)]
    raise typer.Exit(subprocess.run(command, cwd=root, check=False).returncode)
