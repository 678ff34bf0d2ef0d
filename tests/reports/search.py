"""The choice of every model by walk-forward inside the training part, and the one look at the test.

The rule, written down before the test part is opened: of each family the trial with the highest mean of Spearman's and
Pearson's coefficient over the pooled test rows of the folds; the best neural model is the neural family whose chosen
trial has the highest such mean. Features are chosen first, by ridge.
"""

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ml_core.evaluation.metrics import information_coefficient, pearson
from ml_core.walk_forward import over, scores
from tests.reports import models
from tests.reports.cells import CELLS, FEATURES, material
from tests.reports.models import Trial

SEEDS = (0, 1, 2)  # of the chosen trial of families that start from chance; the first is the one that counts
SEEDED = ("mlp", "gradient_boosting", "online_mlp")


class Tried(NamedTuple):
    """A trial and what walk-forward inside the training part said of it."""

    trial: Trial
    ic: float
    pearson: float
    fold_ics: list[float]
    seconds: float
    error_I: np.ndarray  # out of sample: what came less what was said

    @property
    def merit(self) -> float:
        both = (self.ic + self.pearson) / 2
        return both if np.isfinite(both) else -1.0


class Opened(NamedTuple):
    """A chosen trial on the test part."""

    trial: Trial
    score_I: np.ndarray
    seconds: float


class Found(NamedTuple):
    """All that was found on a cell."""

    tried: list[Tried]
    chosen: dict[str, Tried]  # family -> its best trial
    best_neural: str
    opened: dict[str, list[Opened]]  # family -> one a seed


Run = Callable[[Callable[..., object], Iterable[tuple[object, ...]]], list[object]]


def try_out(cell: str, trial: Trial, data: Path) -> Tried:
    """Walk forward inside the training part."""
    began = time.perf_counter()
    given = material(cell, trial.features, trial.window, data)
    walked = over(given.samples, models.spec_of(cell, trial), given.plan, given.inside, models.learner(cell, trial))
    score_I, return_I = walked.pooled.score_IH[:, 0], walked.pooled.return_IH[:, 0]
    return Tried(
        trial,
        information_coefficient(score_I, return_I),
        pearson(score_I, return_I),
        [each["ic"] for each in walked.figures],
        time.perf_counter() - began,
        return_I - score_I,
    )


def open_test(cell: str, trial: Trial, data: Path) -> Opened:
    """Learn from the training part and score the test part."""
    began = time.perf_counter()
    given = material(cell, trial.features, trial.window, data)
    processed = given.prepared(models.spec_of(cell, trial), given.final)
    score_I = scores(processed, models.learner(cell, trial)(processed)).score_IH[:, 0]
    return Opened(trial, score_I, time.perf_counter() - began)


def search(
    cells: list[str], data: Path, run: Run, say: Callable[[str], None], *, most: int | None = None
) -> dict[str, Found]:
    """Return what was found on each cell; the work of all cells is shared out over the processes.

    Args:
        cells: Their names.
        data: Where the ticks are.
        run: Runs work, in this process or in others.
        say: Hears how far it is.
        most: Points of each space to try, and one seed; None: all of them, of smoke cells the first. Ridge, which
            chooses features, has all.
    """
    tried: dict[str, list[Tried]] = {cell: [] for cell in cells}
    points = {cell: 1 if CELLS[cell].smoke else most for cell in cells}

    def round_of(trials: dict[str, list[Trial]], what: str) -> None:
        given = [(cell, trial, data) for cell in cells for trial in trials[cell]]
        for (cell, _, _), result in zip(given, run(try_out, given), strict=True):
            tried[cell].append(result)
        say(f"{what}: {len(given)} trials")

    def best(cell: str, family: str) -> Tried:
        return max((each for each in tried[cell] if each.trial.family == family), key=lambda each: each.merit)

    lines = [Trial("ridge", params, features) for features in FEATURES for params in models.points(models.RIDGE)]
    round_of(dict.fromkeys(cells, lines), "features, by ridge")
    features = {cell: best(cell, "ridge").trial.features for cell in cells}
    round_of({cell: list(_families(features[cell], points[cell])) for cell in cells}, "families")
    round_of({cell: list(_online(best(cell, "mlp").trial, points[cell])) for cell in cells}, "online")
    chosen = {cell: {family: best(cell, family) for family in _order(tried[cell])} for cell in cells}
    opening = [
        (cell, each.trial._replace(seed=seed), data)
        for cell in cells
        for family, each in chosen[cell].items()
        for seed in (SEEDS if family in SEEDED and points[cell] is None else SEEDS[:1])
    ]
    results = run(open_test, opening)
    say(f"test parts opened, {len(opening)} models")
    found = {}
    for cell in cells:
        opened: dict[str, list[Opened]] = {}
        for (name, trial, _), result in zip(opening, results, strict=True):
            if name == cell:
                opened.setdefault(trial.family, []).append(result)
        neural = [family for family in chosen[cell] if models.is_neural(family)]
        best_neural = max(neural, key=lambda family: chosen[cell][family].merit)
        found[cell] = Found(tried[cell], chosen[cell], best_neural, opened)
    return found


def processes(count: int) -> tuple[ProcessPoolExecutor, Run]:
    """Return a pool and what runs work on it, in the order it was given; each process uses one thread."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"))

    def run(work: Callable[..., object], given: Iterable[tuple[object, ...]]) -> list[object]:
        return [future.result() for future in [pool.submit(work, *each) for each in given]]

    return pool, run


def _families(features: str, most: int | None) -> Iterable[Trial]:
    for family in models.FIXED:
        yield Trial(family, (), features)
    for params in models.points(models.RIVER, most):
        yield Trial("river_online", params, features)
    for params in models.points(models.BOOSTING, most):
        yield Trial("gradient_boosting", params, features)
    # networks with windows take longest: they start last, when the other process is busy with them too
    for family, (_, window, space) in models.NEURAL.items():
        for params in models.points(space, most):
            yield Trial(family, params, features, window)


def _online(start: Trial, most: int | None) -> Iterable[Trial]:
    for params in models.points(models.ONLINE, most):
        yield start._replace(family="online_mlp", params=start.params + params)


def _order(tried: list[Tried]) -> list[str]:
    return list(dict.fromkeys(each.trial.family for each in tried))
