"""A feature or score that knows what comes later is found; those of the catalogue do not."""

import numpy as np
import pytest

from data_io.data_fetcher.sources import open_source
from ml_core.data_processor import look_ahead
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import InputError
from ml_core.spec import load, parse
from ml_core.types import TickBatch

LEAKS = """
import numpy as np


class {name}:
    width = 0

    def update(self, ticks, state_SK):
        return {value}
"""

FITTED = """
import numpy as np


class Fitted:
    width = 0

    def __init__(self):
        self.kept, self.last = {kept}, None

    def update(self, ticks, state_SK):
        if self.last is None:
            self.last = float(ticks.offset_N[-1])
        return {value}
"""


@pytest.fixture(scope="module")
def ticks():
    return next(open_source("synthetic:symbols=4,ticks=3000,rate=500").stream(3000))


def plan_with(folder, name: str, value: str) -> FeaturePlan:
    (folder / "my_features.py").write_text(LEAKS.format(name=name, value=value))
    file = folder / "own.toml"
    file.write_text(f'name = "own"\n[features]\nuse = ["return:1s", "my_features:{name}"]\n')
    return FeaturePlan.from_spec(load(file))


def test_the_features_of_the_catalogue_know_nothing_of_later_ticks(ticks) -> None:
    assert look_ahead.find(ticks, FeaturePlan.from_spec(parse({"name": "plain"})).anew, cuts=20).leaks == []


def test_a_feature_that_sees_the_next_tick_is_found_with_its_place_and_its_values(ticks, tmp_path) -> None:
    plan = plan_with(
        tmp_path, "NextTime", "(np.append(ticks.ts_ns_N[1:], ticks.ts_ns_N[-1:]) - ticks.ts_ns_N).astype(float)"
    )
    [leak] = look_ahead.find(ticks, plan.anew, cuts=5).leaks
    assert leak.what == "my_features:NextTime"
    assert leak.row == leak.cut - 1
    assert leak.whole > leak.cut_off


def test_a_feature_that_depends_on_where_batches_are_cut_is_found(ticks, tmp_path) -> None:
    plan = plan_with(tmp_path, "BatchMean", "np.full(len(ticks), float(len(ticks)))")
    assert [leak.what for leak in look_ahead.find(ticks, plan.anew, cuts=3).leaks] == ["my_features:BatchMean"]


@pytest.mark.parametrize(
    ("kept", "value"),
    [
        ("None", "np.full(len(ticks), self.last)"),
        ("{}", "np.array([self.kept.setdefault(n, self.last - n) for n in ticks.offset_N.tolist()], float)"),
    ],
)
def test_a_feature_that_keeps_what_it_saw_in_its_first_batch_is_found(ticks, tmp_path, kept, value) -> None:
    (tmp_path / "my_features.py").write_text(FITTED.format(kept=kept, value=value))
    file = tmp_path / "own.toml"
    file.write_text('name = "own"\n[features]\nuse = ["return:1s", "my_features:Fitted"]\n')
    plan = FeaturePlan.from_spec(load(file))

    [leak] = look_ahead.find(ticks, plan.anew, cuts=3).leaks

    assert (leak.what, leak.row) == ("my_features:Fitted", 0)
    assert plan.own[0].part.last is None


def test_a_score_that_depends_on_later_rows_is_found_and_one_that_does_not_is_counted(ticks) -> None:
    plan = FeaturePlan.from_spec(parse({"name": "plain"}))

    def by_all(rows):
        return np.stack([rows.mid_N, rows.mid_N - rows.mid_N.mean()], axis=1).astype(np.float32)

    def by_row(rows):
        return np.where(rows.symbol_N == 0, rows.mid_N, np.nan).astype(np.float32)[:, None]

    assert [leak.what for leak in look_ahead.find(ticks, plan.anew, cuts=3, score=by_all).leaks] == ["score 1"]
    looked = look_ahead.find(ticks, plan.anew, cuts=3, score=by_row)
    assert looked.leaks == []
    assert 0 < looked.scored < looked.rows < len(ticks)
    with pytest.raises(InputError, match="no score was compared"):
        look_ahead.find(ticks, plan.anew, cuts=3, score=lambda rows: by_row(rows) * np.float32("nan"))


@pytest.mark.parametrize("symbol", ["BTCUSDT", "SYN03"])
def test_where_no_row_stands_before_a_cut_nothing_is_proven(ticks, symbol) -> None:
    until = int(np.flatnonzero(ticks.symbol_N == ticks.symbols.index("SYN03"))[0]) + 1  # the first of its symbol
    few = TickBatch(*(column[:until] for column in ticks[:-1]), ticks.symbols)
    plan = FeaturePlan.from_spec(parse({"name": "plain", "source": {"symbols": [symbol]}}))
    with pytest.raises(InputError, match="nothing was compared"):
        look_ahead.find(few, plan.anew, cuts=20)


def test_the_bits_of_a_nan_are_no_leak_and_the_sign_of_zero_is() -> None:
    same, other = look_ahead._bits(np.array([np.nan, 0.0])), look_ahead._bits(np.array([np.nan, -0.0]))
    assert (same == look_ahead._bits(np.array([np.nan, 0.0]))).all()
    assert (same == other).tolist() == [True, False]
