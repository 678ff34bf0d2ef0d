"""The quality report chooses on the training part alone and says everything that it tried."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from data_io.data_fetcher.sources import open_source
from ml_core.types import SECOND_NS
from tests.reports import cells, models, page, profile, search
from tests.reports.cells import Cell, material
from tests.reports.models import Trial
from tests.reports.openings import Opening, note
from tests.reports.quality import on_test
from tests.reports.search import Opened, Tried

HERE = Path()
SMALL = Cell("small", "synthetic", "2s", "made up", smoke=False)
SPACES = {
    "RIDGE": {"strength": (0.01, 0.1), "mirror": (False,)},
    "RIVER": {"step": (0.001,)},
    "ONLINE": {"step": (1e-4,), "batch": (64,), "memory": (0,)},
    "BOOSTING": {"num_leaves": (4,), "min_data_in_leaf": (50,), "learning_rate": (0.1,), "rounds": (20,)},
}
NETWORKS = {
    "mlp": ("mlp", 1, {"hidden": ((8,),), "augment": ((),), "learning_rate": (1e-3, 1e-2), "weight_decay": (0.1,)}),
    "lstm": ("lstm", 4, {"width": (4,), "augment": ((),), "learning_rate": (1e-2,), "weight_decay": (0.1,)}),
}


@pytest.fixture
def small(monkeypatch) -> Cell:
    monkeypatch.setitem(cells.CELLS, "small", SMALL)
    monkeypatch.setattr(cells, "ticks", lambda *_: open_source("synthetic:symbols=1,ticks=4000,rate=20,seed=1").fetch())
    monkeypatch.setattr(search, "FEATURES", ("default",))
    for name, space in SPACES.items():
        monkeypatch.setattr(models, name, space)
    monkeypatch.setattr(models, "NEURAL", NETWORKS)
    monkeypatch.setattr(models, "EPOCHS", 1)
    monkeypatch.setattr(search, "SEEDS", (0, 1))
    material.cache_clear()
    yield SMALL
    material.cache_clear()


def in_turn(work, given: Iterable[tuple]) -> list:
    return [work(*each) for each in given]


def test_nothing_that_is_tried_knows_the_test_part(small: Cell) -> None:
    given = material("small", "default", 1, HERE)
    end_N, ts_N = given.samples.end_ns_NH.max(axis=1), given.samples.rows.ts_ns_N[given.samples.row_N]
    for fold in given.inside:
        processed = given.prepared(models.spec_of("small", Trial("ridge")), fold)
        used_I = np.concatenate([processed.train_I, processed.validation_I, processed.holdout_I])
        assert end_N[used_I].max() < given.final.test_ns
    last = given.prepared(models.spec_of("small", Trial("ridge")), given.final)
    assert end_N[np.concatenate([last.train_I, last.validation_I])].max() < given.final.test_ns
    assert ts_N[last.holdout_I].min() >= given.final.test_ns + 2 * SECOND_NS


def test_the_trial_that_does_best_inside_is_opened_and_every_family_is_on_the_page(small: Cell, tmp_path) -> None:
    order: list[str] = []

    def watched(work, given) -> list:
        order.append(work.__name__)
        return in_turn(work, given)

    found = search.search(["small"], HERE, watched, lambda _: None)["small"]
    shows = on_test("small", found, HERE)
    about = {
        "command": "make report",
        "day": "2026-01-02",
        "minutes": 1,
        "processes": 1,
        "points": None,
        "said": "a look",
    }
    shows = shows._replace(
        hours=profile.by_hour(shows.models[:2], shows.rows),
        parts=profile.of_ridge("small", found.chosen["ridge"].trial, HERE),
    )
    written = page.write(tmp_path, about, {"small": shows})
    text = (tmp_path / "quality_2026-01-02_small.md").read_text(encoding="utf-8")

    assert order == ["try_out"] * 3 + ["open_test"]
    assert set(found.chosen) == {
        "ridge", "momentum", "zero", "prior", "river_online", "gradient_boosting", "mlp", "lstm", "online_mlp",
    }  # fmt: skip
    for family, chosen in found.chosen.items():
        assert chosen.merit == max(each.merit for each in found.tried if each.trial.family == family)
        assert text.count(f"\n| {family} |") >= 3
        [ic] = [each.figures.ic for each in shows.results if each.name == family]
        assert shows.summary[family] == (ic if np.isfinite(ic) else None)
    assert found.best_neural in ("mlp", "lstm", "online_mlp")
    assert shows.models[0].name == found.best_neural
    assert shows.summary["best_neural"] == shows.summary[found.best_neural] > 0.1
    assert shows.summary["ridge"] > 0.1
    assert len(shows.seeds["mlp"]) == 2
    assert f"{len(found.tried)} trials" in text
    assert "[small](quality_2026-01-02_small.md) | " + found.best_neural in written.read_text(encoding="utf-8")
    assert len(list(tmp_path.glob("*.png"))) == 4
    whole, without = (
        next(each for each in shows.parts if each.what.endswith(end)) for end in ("100% of the rows", "queues")
    )
    assert whole.ics[0] == pytest.approx(found.chosen["ridge"].ic, abs=1e-9)
    assert without.ics[0] != whole.ics[0]
    assert sum(each.rows for each in shows.hours) == len(shows.rows.ts_ns_N)
    # windows of 4 rows begin later: all models are measured on the rows that all have scored
    assert {len(model.score_N) for model in shows.models} == {len(shows.rows.ts_ns_N)}


def test_the_best_neural_model_is_the_best_inside_the_training_part_whatever_the_test_says(small: Cell) -> None:
    merits = {"mlp": 0.2, "online_mlp": 0.3, "lstm": 0.1}

    def told(work, given) -> list:
        if work is search.open_test:
            return [Opened(trial, np.full(3, 9.0 if trial.family == "lstm" else 0.0), 0.0) for _, trial, _ in given]
        return [
            Tried(trial, merits.get(trial.family, 0.9), merits.get(trial.family, 0.9), [], 0.0, np.zeros(1))
            for _, trial, _ in given
        ]

    assert search.search(["small"], HERE, told, lambda _: None)["small"].best_neural == "online_mlp"


def test_a_trial_without_a_figure_is_never_chosen_over_one_that_has() -> None:
    none, poor = (Tried(Trial("x"), ic, ic, [], 0.0, np.zeros(1)) for ic in (float("nan"), -0.5))

    assert max((none, poor), key=lambda each: each.merit) is poor


def test_an_online_model_hears_of_a_test_row_only_when_it_has_matured(small: Cell, monkeypatch) -> None:
    heard: list[tuple[int, int]] = []
    training = {"hidden": (8,), "augment": (), "learning_rate": 1e-3, "weight_decay": 0.1}
    params = {**training, "step": 1e-4, "batch": 16, "memory": 0}
    trial = Trial("online_mlp", tuple(params.items()))

    class Watching(models.OnlineNetwork):
        newest_ns = 0

        def scores(self, chosen_B):
            Watching.newest_ns = int(self._dataset.ts_ns_N[chosen_B].max())
            return super().scores(chosen_B)

        def learn(self, chosen_B):
            ends = self._dataset.end_ns_NH[chosen_B].max()
            heard.append((int(ends), Watching.newest_ns))
            super().learn(chosen_B)

    monkeypatch.setattr(models, "OnlineNetwork", Watching)
    opened = search.open_test("small", trial, HERE)

    assert len(heard) > 10
    assert all(newest_ns < end_ns for end_ns, newest_ns in heard)  # and what is scored next comes at or after it
    assert np.isfinite(opened.score_I).all()


def test_every_opening_of_a_test_part_is_kept_and_told(tmp_path) -> None:
    first, second = (Opening("2026-01-02", "abc", 3, "mlp", ic, None) for ic in (0.1, 0.2))

    assert note(tmp_path, {"a": first}) == {"a": [first]}
    assert note(tmp_path, {"a": second, "b": first}) == {"a": [first, second], "b": [first]}
