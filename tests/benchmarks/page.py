"""The dated page of a full run, its plots and its JSON, for `docs/benchmarks`.

usage: python -m tests.benchmarks.page RESULT.json [--remarks FILE]

Writes the page of a result once more, beside it, with what a person says of its figures (Markdown) below them.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.open_loop import GROWTH, Load
from tests.benchmarks.report import HTTP_P99, Runs, busy, sustained
from tests.benchmarks.suite import OURS

PYTHON_ENGINES = ("quixstreams", "bytewax")
_HOW = (
    "One JSON tick in, 16 features, MLP 16-64-32-1, one JSON prediction out, on a real Kafka. Kafka, sender and reader "
    "have one core, the contender the other. Every prediction is compared with an offline float64 oracle before a time "
    "counts. tickwise logs its rows and commits its state to Kafka every 5 s. bytewax writes its state to a recovery "
    "store on disk every 5 s, Kafka Streams in its idiomatic form to a changelog topic. Stock Faust, the plain loop, "
    "quixstreams and Kafka Streams in its best form commit offsets every 5 s and keep no state across a restart. "
    "None but tickwise logs rows. "
    "Symbols are named so that the four partitions hold equally many ticks. Contenders take turns, each turn in "
    "another order, after one drain that does not count. Medians; ranges in brackets; n is the number of runs."
)


class Target(NamedTuple):
    """A figure of the issue and the bound it has to keep, where it has one."""

    what: str
    value: float | None
    n: int  # runs that the value is the median of
    bound: float | None
    unit: str
    at_most: bool = False

    @property
    def verdict(self) -> str:
        """Whether the bound is kept, and by how much it is missed."""
        if self.value is None:
            return "not measured"
        if self.bound is None:
            return ""
        if (self.value <= self.bound) if self.at_most else (self.value >= self.bound):
            return "kept"
        if self.value > 2 * self.bound:
            return f"**missed**: {self.value / self.bound:.1f} times the bound"
        return f"**missed**: {abs(self.value / self.bound - 1):.0%} {'above' if self.at_most else 'below'}"

    @property
    def row(self) -> tuple[str, ...]:
        """Cells of a table."""
        return (
            self.what,
            "" if self.value is None else f"{_text(self.value)} {self.unit}",
            str(self.n) if self.n else "",
            "" if self.bound is None else f"{'at most' if self.at_most else 'at least'} {_text(self.bound)}",
            self.verdict,
        )


def write(result: Mapping[str, Any], folder: Path, remarks: str = "") -> Path:
    """Write page, plots and JSON into ``folder`` and return the page; ``remarks``, Markdown, go below its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    about = result["about"]
    architecture, cores, *_ = about["machine"].split(", ")
    stem = f"whole-path_{architecture}-{cores}_{about['day']}".replace(" ", "-").replace("x86_64", "x86-64")
    (folder / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plots = list(_plots(result["runs"], folder, stem))
    page = folder / f"{stem}.md"
    page.write_text(text(result, plots, remarks), encoding="utf-8")
    return page


def text(result: Mapping[str, Any], plots: Sequence[tuple[str, Path]] = (), remarks: str = "") -> str:
    """Return the page, with ``plots`` as titles and files."""
    return "\n".join(_lines(result, plots, remarks)) + "\n"


def targets(result: Mapping[str, Any]) -> list[Target]:
    """Return the figures that the path has to reach."""
    runs: Mapping[str, Any] = result["runs"]
    ratio = result["ratio_to"]
    engines = [name for name in PYTHON_ENGINES if name in ratio]
    best_engine = min(engines, key=lambda name: ratio[name], default="no engine")
    growth, memory = (runs.get(part, {}) for part in ("growth", "memory"))
    json_out, arrow_out = (runs.get("arrow", {}).get(f"{OURS} with {form} out") for form in ("json", "arrow"))
    held = memory.get(OURS, [])
    http = runs.get("http", {}).get("", [{}])[0]
    http_n = len(http["runs"]["single"]["per_s"]) if http else 0

    def headline(name: str) -> tuple[float | None, int]:
        return result.get(name), result["n"].get(name, 0)

    def ratio_to(name: str) -> tuple[float | None, int]:
        return ratio.get(name), result["n"]["ratio_to"].get(name, 0)

    def of_http(name: str) -> tuple[float | None, int]:
        return http.get(name), http_n

    return [
        Target("whole path, rows logged, checkpoints on", *headline("ticks_per_s"), 900_000, "ticks/s"),
        Target("whole path, sustained: lag does not grow", *headline("sustained_ticks_per_s"), None, "ticks/s"),
        Target("Arrow in, JSON out", *_middle(_each(json_out, "ticks_per_s")), 1_300_000, "ticks/s"),
        Target("Arrow in and out", *_middle(_each(arrow_out, "ticks_per_s")), 2_500_000, "ticks/s"),
        Target("ratio to stock Faust, idiomatic", *ratio_to("stock_faust"), 80, "x"),
        Target(f"ratio to the best Python engine ({best_engine})", *ratio_to(best_engine), 6, "x"),
        Target("ratio to the plain loop", *ratio_to("plain_loop"), 4, "x"),
        Target("ratio to Kafka Streams in its best form", *ratio_to("kafka_streams"), 2.5, "x"),
        Target("CPU of the whole worker", *headline("cpu_s_per_million"), 1.1, "s per million ticks", at_most=True),
        Target("latency at 50,000 ticks/s, p50", *headline("latency_ms_p50"), 5, "ms", at_most=True),
        Target("latency at 50,000 ticks/s, p99", *headline("latency_ms_p99"), 20, "ms", at_most=True),
        Target("latency, exactly once, p99", *headline("latency_ms_p99_exactly_once"), 500, "ms", at_most=True),
        Target("memory with 10,000 symbols", *_middle(_each(growth.get("10000"), "rss_mb")), 400, "MB", at_most=True),
        Target(f"memory, {_after(held)}", *_middle(_each(held, "rss_mb_end")), 400, "MB", at_most=True),
        Target(
            "memory at most in that run, with the child of the start",
            *_middle(_each(held, "all_mb_max")), 400, "MB", at_most=True,
        ),
        Target("whole path, 1 to 10,000 symbols", *_slowdown(growth), 1.3, "x", at_most=True),
        Target(
            "kernel alone, 1 to 10,000 symbols",
            *_middle([ns["10000"] / ns["1"] for ns in _each(_unnamed(runs, "kernel"), "ns_by_symbols")]),
            3, "x", at_most=True,
        ),
        Target(
            "checkpoints of 10,000 live symbols, share of the core",
            *_middle([100 * each for run in _unnamed(runs, "checkpoint") for each in run["share_of_core"]]),
            2, "%", at_most=True,
        ),
        Target("HTTP, single row", *of_http("single_requests_per_s"), 3_000, "requests/s"),
        Target("HTTP, single row, p99 at 3,000 requests/s", *of_http(HTTP_P99), 15, "ms", at_most=True),
        Target("HTTP, bodies of 64 rows", *of_http("rows_per_s_in_bodies_of_64"), 100_000, "rows/s"),
        Target("HTTP, ratio to `mlflow models serve`", *of_http("ratio_to_mlflow"), 5, "x"),
    ]  # fmt: skip


def _after(held: Runs) -> str:
    return f"{held[0]['symbols']:,} symbols, after {held[0]['ticks'] / 1e6:.0f} million ticks" if held else "long run"


def _slowdown(growth: Mapping[str, Runs]) -> tuple[float | None, int]:
    """Return how many times longer a tick takes with 10,000 symbols than with few, whichever of these are faster."""
    most, n = _middle(_each(growth.get("10000"), "ticks_per_s"))
    few = [median for name in ("1", "100") if (median := _middle(_each(growth.get(name), "ticks_per_s"))[0])]
    return (max(few) / most if few and most else None), n


def _lines(result: Mapping[str, Any], plots: Sequence[tuple[str, Path]], remarks: str) -> Iterator[str]:
    about, runs = result["about"], result["runs"]
    yield f"# The whole path, {about['day']}"
    yield ""
    yield f"```\n{about['command']}\n```"
    yield ""
    yield _HOW
    yield ""
    yield from _table(("figure", "measured", "n", "target", ""), [target.row for target in targets(result)])
    if remarks:
        yield remarks.strip()
        yield ""
    yield from _throughput(runs)
    yield from _loads(runs)
    yield from _latency(runs)
    yield from _growth(runs)
    yield from _held(runs)
    yield from _http(runs)
    yield from _profile(runs)
    for title, plot in plots:
        yield f"![{title}]({plot.name})"
        yield ""
    if result["left_out"]:
        yield "Left out:"
        yield ""
        yield from (f"- {what}: {why.splitlines()[0]}" for what, why in result["left_out"].items())
        yield ""
    before, after = about["before"], about["after"]
    yield (
        f"Machine: {about['machine']}; {about['system']}; load {before['load']} before, {after['load']} after, "
        f"from {before['at']} to {after['at']} UTC. "
        f"An empty loop of a thousand took {before['empty_loop_us']} us before and {after['empty_loop_us']} us after."
    )
    yield ""
    yield ", ".join(f"{name} {number}" for name, number in about["versions"].items()) + "."
    yield f"Commit {about['commit']}."


def _throughput(runs: Mapping[str, Any]) -> Iterator[str]:
    yield "## Throughput"
    yield ""
    yield (
        "From the broker's stamps of the predictions, in the steady part of a run; CPU and memory are those of a "
        "process and its children, memory in the last quarter. Busy is the share of its core that a contender used: "
        "the rest of the time it waited."
    )
    yield ""
    found = {
        **runs.get("throughput", {}),
        **{f"{label}, Arrow in": each for label, each in runs.get("arrow", {}).items()},
    }
    rows = [
        (
            label, *(_spread(_each(each, name)) for name in ("ticks_per_s", "cpu_s_per_million")),
            _spread(busy(each), "{:.0%}".format), _spread(_each(each, "rss_mb")), str(len(each)),
        )
        for label, each in found.items()
    ]  # fmt: skip
    yield from _table(("contender", "ticks/s", "CPU s per million", "busy", "RSS, MB", "n"), rows)


def _loads(runs: Mapping[str, Any]) -> Iterator[str]:
    loads = runs.get("load", {})
    if not loads:
        return
    yield "## Sustained"
    yield ""
    yield (
        "Ticks sent by the clock, at 90 % of what a contender drained and then less and less, until lag grows by less "
        f"than {GROWTH:.0%} of what is offered in the second half of an open loop. Sender, reader and Kafka share a "
        "core, and an open loop costs that core more than a topic that is full already."
    )
    yield ""
    rates = sustained(loads)
    names = dict.fromkeys(label.rpartition(" at ")[0] for label in loads)
    yield from _table(
        ("contender", "sustained ticks/s", "tickwise has so many times that", "n"),
        [
            (
                name, _text(rates.get(name)) or "none of those below",
                f"{rates[OURS] / rates[name]:.3g}" if OURS in rates and name in rates else "", "1",
            )
            for name in names
        ],
    )  # fmt: skip
    yield from _table(
        ("contender", "offered ticks/s", "really sent", "growth of lag, share of offered", "largest lag", "sustained"),
        [
            (
                label, _text(each["rate"]), _text(each["sent_rate"]), f"{each['lag_growth']:.2%}",
                _text(each["lag_max"]), "yes" if Load(**each).is_sustained else "no",
            )
            for label, (each, *_) in loads.items()
        ],
    )  # fmt: skip


def _latency(runs: Mapping[str, Any]) -> Iterator[str]:
    yield "## Latency"
    yield ""
    yield (
        "From the intended time of sending a tick to its prediction being read, ms. Ticks leave by the clock, those of "
        "5 ms (10 ms above 100,000 ticks/s) together, whether or not the contender keeps up. A run in which a "
        "prediction does not come counts as failed."
    )
    yield ""
    yield from _table(
        ("contender", "ticks/s", "p50", "p99", "p99.9", "max", "sender late by at most", "n"),
        [
            (
                label,
                _text(each[0]["rate"]),
                *(_spread(_each(each, name)) for name in ("p50", "p99", "p999", "max", "late_ms_max")),
                str(len(each)),
            )
            for label, each in runs.get("latency", {}).items()
        ],
    )


def _growth(runs: Mapping[str, Any]) -> Iterator[str]:
    if growth := runs.get("growth"):
        yield "## Growth"
        yield ""
        kernel = _unnamed(runs, "kernel")
        by_symbols = _each(kernel, "ns_by_symbols")
        yield from _table(
            ("symbols", "whole path, ticks/s", "RSS, MB", "n", "kernel alone, ns a tick", "n"),
            [
                (
                    _text(int(label)), _spread(_each(each, "ticks_per_s")), _spread(_each(each, "rss_mb")),
                    str(len(each)), _spread(_each(by_symbols, label)), str(len(by_symbols)),
                )
                for label, each in growth.items()
            ],
        )  # fmt: skip
        if by_factor := _each(kernel, "ns_by_duration_factor"):
            costs = ", ".join(f"{_spread(_each(by_factor, factor))} ns ({factor}x)" for factor in by_factor[0])
            yield f"With all durations multiplied, the kernel alone costs a tick {costs}, n = {len(kernel)}."
            yield ""


def _held(runs: Mapping[str, Any]) -> Iterator[str]:
    for each in runs.get("memory", {}).get(OURS, [])[:1]:
        yield "## Memory and checkpoints"
        yield ""
        yield (
            f"With {each['symbols']:,} symbols, the worker process holds {each['rss_mb_end']:.0f} MB after "
            f"{each['ticks']:,} ticks; it held {each['rss_mb_early']:.0f} MB after the first twentieth of them and "
            f"{each['rss_mb_max']:.0f} MB at most (resident, n = 1). For some seconds at its start, and at a look for "
            "another champion, a child holds MLflow's client: both together held "
            f"{each['all_mb_max']:.0f} MB at most, what they have of one file counted once."
        )
        yield ""
    for each in _unnamed(runs, "checkpoint"):
        yield (
            f"A checkpoint of {each['symbols']:,} live symbols, all changed ({each['blocks']} blocks, "
            f"{each['bytes'] / 1e6:.1f} MB), takes {_spread(each['cpu_s'])} s of CPU: to pack, encode and commit it to "
            f"Kafka through the worker's own state log, n = {len(each['cpu_s'])}. One every 5 s is "
            f"{_spread(each['share_of_core'], '{:.2%}'.format)} of the core."
        )
        yield ""


def _http(runs: Mapping[str, Any]) -> Iterator[str]:
    for found in _unnamed(runs, "http"):
        yield "## HTTP"
        yield ""
        yield (
            f"{found['connections']} connections that ask again once answered; the fixed rate is that of callers who "
            "ask by the clock, and counts from the intended time."
        )
        yield ""
        names = ("per_s", "p50_ms", "p99_ms", "cpu_us")
        yield from _table(
            ("load", "requests/s", "p50, ms", "p99, ms", "CPU us a request", "n"),
            [
                (f"`{load}`", *(_spread(each[name]) for name in names), str(len(each["per_s"])))
                for load, each in found["runs"].items()
            ],
        )


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


def _unnamed(runs: Mapping[str, Any], what: str) -> list[Any]:
    """Return what a program of its own has measured, once for each of its runs."""
    found: list[Any] = runs.get(what, {}).get("", [])
    return found


def _each(runs: Runs | None, name: str) -> list[Any]:
    return [run[name] for run in runs or ()]


def _middle(values: Sequence[float]) -> tuple[float | None, int]:
    """Return the median, and of how many values."""
    return (statistics.median(values) if values else None), len(values)


def _spread(values: Sequence[float], show: Callable[[float], str] | None = None) -> str:
    if not values:
        return ""
    show = show or _text
    middle = show(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({show(min(values))} to {show(max(values))})"


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
        values = {label: _each(each, name) for label, each in found.items()}
        order = sorted(values, key=lambda label: statistics.median(values[label]))
        medians = [statistics.median(values[label]) for label in order]
        low = [median - min(values[label]) for median, label in zip(medians, order, strict=True)]
        high = [max(values[label]) - median for median, label in zip(medians, order, strict=True)]
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
        axes.plot(
            [int(label) for label in symbols], [_middle(_each(growth[s], "ticks_per_s"))[0] for s in symbols], "o-"
        )
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        title = "ticks a second by number of symbols"
        axes.set_title(title)
        path = folder / f"{stem}_growth.png"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        yield title, path


def main() -> None:
    """Write the page of a result."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.page")
    parser.add_argument("result", type=Path, help="the JSON beside a page")
    parser.add_argument("--remarks", type=Path, help="Markdown that the page shows below its first table")
    given = parser.parse_args()
    remarks = given.remarks.read_text(encoding="utf-8") if given.remarks else ""
    page = write(json.loads(given.result.read_text(encoding="utf-8")), given.result.parent, remarks)
    sys.stdout.write(f"{page}\n")


if __name__ == "__main__":
    main()
