"""`make faults`: every fault in turn on a real Kafka; the exit code is 1 where one fell short.

The last line on standard output is JSON.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streams.local_kafka import broker
from tests.faults.bench import Bench
from tests.faults.scenarios import SHORT, scenarios
from tests.faults.scene import RATE, fitted
from tests.faults.waiting import FellShortError

LONGEST_S = 1200.0  # of a fault; a soak has its minutes besides
MEASURED = ("lost", "conflicting", "repeats", "acknowledged_lost")  # a fault that ends before is no proof of none


async def run(bench: Bench, names: Sequence[str], note: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the result of each fault; ``fell_short`` says what did not hold, ``note`` stays with each."""
    known, found, about = scenarios(), {}, {"commit": _commit(), **({"note": note} if note else {})}
    for name in names:
        began = time.monotonic()
        try:
            async with asyncio.timeout(LONGEST_S + 60 * bench.soak_minutes * (name == "soak")):
                result = await known[name](bench)
        except FellShortError as error:
            result = {**error.counted, "fell_short": str(error)}
        except Exception as error:  # noqa: BLE001 - the bench itself may fail: the others still run
            traceback.print_exc()
            result = {"fell_short": f"{type(error).__name__}: {error}"}
        at = f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}"
        found[name] = {**result, "seconds": round(time.monotonic() - began, 1), "at": at, **about}
        sys.stderr.write(f"{name}: {found[name]}\n")
    return found


def summary(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the last line says; None is what nobody has counted, or somebody who fell short has not."""
    restores = [each["restore_s"] for each in found.values() if "restore_s" in each]

    def total(key: str) -> int | None:
        told = [each[key] for each in found.values() if key in each]
        is_open = any("fell_short" in each and key not in each for each in found.values())
        return None if not told or (is_open and key in MEASURED) else sum(told)

    return {
        "faults": {name: each.get("fell_short", "passed") for name, each in found.items()},
        **{key: total(key) for key in ("kills", "acknowledged", *MEASURED)},
        "restore_s": max(restores, default=None),
    }


def _commit() -> str:
    """Return the commit that runs, with a + where the tree has been changed since."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)

    try:
        found, changed = git("rev-parse", "--short", "HEAD"), git("diff", "--quiet", "HEAD")
    except OSError:
        return "unknown"
    return found.stdout.strip() + "+" * (changed.returncode == 1) if not found.returncode else "unknown"


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the report as Markdown."""
    lines = [f"# Faults, {datetime.now(UTC):%Y-%m-%d}", "", "```\npython -m tests.faults NAME\n```", ""]
    lines += [
        "Two partitions and a checkpoint every second, where nothing else is said. `ticks_a_s` is what Kafka has "
        f"acknowledged a second, of {RATE:,} that were asked of the publisher where it is not a burst. Every row, "
        "prediction and bar is compared, to the bit, with what its tick gives in a single-threaded replay of the "
        "topic; they may repeat only as a whole tail. `acknowledged` are ticks whose publisher was told that Kafka "
        "has them: each is looked for in the log. An empty cell was not measured; a commit with a + had changes.",
        "",
        "| fault | | outputs compared | lost | conflicting | repeats | besides | run |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    usual = ("compared", "lost", "conflicting", "repeats", "unchecked", "fell_short", "seconds", "at", "commit")
    for name, each in found.items():
        more = {key: value for key, value in each.items() if key not in usual and value is not None}
        besides = ", ".join(f"{key} {_short(value)}" for key, value in more.items()).replace("|", "\\|")
        counts = " | ".join(f"{each[key]:,}" if key in each else "" for key in usual[:4])
        said = _short(each.get("fell_short", "passed")).replace("|", "\\|")[:200]
        lines.append(f"| {name} | {said} | {counts} | {besides} | {each.get('commit', '')} {each.get('at', '')} |")
    missing = [name for name in scenarios() if name not in found]
    lines += ["", f"Not run: {', '.join(missing)}." if missing else "All were run."]
    lines += [f"Machine: {platform.machine()}, {platform.system()}, {os.cpu_count()} cores."]
    return "\n".join(lines) + "\n"


def _short(value: object) -> str:
    if isinstance(value, list):
        return " to ".join(map(_short, value))
    return f"{value:.1f}" if isinstance(value, float) else " ".join(str(value).split())


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*scenarios(), []], help="default: all")
    parser.add_argument(
        "--short", action="store_true", help="few kills; by default only what needs no Kafka of its own"
    )
    parser.add_argument("--seed", type=int, default=1, help="of moments and victims")
    parser.add_argument("--page", type=Path, help="folder for a page and the results as JSON; joins those of the day")
    parser.add_argument("--soak-minutes", type=float, help="of the soak; default: 30, or 2 in the short form")
    parser.add_argument("--note", help="what a reader of the results of this run must know")
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what the bench's own clients meet is meant
    names = given.names or (SHORT if given.short else tuple(scenarios()))
    minutes = given.soak_minutes or (2.0 if given.short else 30.0)
    # A worker of a new installation compiles for longer than a fault may take.
    subprocess.run([sys.executable, "-c", "from streams import kernels; kernels.load()"], check=True)
    with tempfile.TemporaryDirectory(prefix="tickwise-faults-") as folder, broker() as kafka:
        bench = Bench(Path(folder), fitted(), kafka, given.seed, given.short, minutes)
        found = asyncio.run(run(bench, names, given.note))
    if given.page:
        given.page.mkdir(parents=True, exist_ok=True)
        stem = given.page / f"faults_{datetime.now(UTC):%Y-%m-%d}"
        kept, known = stem.with_suffix(".json"), list(scenarios())
        of_the_day = (json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}) | found
        of_the_day = {name: of_the_day[name] for name in sorted(of_the_day, key=known.index)}
        kept.write_text(json.dumps(of_the_day, indent=1) + "\n", encoding="utf-8")
        stem.with_suffix(".md").write_text(page(of_the_day), encoding="utf-8")
    told = summary(found)
    sys.stdout.write(json.dumps(told) + "\n")
    sys.exit(0 if all(said == "passed" for said in told["faults"].values()) else 1)


if __name__ == "__main__":
    main()
