"""The benchmark's command line; `make bench` and `tickwise bench` call it.

usage: python -m tests.benchmarks throughput [--contenders NAME ...] [--forms idiomatic best] [--runs N]
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.arena import Arena
from tests.benchmarks.contenders.registry import CONTENDERS, variants
from tests.benchmarks.drain import Drain, drain
from tests.benchmarks.environments import MissingContenderError

PASS_TICKS = 1_000_000


async def throughput(arena: Arena, given: argparse.Namespace) -> dict[str, Any]:
    """Drain the topic with each contender in turn."""
    ticks = await arena.filled(arena.work(PASS_TICKS), given.passes)
    found: dict[str, list[Drain]] = {}
    notes: dict[str, str] = {}
    wanted = [(name, form) for name, form in variants(given.contenders) if not form or form in given.forms]
    for turn in range(given.runs):
        for name, form in wanted:
            label = f"{name} {form}".strip()
            if label in notes:
                continue
            try:
                run = await drain(arena, name, form, ticks, longest_s=given.seconds)
            except MissingContenderError as error:
                notes[label] = str(error)
                say(f"{label} is left out: {error}")
                continue
            found.setdefault(label, []).append(run)
            say(
                f"run {turn + 1} of {given.runs}: {label:<22} {run.ticks_per_s:>12,.0f} ticks/s "
                f"{run.cpu_s_per_million:>8.2f} CPU s/M {run.rss_mb:>6.0f} MB  {run.predictions:,} checked"
            )
    return {label: _summary(runs) for label, runs in found.items()} | ({"left_out": notes} if notes else {})


def _summary(runs: Sequence[Drain]) -> dict[str, Any]:
    return {
        name: {"median": round(statistics.median(values), 3), "range": [round(min(values), 3), round(max(values), 3)]}
        for name in Drain._fields
        if (values := [getattr(run, name) for run in runs])
    }


def say(text: str) -> None:
    """Tell how it goes; standard output is for the result."""
    sys.stderr.write(text + "\n")


def main() -> None:
    """Run what is asked for; the last line on standard output is JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").splitlines()[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    mode = modes.add_parser("throughput", help="drain a topic")
    mode.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    mode.add_argument("--forms", nargs="+", default=["idiomatic", "best"])
    mode.add_argument("--runs", type=int, default=5)
    mode.add_argument("--passes", type=int, default=8, help="of a million ticks")
    mode.add_argument("--seconds", type=float, default=19.0, help="after which a contender is stopped")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tickwise-bench-") as folder, Arena.opened(Path(folder)) as arena:
        result = asyncio.run(throughput(arena, given))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
