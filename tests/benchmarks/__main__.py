"""The benchmark's command line; `make bench` calls it with `short`, `tickwise bench` with `full`.

Everything runs on a Kafka started for it, on one core; the contender has the other. The last line on standard output
is JSON. The exit code is 1 where a contender failed or its output was wrong.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.about import about, moment
from tests.benchmarks.arena import Arena
from tests.benchmarks.contenders.registry import CONTENDERS
from tests.benchmarks.report import summary
from tests.benchmarks.suite import Plan, Suite

ALL = tuple(CONTENDERS)
PLANS = {
    "short": Plan(runs=5, passes=6, seconds=4.0, loop_s=5.0, contenders=ALL, forms=("best",), memory_ticks=0),
    "full": Plan(
        runs=5,
        passes=8,
        seconds=8.0,
        loop_s=10.0,
        contenders=ALL,
        forms=("idiomatic", "best"),
        memory_ticks=100_000_000,
    ),
}
PARTS = {
    "throughput": Suite.throughput,
    "latency": Suite.latencies,
    "arrow": Suite.arrow,
    "growth": Suite.growth,
    "checkpoint": Suite.checkpoint,
    "memory": Suite.long_run,
    "profile": Suite.profile,
    "http": Suite.http,
}


async def measure(arena: Arena, plan: Plan, part: str | None) -> Suite:
    """Run all of ``plan``, or one part of it."""
    suite = Suite(arena, plan)
    await (suite.all() if part is None else PARTS[part](suite))
    return suite


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("mode", choices=[*PLANS, *PARTS], help="a whole benchmark, or one part of the full one")
    parser.add_argument("--contenders", nargs="+", choices=ALL, help="default: all")
    parser.add_argument("--forms", nargs="+", choices=("idiomatic", "best"))
    parser.add_argument("--runs", type=int)
    parser.add_argument("--passes", type=int, help="of a million ticks")
    parser.add_argument("--seconds", type=float, help="after which a drain is cut")
    parser.add_argument("--loop-s", type=float, help="seconds that an open loop lasts")
    parser.add_argument("--memory-ticks", type=int, help="after which memory is looked at once more")
    parser.add_argument("--page", type=Path, help="folder for a page with plots, and for the result as JSON")
    given = parser.parse_args()
    changes = {name: value for name, value in vars(given).items() if name in Plan._fields and value is not None}
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # as Ctrl-C: contenders and Kafka are stopped, files removed
    plan = PLANS.get(given.mode, PLANS["full"])._replace(**changes)
    before = moment()
    with tempfile.TemporaryDirectory(prefix="tickwise-bench-") as folder, Arena.opened(Path(folder)) as arena:
        suite = asyncio.run(measure(arena, plan, given.mode if given.mode in PARTS else None))
    command = " ".join(["python -m tests.benchmarks", *sys.argv[1:]])
    result = summary(suite.found, suite.notes, about(command, before, moment()))
    if given.page:
        from tests.benchmarks.page import write

        sys.stderr.write(f"{write(result, given.page)}\n")
    sys.stdout.write(json.dumps(result) + "\n")
    sys.exit(1 if suite.failed else 0)


if __name__ == "__main__":
    main()
