"""From what was measured to the result: medians, ranges, ratios."""

import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.processes import ROOT
from tests.benchmarks.suite import OURS, Suite

PACKAGES = ("faust-streaming", "aiokafka", "numba", "numpy", "onnxruntime", "pyarrow", "msgspec", "mlflow", "fastapi")
# A contender's form that its name alone stands for: stock Faust as it is taught, every other at its best.
HEADLINE = {"stock_faust": "idiomatic"}
HTTP = (
    "single_requests_per_s",
    "single_latency_ms_p50",
    "single_latency_ms_p99",
    "rows_per_s_in_bodies_of_64",
    "ratio_to_mlflow",
)


def summary(suite: Suite, command: str) -> dict[str, Any]:
    """Return the result as `make bench` prints it: headline figures, their ranges, then everything."""
    drained = suite.found.get("throughput", {})
    ours, latency = drained.get(OURS, []), suite.found.get("latency", {})
    headline = {
        "ticks_per_s": [run["ticks_per_s"] for run in ours],
        "cpu_s_per_million": [run["cpu_s_per_million"] for run in ours],
        "latency_ms_p50": [run["p50"] for run in latency.get(OURS, [])],
        "latency_ms_p99": [run["p99"] for run in latency.get(OURS, [])],
        "latency_ms_p99_exactly_once": [run["p99"] for run in latency.get(f"{OURS} exactly_once", [])],
        "rss_mb": [run["rss_mb"] for run in ours],
    }
    ratios = {_key(label): _ratios(ours, runs) for label, runs in drained.items() if label != OURS and ours}
    http = suite.found.get("http", {}).get("", [{}])[0]
    return {
        **{name: _median(values) for name, values in headline.items() if values},
        "ratio_to": {name: _median(values) for name, values in ratios.items()},
        "http": {name: http[name] for name in HTTP if name in http},
        "ranges": {
            **{name: _range(values) for name, values in headline.items() if values},
            "ratio_to": {name: _range(values) for name, values in ratios.items()},
        },
        "runs": suite.found,
        "left_out": suite.notes,
        "about": about(command),
    }


def about(command: str) -> dict[str, Any]:
    """Return what the figures depend on: machine, versions, command, day."""
    return {
        "day": datetime.now(UTC).date().isoformat(),
        "command": command,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_processor()}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load_before": [round(value, 2) for value in os.getloadavg()],
        "versions": {name: version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def figures(runs: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float, float]:
    """Return median, least and greatest of one figure."""
    values = [float(run[name]) for run in runs]
    return statistics.median(values), min(values), max(values)


def _key(label: str) -> str:
    name, _, form = label.partition(" ")
    return name if form == HEADLINE.get(name, "best") else label.replace(" ", "_")


def _ratios(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the ratio of each turn."""
    return [a["ticks_per_s"] / b["ticks_per_s"] for a, b in zip(ours, theirs, strict=False)]


def _median(values: Sequence[float]) -> float:
    return _rounded(statistics.median(values))


def _range(values: Sequence[float]) -> list[float]:
    return [_rounded(min(values)), _rounded(max(values))]


def _rounded(value: float) -> float:
    return round(value) if abs(value) >= 1000 else float(f"{value:.3g}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "processor unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor unknown"
    )


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=10
    )
    return done.stdout.strip() or "unknown"
