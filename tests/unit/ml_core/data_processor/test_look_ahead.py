"""A feature that knows what comes later is found; those of the catalogue are not."""

import numpy as np
import pytest

from data_io.data_fetcher.sources import open_source
from ml_core.data_processor import look_ahead
from ml_core.data_processor.features import FeaturePlan
from ml_core.spec import load, parse

LEAKS = """
import numpy as np


class {name}:
    width = 0

    def update(self, ticks, state_SK):
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
    assert look_ahead.find(ticks, FeaturePlan.from_spec(parse({"name": "plain"})), cuts=20) == []


def test_a_feature_that_sees_the_next_tick_is_found_with_its_place_and_its_values(ticks, tmp_path) -> None:
    plan = plan_with(
        tmp_path, "NextTime", "(np.append(ticks.ts_ns_N[1:], ticks.ts_ns_N[-1:]) - ticks.ts_ns_N).astype(float)"
    )
    [leak] = look_ahead.find(ticks, plan, cuts=5)
    assert leak.what == "my_features:NextTime"
    assert leak.row == leak.cut - 1
    assert leak.whole > leak.cut_off


def test_a_feature_that_depends_on_where_batches_are_cut_is_found(ticks, tmp_path) -> None:
    plan = plan_with(tmp_path, "BatchMean", "np.full(len(ticks), float(len(ticks)))")
    assert [leak.what for leak in look_ahead.find(ticks, plan, cuts=3)] == ["my_features:BatchMean"]


def test_the_bits_of_a_nan_are_no_leak_and_the_sign_of_zero_is() -> None:
    same, other = look_ahead._bits(np.array([np.nan, 0.0])), look_ahead._bits(np.array([np.nan, -0.0]))
    assert (same == look_ahead._bits(np.array([np.nan, 0.0]))).all()
    assert (same == other).tolist() == [True, False]
