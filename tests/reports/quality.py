"""How good models are on real ticks: `make report`.

usage: python -m tests.reports.quality [--cells ibm-10s,...] [--data FOLDER] [--out FOLDER] [--processes 2]
       [--points N] [--said TEXT]

Writes pages with plots and all figures as JSON into the folder; the last line on stdout is JSON.
"""

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ml_core.evaluation.compare import Rows, as_json
from ml_core.evaluation.metrics import information_coefficient
from model_ops_manager.card import Result, Shown, results
from tests.reports import page, profile
from tests.reports.cells import CAPTURE, CELLS, DATA, LEAN, material
from tests.reports.models import IN_RETURNS, spec_of
from tests.reports.page import Shows
from tests.reports.search import Found, processes, search

Tested = dict[int, tuple[np.ndarray, np.ndarray]]  # rows of a window -> numbers and times of the test rows
ROOT = Path(__file__).parents[2]
TARGETED = "ibm-10s"  # the one cell that can rank models
TARGET = {"ic": 0.26, "sign_auc": 0.62, "r2": 0.06}  # of the best neural model


def main() -> int:
    """Run the report; 2: the recorded ticks are not there."""
    parser = argparse.ArgumentParser(prog="python -m tests.reports.quality")
    parser.add_argument("--cells", default=",".join(CELLS), help="which, by commas")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder with {LEAN} and {CAPTURE}")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reports")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--points", type=int, help="try so many points of each space, and one seed; default: all")
    parser.add_argument("--said", default="", help="what sets this run apart, for the list of openings")
    given = parser.parse_args()
    cells = given.cells.split(",")
    unknown = [name for name in cells if name not in CELLS]
    if unknown:
        parser.error(f"no cell {unknown[0]!r}; there are {', '.join(CELLS)}")
    missing = [str(given.data / CELLS[name].source) for name in cells if not (given.data / CELLS[name].source).exists()]
    if missing:
        sys.stderr.write(f"no recorded ticks: {missing[0]} is missing; name their folder with --data\n")
        return 2
    began = time.perf_counter()
    page.commit()  # of the code that runs, before anything is written

    def say(text: str) -> None:
        sys.stderr.write(f"[{time.perf_counter() - began:4.0f} s] {text}\n")
        sys.stderr.flush()

    pool, run = processes(given.processes)
    with pool:
        found = search(cells, given.data, run, say, most=given.points)
        shown = {name: on_test(name, found[name], given.data) for name in cells}
        profiled = [name for name in cells if name == TARGETED]
        asked = [(name, found[name].chosen["ridge"].trial, given.data) for name in profiled]
        for name, parts in zip(profiled, run(profile.of_ridge, asked), strict=True):
            both = [each for each in shown[name].models if each.name in (found[name].best_neural, "ridge")]
            shown[name] = shown[name]._replace(hours=profile.by_hour(both, shown[name].rows), parts=parts)
    options = "" if given.cells == ",".join(CELLS) else f" --cells {given.cells}"
    options += f" --points {given.points}" if given.points else ""
    about = {
        "command": f"python -m tests.reports.quality{options}",
        "day": datetime.now(UTC).date().isoformat(),
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "processes": given.processes,
        "points": given.points,
        "said": given.said,
    }
    say(f"{page.write(given.out, about, shown)}")
    told = {name: each.summary for name, each in shown.items()}
    sys.stdout.write(json.dumps({"cells": told}, allow_nan=False) + "\n")
    return 0


def on_test(name: str, found: Found, data: Path) -> Shows:
    """The chosen models on the test rows that all of them have scored, the best neural one first."""
    windows = {found.chosen[family].trial.window for family in found.chosen}
    features = found.chosen[found.best_neural].trial.features
    widest = material(name, features, max(windows), data)
    spec = spec_of(name, found.chosen["ridge"].trial)
    tested = {window: _test_rows(name, features, window, data) for window in windows}
    common_ns = np.array(sorted(set.intersection(*(set(ts_N.tolist()) for _, ts_N in tested.values()))))
    chosen_I, ts_N = tested[max(windows)]
    rows = widest.rows(chosen_I[np.isin(ts_N, common_ns)], spec)
    order = [found.best_neural, *(family for family in found.chosen if family != found.best_neural)]
    models = []
    for family in order:
        each = found.chosen[family]
        kept_N = np.isin(tested[each.trial.window][1], common_ns)
        in_returns = family in IN_RETURNS
        error_I = each.error_I if in_returns else None
        models.append(Shown(family, found.opened[family][0].score_I[kept_N], in_returns, error_I))
    figures = results(models, rows)
    seeds = {family: _by_seed(found, family, tested, rows) for family, all_ in found.opened.items() if len(all_) > 1}
    return Shows(found, models, figures, rows, seeds, summary(name, found, figures, rows))


def _test_rows(name: str, features: str, window: int, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the test rows of a cell with windows this long, ascending by time, and their times."""
    given = material(name, features, window, data)
    ts_ns_N = given.samples.rows.ts_ns_N[given.samples.row_N]
    first_ns = given.final.test_ns + given.final.embargo_ns
    chosen_I = np.flatnonzero((ts_ns_N >= first_ns) & (ts_ns_N < given.final.to_ns))
    chosen_I = chosen_I[np.argsort(ts_ns_N[chosen_I], kind="stable")]
    return chosen_I, ts_ns_N[chosen_I]


def summary(name: str, found: Found, figures: list[Result], rows: Rows) -> dict[str, Any]:
    """What the last line says of a cell: Spearman's coefficient of each family, and the target where there is one."""
    first = figures[0]
    told: dict[str, Any] = {
        "best_neural": first.figures.ic,
        "best_neural_interval": _ends(first.figures.ic_interval),
        "best_neural_model": found.best_neural,
        "best_neural_pearson": first.figures.pearson,
        "best_neural_sign_auc": first.figures.sign_auc,
        "best_neural_r2": first.figures.r2,
    }
    if first.ahead:
        told["minus_ridge"], told["minus_ridge_interval"] = first.ahead.ic, _ends(first.ahead.ic_interval)
    for each in figures:
        told[each.name] = each.figures.ic
    told["rows"], told["blocks"] = len(rows.ts_ns_N), first.figures.ic_interval.blocks
    told["trials"] = len(found.tried)
    if first.figures.ic_interval.reason:
        told["no_interval"] = first.figures.ic_interval.reason
    if name == TARGETED:
        best = first.figures
        told["target_met"] = (
            min(best.ic, best.pearson) >= TARGET["ic"]
            and best.sign_auc >= TARGET["sign_auc"]
            and best.r2 >= TARGET["r2"]
        )
    result: dict[str, Any] = as_json(told)
    return result


def _by_seed(found: Found, family: str, tested: Tested, rows: Rows) -> list[float]:
    kept_N = np.isin(tested[found.chosen[family].trial.window][1], rows.ts_ns_N)
    return [information_coefficient(each.score_I[kept_N], rows.return_N) for each in found.opened[family]]


def _ends(interval: Any) -> list[float] | None:
    return None if interval.low is None else [interval.low, interval.high]


if __name__ == "__main__":
    sys.exit(main())
