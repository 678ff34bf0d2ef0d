"""The dated page of a full run, its plots and its JSON, for `docs/benchmarks`."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.open_loop import Load
from tests.benchmarks.report import figures
from tests.benchmarks.suite import OURS

Runs = Sequence[Mapping[str, Any]]
PYTHON_ENGINES = ("quixstreams", "bytewax")


class Target(NamedTuple):
    """A figure of the issue and the bound it has to keep."""

    what: str
    value: float | None
    bound: float
    unit: str
    at_most: bool = False

    @property
    def verdict(self) -> str:
        """Whether the bound is kept, and by how much it is missed."""
        if self.value is None:
            return "not measured"
        if (self.value <= self.bound) if self.at_most else (self.value >= self.bound):
            return "kept"
        if self.value > 2 * self.bound:
            return f"**missed**: {self.value / self.bound:.1f} times the bound"
        return f"**missed**: {abs(self.value / self.bound - 1):.0%} {'above' if self.at_most else 'below'}"


def write(result: Mapping[str, Any], folder: Path) -> Path:
    """Write page, plots and JSON into ``folder`` and return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    about = result["about"]
    architecture, cores, *_ = about["machine"].split(", ")
    stem = f"whole-path_{architecture}-{cores}_{about['day']}".replace(" ", "-").replace("x86_64", "x86-64")
    (folder / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plots = list(_plots(result["runs"], folder, stem))
    page = folder / f"{stem}.md"
    page.write_text("\n".join(_lines(result, plots)) + "\n", encoding="utf-8")
    return page


def targets(result: Mapping[str, Any]) -> list[Target]:
    """Return the figures that the path has to reach."""
    ratio, http, runs = result["ratio_to"], result["http"], result["runs"]
    engines = [ratio[name] for name in PYTHON_ENGINES if name in ratio]
    many = runs.get("growth", {}).get("10000")
    few = [median for label in ("1", "100") if (median := _median(runs.get("growth", {}).get(label), "ticks_per_s"))]
    most = _median(many, "ticks_per_s")
    memory, arrow = runs.get("memory", {}).get(OURS), runs.get("arrow", {})
    kernel = runs.get("kernel", {}).get("", [{}])[0].get("ns_by_symbols", {})
    return [
        Target("whole path, rows logged, checkpoints on", result.get("ticks_per_s"), 900_000, "ticks/s"),
        Target("Arrow in, JSON out", _median(arrow.get(f"{OURS} with json out"), "ticks_per_s"), 1_300_000, "ticks/s"),
        Target("Arrow in and out", _median(arrow.get(f"{OURS} with arrow out"), "ticks_per_s"), 2_500_000, "ticks/s"),
        Target("ratio to stock Faust, idiomatic", ratio.get("stock_faust"), 80, "x"),
        Target("ratio to the best Python engine", min(engines) if engines else None, 6, "x"),
        Target("ratio to the plain loop", ratio.get("plain_loop"), 4, "x"),
        Target("ratio to Kafka Streams in its best form", ratio.get("kafka_streams"), 2.5, "x"),
        Target("CPU of the whole worker", result.get("cpu_s_per_million"), 1.1, "s per million ticks", at_most=True),
        Target("latency at 50,000 ticks/s, p50", result.get("latency_ms_p50"), 5, "ms", at_most=True),
        Target("latency at 50,000 ticks/s, p99", result.get("latency_ms_p99"), 20, "ms", at_most=True),
        Target("latency, exactly once, p99", result.get("latency_ms_p99_exactly_once"), 500, "ms", at_most=True),
        Target("memory with 10,000 symbols", _median(many, "rss_mb"), 400, "MB", at_most=True),
        Target(
            f"memory after {memory[0]['ticks'] / 1e6:.0f} million ticks" if memory else "memory after many ticks",
            memory[0]["rss_mb_end"] if memory else None, 400, "MB", at_most=True,
        ),
        Target("whole path, 1 to 10,000 symbols", max(few) / most if few and most else None, 1.3, "x", at_most=True),
        Target(
            "kernel alone, 1 to 10,000 symbols",
            kernel["10000"] / kernel["1"] if kernel else None, 3, "x", at_most=True,
        ),
        Target("HTTP, single row", http.get("single_requests_per_s"), 3_000, "requests/s"),
        Target("HTTP, single row, p99", http.get("single_latency_ms_p99"), 15, "ms", at_most=True),
        Target("HTTP, bodies of 64 rows", http.get("rows_per_s_in_bodies_of_64"), 100_000, "rows/s"),
        Target("HTTP, ratio to `mlflow models serve`", http.get("ratio_to_mlflow"), 5, "x"),
    ]  # fmt: skip


def _lines(result: Mapping[str, Any], plots: Sequence[tuple[str, Path]]) -> Iterator[str]:
    about, runs = result["about"], result["runs"]
    yield f"# The whole path, {about['day']}"
    yield ""
    yield f"```\n{about['command']}\n```"
    yield ""
    yield (
        "One JSON tick in, 16 features, MLP 16-64-32-1, one JSON prediction out, on a real Kafka. Kafka, sender and "
        "reader have one core, the contender the other. Every prediction is compared with an offline float64 oracle "
        "before a time counts. tickwise also logs its rows and writes checkpoints every 5 s; the others do neither. "
        "Symbols are named so that the four partitions hold equally many ticks. Medians, ranges in brackets."
    )
    yield ""
    yield from _table(
        ("figure", "measured", "target", ""),
        [
            (
                target.what,
                "" if target.value is None else f"{_text(target.value)} {target.unit}",
                f"{'at most' if target.at_most else 'at least'} {_text(target.bound)}",
                target.verdict,
            )
            for target in targets(result)
        ],
    )
    yield from _throughput(runs)
    yield from _latency(runs)
    yield from _growth(runs)
    yield from _profile(runs)
    for title, plot in plots:
        yield f"![{title}]({plot.name})"
        yield ""
    if result["left_out"]:
        yield "Left out:"
        yield ""
        yield from (f"- {what}: {why.splitlines()[0]}" for what, why in result["left_out"].items())
        yield ""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    yield f"Machine: {about['machine']}; {about['system']}; load before {about['load_before']}. {versions}."
    yield f"Commit {about['commit']}."


def _throughput(runs: Mapping[str, Any]) -> Iterator[str]:
    yield "## Throughput"
    yield ""
    yield "From the broker's stamps of the predictions, in the steady part of a run; memory in its last quarter."
    yield ""
    names = ("ticks_per_s", "cpu_s_per_million", "rss_mb")
    found = {
        **runs.get("throughput", {}),
        **{f"{label}, Arrow in": each for label, each in runs.get("arrow", {}).items()},
    }
    rows = [(label, *(_spread(each, name) for name in names)) for label, each in found.items()]
    yield from _table(("contender", "ticks/s", "CPU s per million", "RSS, MB"), rows)
    if loads := runs.get("load"):
        yield "Offered so many ticks a second, lag grows or not:"
        yield ""
        yield from _table(
            ("contender", "offered ticks/s", "growth of lag, share of that", "largest lag", "sustained"),
            [
                (
                    label, _text(each["rate"]), f"{each['lag_growth']:.2%}", _text(each["lag_max"]),
                    "yes" if Load(**each).is_sustained else "no",
                )
                for label, (each, *_) in loads.items()
            ],
        )  # fmt: skip


def _latency(runs: Mapping[str, Any]) -> Iterator[str]:
    yield "## Latency"
    yield ""
    yield (
        "From the intended time of sending a tick to its prediction being read, ms. Ticks leave by the clock, those of "
        "5 ms (10 ms above 100,000 ticks/s) together, whether or not the contender keeps up."
    )
    yield ""
    yield from _table(
        ("contender", "ticks/s", "p50", "p99", "p99.9", "max", "sender late by at most"),
        [
            (
                label,
                _text(each[0]["rate"]),
                *(_spread(each, name) for name in ("p50", "p99", "p999", "max", "late_ms_max")),
            )
            for label, each in runs.get("latency", {}).items()
        ],
    )


def _growth(runs: Mapping[str, Any]) -> Iterator[str]:
    if growth := runs.get("growth"):
        yield "## Growth"
        yield ""
        kernel = runs.get("kernel", {}).get("", [{}])[0]
        by_symbols = kernel.get("ns_by_symbols", {})
        yield from _table(
            ("symbols", "whole path, ticks/s", "RSS, MB", "kernel alone, ns a tick"),
            [
                (_text(int(label)), _spread(each, "ticks_per_s"), _spread(each, "rss_mb"), _text(by_symbols.get(label)))
                for label, each in growth.items()
            ],
        )
        if by_factor := kernel.get("ns_by_duration_factor"):
            costs = ", ".join(f"{value:.0f} ns ({factor}x)" for factor, value in by_factor.items())
            yield f"With every duration of a feature multiplied, the kernel alone costs a tick {costs}."
            yield ""
    if memory := runs.get("memory", {}).get(OURS):
        each = memory[0]
        yield (
            f"After {each['ticks']:,} ticks the worker holds {each['rss_mb_end']:.0f} MB; after the first twentieth "
            f"it held {each['rss_mb_early']:.0f} MB, and {each['rss_mb_max']:.0f} MB at most."
        )
        yield ""


def _profile(runs: Mapping[str, Any]) -> Iterator[str]:
    if profiled := runs.get("profile", {}).get(OURS):
        yield "## Where the worker's time goes"
        yield ""
        yield "Own time by Python's profiler during a drain, without waiting and starting up."
        yield ""
        yield from _table(
            ("function", "share", "calls"),
            [(f"`{each['function']}`", f"{each['share']:.1%}", f"{each['calls']:,}") for each in profiled],
        )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def _median(runs: Runs | None, name: str) -> float | None:
    return statistics.median(run[name] for run in runs) if runs else None


def _spread(runs: Runs, name: str) -> str:
    median, least, greatest = figures(runs, name)
    return _text(median) if len(runs) == 1 else f"{_text(median)} ({_text(least)} to {_text(greatest)})"


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _plots(runs: Mapping[str, Any], folder: Path, stem: str) -> Iterator[tuple[str, Path]]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    for what, name, title in (
        ("throughput", "ticks_per_s", "ticks a second, one core"),
        ("throughput", "cpu_s_per_million", "CPU seconds per million ticks"),
        ("latency", "p99", "p99 latency, ms"),
    ):
        found = runs.get(what, {})
        if not found:
            continue
        spreads = {label: figures(each, name) for label, each in found.items()}
        order = sorted(spreads, key=lambda label: spreads[label][0])
        medians = [spreads[label][0] for label in order]
        low = [spreads[label][0] - spreads[label][1] for label in order]
        high = [spreads[label][2] - spreads[label][0] for label in order]
        figure, axes = plt.subplots(figsize=(8, 0.5 * len(order) + 1.2), layout="constrained")
        colours = ["tab:blue" if label.startswith(OURS) else "tab:gray" for label in order]
        axes.barh(order, medians, xerr=[low, high], color=colours, capsize=3)
        axes.set_xscale("log")
        axes.set_xlim(min(medians) / 3, max(medians) * 4)
        axes.set_title(title)
        for place, value in enumerate(medians):
            axes.annotate(f" {_text(value)}", (value, place), va="bottom", fontsize=8)
        path = folder / f"{stem}_{what}-{name}.png"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        yield title, path
    if growth := runs.get("growth"):
        symbols = sorted(growth, key=int)
        figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
        axes.plot([int(label) for label in symbols], [figures(growth[s], "ticks_per_s")[0] for s in symbols], "o-")
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        title = "ticks a second by number of symbols"
        axes.set_title(title)
        path = folder / f"{stem}_growth.png"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        yield title, path
