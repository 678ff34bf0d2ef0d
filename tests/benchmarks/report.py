"""From what was measured to the result: medians, ranges, numbers of runs, ratios."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tests.benchmarks.http import FIXED_RATE
from tests.benchmarks.open_loop import Load
from tests.benchmarks.suite import OURS

Runs = Sequence[Mapping[str, Any]]

# A contender's form that its name alone stands for: stock Faust as it is taught, every other at its best.
HEADLINE = {"stock_faust": "idiomatic"}
HTTP_P99 = f"single_latency_ms_p99_at_{FIXED_RATE}_per_s"
HTTP = (
    "single_requests_per_s",
    "single_latency_ms_p50",
    "single_latency_ms_p99",
    HTTP_P99,
    "rows_per_s_in_bodies_of_64",
    "ratio_to_mlflow",
)


def summary(found: Mapping[str, Any], left_out: Mapping[str, str], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result as `make bench` prints it: headline figures, their ranges and numbers, then everything."""
    drained, latency = found.get("throughput", {}), found.get("latency", {})
    ours, kept_up = drained.get(OURS, []), sustained(found.get("load", {}))
    headline = {
        "ticks_per_s": [run["ticks_per_s"] for run in ours],
        "cpu_s_per_million": [run["cpu_s_per_million"] for run in ours],
        "latency_ms_p50": [run["p50"] for run in latency.get(OURS, [])],
        "latency_ms_p99": [run["p99"] for run in latency.get(OURS, [])],
        "latency_ms_p99_exactly_once": [run["p99"] for run in latency.get(f"{OURS} exactly_once", [])],
        "rss_mb": [run["rss_mb"] for run in ours],
        "sustained_ticks_per_s": [kept_up[OURS]] if OURS in kept_up else [],
    }
    ratios = {_key(label): _ratios(ours, runs) for label, runs in drained.items() if label != OURS and ours}
    http = found.get("http", {}).get("", [{}])[0]
    return {
        **{name: _median(values) for name, values in headline.items() if values},
        "ratio_to": {name: _median(values) for name, values in ratios.items()},
        "sustained_ratio_to": {
            _key(label): _rounded(kept_up[OURS] / rate)
            for label, rate in kept_up.items()
            if label != OURS and OURS in kept_up
        },
        "http": {name: http[name] for name in HTTP if name in http},
        "ranges": {
            **{name: _range(values) for name, values in headline.items() if values},
            "ratio_to": {name: _range(values) for name, values in ratios.items()},
        },
        "n": {
            **{name: len(values) for name, values in headline.items() if values},
            "ratio_to": {name: len(values) for name, values in ratios.items()},
        },
        "runs": found,
        "left_out": left_out,
        "about": about,
    }


def sustained(loads: Mapping[str, Runs]) -> dict[str, float]:
    """Return the highest rate that each contender kept up with, ticks/s; those that kept up with none are not in it.

    Args:
        loads: ``<contender and form> at <share>`` -> what lag did.
    """
    rates: dict[str, float] = {}
    for label, runs in loads.items():
        if all(Load(**run).is_sustained for run in runs):
            name = label.rpartition(" at ")[0]
            rates[name] = max(rates.get(name, 0.0), *(run["rate"] for run in runs))
    return rates


def busy(runs: Runs) -> list[float]:
    """Return the share of its core that a contender used in each run."""
    return [run["ticks_per_s"] * run["cpu_s_per_million"] / 1e6 for run in runs]


def _key(label: str) -> str:
    name, _, form = label.partition(" ")
    return name if form == HEADLINE.get(name, "best") else label.replace(" ", "_")


def _ratios(ours: Runs, theirs: Runs) -> list[float]:
    """Return the ratio of each turn that both went through: who fails in one takes part in none after it."""
    return [a["ticks_per_s"] / b["ticks_per_s"] for a, b in zip(ours, theirs, strict=False)]


def _median(values: Sequence[float]) -> float:
    return _rounded(statistics.median(values))


def _range(values: Sequence[float]) -> list[float]:
    return [_rounded(min(values)), _rounded(max(values))]


def _rounded(value: float) -> float:
    return round(value) if abs(value) >= 1000 else float(f"{value:.3g}")
