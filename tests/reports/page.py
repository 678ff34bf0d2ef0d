"""The dated pages of the quality report, their plots and their JSON, for `docs/reports`."""

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ml_core.evaluation.compare import Rows, as_json
from ml_core.types import SECOND_NS
from model_ops_manager.card import Result, Shown, plots, table, told
from tests.reports import models, profile
from tests.reports.cells import CELLS, FEATURES
from tests.reports.openings import Opening, note
from tests.reports.profile import Part
from tests.reports.search import SEEDED, SEEDS, Found, Tried

PACKAGES = ("numpy", "torch", "lightgbm", "river")
_HOW = (
    "Every model predicts the log return of the mid over the horizon from feature rows, one after each tick. Features, "
    "models, parameters and the number of epochs are chosen by purged walk-forward inside the training part alone: "
    "expanding folds, on the two days with an embargo of one look-ahead, early stopping on the last 15 % of what a "
    "fold learns from, of the capture on 35 %. A run opens the test part once, by the chosen trial of each family; how "
    "often runs have opened it stands with each cell, for whoever makes the next search knows how the last one ended. "
    "The best neural model is the neural family whose chosen trial had the highest mean of both coefficients inside "
    "the training part; it need not be the best on the test part. Models that learn online are scored at each row with "
    "what they learned from outcomes that had matured by then, also on the test part; all others stand still there. A "
    "model that learns in a mirror sees half of its rows with falls for rises and bids for asks, so that the drift of "
    "a day teaches it nothing."
)
_READ = (
    "IC is Spearman's rank correlation of predictions and returns. Intervals hold 95 % of 2,000 draws of whole blocks "
    "of time, each at least two look-aheads long; differences are drawn in pairs. Costs are the whole spread at each "
    "row; a model acts where its prediction exceeds them. Momentum scores by the past return; its unit is not that "
    "of the label. Spearman and Pearson are both shown because one wild second may hold half of the variance."
)
SMOKE = (
    "A smoke figure: the test part has {stretches} stretches of time as long as a label, and one second of its rows "
    "holds {share:.0%} of the squared returns. It cannot rank models, so the first point of each space is tried."
)


class Shows(NamedTuple):
    """What the page shows of a cell."""

    found: Found
    models: list[Shown]  # the best neural one first
    results: list[Result]
    rows: Rows
    seeds: dict[str, list[float]]  # family -> IC of each seed
    summary: dict[str, Any]
    hours: Sequence[Part] = ()  # the best neural model and ridge in each hour of the test part
    parts: Sequence[Part] = ()  # of ridge inside the training part, with less to go by


def write(folder: Path, about: Mapping[str, Any], cells: Mapping[str, Shows]) -> Path:
    """Write a page with plots for each cell, and return the page that sums up all cells of the day.

    Args:
        folder: Cells that an earlier run of the day has written there stay on the page.
        about: Day, command, minutes, processes and points of this run, and what is said of it.
        cells: What it found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"quality_{about['day']}"
    opened = note(folder, {name: _opening(about, each) for name, each in cells.items()})
    figures = folder / f"{stem}.json"
    data: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))["cells"] if figures.exists() else {}
    for name, each in cells.items():
        data[name] = {"about": dict(about) | machine(), **_json(each)}
        lines = [f"# {name}, {about['day']}", ""]
        lines += [
            *_cell(folder, f"{stem}_{name}", name, each),
            *_openings(opened[name]),
            *_spaces(name, about["points"]),
        ]
        _save(folder / f"{stem}_{name}.md", [*lines, _ran(data[name]["about"])])
    data = {name: data[name] for name in CELLS if name in data}
    _save(figures, [json.dumps({"cells": data}, indent=1, allow_nan=False)])
    page = folder / f"{stem}.md"
    _save(page, [f"# Quality on real ticks, {about['day']}", "", _HOW, "", _READ, "", *_summed_up(stem, data)])
    return page


def _save(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _summed_up(stem: str, data: Mapping[str, Any]) -> Iterator[str]:
    names = ("ridge", "gradient_boosting", "river_online", "momentum")
    yield f"| cell | best neural model | its IC | {' | '.join(names)} | blocks of time | |"
    yield "|" + " --- |" * (len(names) + 5)
    for cell, each in data.items():
        told_ = each["summary"]
        ends = told_["best_neural_interval"]
        said = {True: "target kept", False: "target **missed**", None: "smoke"}[told_.get("target_met")]
        cells = (
            f"[{cell}]({stem}_{cell}.md)",
            told_["best_neural_model"],
            _number(told_["best_neural"]) + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""),
            *(_number(told_[name]) for name in names),
            str(told_["blocks"]),
            said,
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def _ran(about: Mapping[str, Any]) -> str:
    return (
        f"`{about['command']}`: {about['minutes']} minutes, processes: {about['processes']}; {about['machine']}; "
        f"{about['versions']}; commit {about['commit']}."
    )


def machine() -> dict[str, str]:
    """What figures depend on besides the code."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES) + f", Python {platform.python_version()}",
        "commit": commit(),
    }


def _opening(about: Mapping[str, Any], shows: Shows) -> Opening:
    names = ("trials", "best_neural_model", "best_neural", "ridge")
    return Opening(about["day"], commit(), *(shows.summary[name] for name in names), about["said"])


def _cell(folder: Path, stem: str, name: str, shows: Shows) -> Iterator[str]:
    found, best = shows.found, shows.found.best_neural
    yield f"{CELLS[name].said[0].upper()}{CELLS[name].said[1:]}. {len(shows.rows.ts_ns_N):,} test rows."
    yield ""
    if CELLS[name].smoke:
        stretches = len(np.unique(shows.rows.ts_ns_N // shows.rows.look_ahead_ns))
        yield from (SMOKE.format(stretches=stretches, share=_wildest_second(shows.rows)), "")
    if "target_met" in shows.summary:
        yield from (_verdict(shows), "")
    yield from table(shows.results)
    yield f"`{best}` is the best neural model: {found.chosen[best].trial.told}."
    yield from told(shows.models[0], shows.rows)
    yield from ("## How the models were chosen", "")
    yield (
        f"{len(found.tried)} trials, {sum(each.seconds for each in found.tried):.0f} s of walk-forward, all inside the "
        "training part. Of each family the chosen one; coefficients of the pooled test rows of the folds."
    )
    yield ""
    yield "| family | trials | IC | Pearson | IC by fold | chosen | IC by seed, on the test part |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for family, each in found.chosen.items():
        count = sum(other.trial.family == family for other in found.tried)
        seeds = " ".join(_number(ic) or "-" for ic in shows.seeds.get(family, []))
        folds = " ".join(_number(ic) for ic in each.fold_ics)
        cells = (family, str(count), _number(each.ic), _number(each.pearson), folds, each.trial.told, seeds)
        yield f"| {' | '.join(cells)} |"
    yield ""
    for caption, path in plots(folder, stem, shows.models[0], shows.models, shows.rows):
        yield from (f"![{caption}]({path.name})", "")
    if shows.parts:
        yield from ("## Where it comes from", "")
        yield from profile.lines(shows.hours, [found.best_neural, "ridge"], shows.parts)
    yield from ("<details><summary>All trials</summary>", "")
    yield from ("| family | IC | Pearson | trial |", "| --- | --- | --- | --- |")
    for tried in sorted(found.tried, key=lambda each: (each.trial.family, -each.merit)):
        yield f"| {tried.trial.family} | {_number(tried.ic)} | {_number(tried.pearson)} | {tried.trial.told} |"
    yield from ("", "</details>", "")


def _wildest_second(rows: Rows) -> float:
    _, second_N = np.unique(rows.ts_ns_N // SECOND_NS, return_inverse=True)
    squares_S = np.bincount(second_N, weights=rows.return_N**2)
    return float(squares_S.max() / squares_S.sum())


def _openings(opened: Sequence[Opening]) -> Iterator[str]:
    yield from ("## How often the test part was opened", "")
    yield "| day | commit | trials | best neural model | its IC | IC of ridge | |"
    yield "|" + " --- |" * 7
    for each in opened:
        trials = str(each.trials) if each.trials else ""
        figures = (_number(each.ic), _number(each.ridge_ic))
        cells = (each.day, each.commit, trials, each.best_neural, *figures, each.said)
        yield f"| {' | '.join(cells)} |"
    yield ""


def _verdict(shows: Shows) -> str:
    first = shows.results[0]
    figures, ahead = first.figures, first.ahead
    kept = "kept" if shows.summary["target_met"] else "**missed**"
    said = (
        f"The target, an IC of at least 0.26 by both coefficients, an AUC of the sign of at least 0.62 and R2 of at "
        f"least 0.06 for the best neural model, is {kept}: IC {figures.ic:.3f}, Pearson {figures.pearson:.3f}, AUC "
        f"{figures.sign_auc:.3f}, R2 {figures.r2:.4f}."
    )
    if ahead is None or ahead.ic_interval.low is None or ahead.ic_interval.high is None:
        return said
    low, high = ahead.ic_interval.low, ahead.ic_interval.high
    is_clear = "which is more than chance" if low > 0 or high < 0 else "which chance explains as well"
    return (
        f"{said} Its IC is {ahead.ic:+.3f} ({low:.3f} to {high:.3f}) from that of ridge on the same rows, {is_clear}."
    )


def _spaces(cell: str, most: int | None) -> Iterator[str]:
    most = 1 if CELLS[cell].smoke else most
    yield from ("## What was searched", "")
    spaces = {"ridge": models.RIDGE, "gradient_boosting": models.BOOSTING, "river_online": models.RIVER}
    spaces |= {name: space for name, (_, _, space) in models.NEURAL.items()}
    spaces["online_mlp"] = {"(the chosen mlp, going on)": ("",), **models.ONLINE}
    tried = "every point of it" if most is None else f"its first {most}, of ridge all,"
    yield f"| family | space, {tried} tried |"
    yield "| --- | --- |"
    for family, space in spaces.items():
        told_ = "; ".join(f"{name} {', '.join(str(value) for value in values)}" for name, values in space.items())
        yield f"| {family} | {told_} |"
    yield ""
    yield (
        f"Sets of features: {', '.join(FEATURES)}, chosen by ridge. Networks: at most {models.EPOCHS} epochs, "
        f"patience {models.WAIT}, batches of {models.BATCH}. "
        + (
            f"{', '.join(SEEDED)} were run on the test part with {len(SEEDS)} seeds; the first is the one that counts."
            if most is None
            else "One seed."
        )
    )
    yield ""


def _json(shows: Shows) -> dict[str, Any]:
    def trial(each: Tried) -> dict[str, Any]:
        found: dict[str, Any] = as_json(each._replace(error_I=None))
        return found | {"trial": each.trial.family + ": " + each.trial.told}

    return {
        "summary": shows.summary,
        "results": as_json(shows.results),
        "seeds": as_json(shows.seeds),
        "hours": as_json(list(shows.hours)),
        "parts": as_json(list(shows.parts)),
        "trials": [trial(each) for each in shows.found.tried],
    }


def _number(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and np.isfinite(value) else ""


@cache
def commit() -> str:
    """Return the commit of the tree as it was at the first call; pages that are written change it."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=10)
    return done.stdout.strip() or "unknown"
