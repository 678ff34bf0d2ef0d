from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.data_processor.features import FeaturePlan, FeatureState, step
from ml_core.errors import InputError, SpecError, UnknownPartError
from ml_core.spec import parse
from ml_core.types import SymbolTable
from tests.unit.ml_core.data_processor.market import Tick, batch, cut, joined, markets, pipeline, trade


def test_columns_stand_in_the_order_of_use_under_canonical_names() -> None:
    plan = FeaturePlan.from_spec(pipeline(["ofi:1000ms, 0.1s", "is_trade", "vol_ratio"]))
    assert plan.names == ("ofi:1s", "ofi:100ms", "is_trade", "vol_ratio:5s")
    assert plan.look_back_ns == 30 * 10**9
    assert plan.needs == {"quote"}


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("retrun:1s", "did you mean 'return'"),
        ("spread", "is not known"),
        ("return:fast", "not a duration"),
        ("return:1us", "not within"),
        ("return:400d", "not within"),
        ("queue_imbalance:1s", "takes no duration"),
    ],
)
def test_a_wrong_feature_is_told_with_what_would_be_right(use: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        FeaturePlan.from_spec(pipeline([use]))


def test_a_feature_named_twice_is_refused() -> None:
    with pytest.raises(SpecError, match="return:1s: named twice"):
        FeaturePlan.from_spec(pipeline(["return:1s", "return:1000ms"]))


def test_the_hash_follows_whatever_changes_rows_and_not_the_choice_of_symbols() -> None:
    base = FeaturePlan.from_spec(pipeline(["return:1s"]))
    for features in ({"gap": "10s"}, {"max_age": "1s"}, {"rows_on": ["trade"]}, {"use": ["return:2s"]}):
        assert FeaturePlan.from_spec(pipeline(["return:1s"], features=features | {})).hash != base.hash or (
            FeaturePlan.from_spec(parse({"name": "t", "features": features})).hash != base.hash
        )
    assert FeaturePlan.from_spec(pipeline(["return:1s"], source={"symbols": ["A"]})).hash == base.hash
    assert FeaturePlan.from_spec(pipeline(["return:1s"], features={"window": 9})).hash == base.hash


OWN = '''
import numpy as np

class Count:
    """Ticks of the symbol so far."""

    width = 1
    name = "count"

    def update(self, ticks, state_SK):
        out = np.empty(len(ticks))
        for i, symbol in enumerate(ticks.symbol_N):
            state_SK[symbol, 0] += 1
            out[i] = state_SK[symbol, 0]
        return out

class Infinite:
    width = 0

    def update(self, ticks, state_SK):
        return np.full(len(ticks), 1e300)

class Short:
    width = 0

    def update(self, ticks, state_SK):
        return np.zeros(1)

class Failing:
    width = 0

    def update(self, ticks, state_SK):
        raise RuntimeError("no luck")

class Stateless:
    def update(self, ticks, state_SK):
        return np.zeros(len(ticks))
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own")
    (path / "own_features.py").write_text(OWN)
    return path


def own(folder: Path, *use: str, **features: object) -> FeaturePlan:
    return FeaturePlan.from_spec(parse({"name": "t", "features": {"use": list(use), **features}}, folder=folder))


def test_an_own_feature_has_its_column_and_its_state(folder: Path) -> None:
    plan, symbols = own(folder, "is_trade", "own_features:Count", "trade_streak"), SymbolTable()
    assert plan.names == ("is_trade", "count", "trade_streak")
    ticks = [trade(0, 1, symbol="A"), trade(1, 1, symbol="B"), trade(2, 1, symbol="A")]
    assert step(batch(ticks, symbols), FeatureState(plan, symbols)).x_NF[:, 1].tolist() == [1, 1, 2]


def test_an_own_feature_sees_ticks_that_make_no_row_but_no_duplicates(folder: Path) -> None:
    plan, symbols = own(folder, "own_features:Count", rows_on=["trade"]), SymbolTable()
    ticks = [trade(0, 1, seq=1), trade(0, 1, seq=1), trade(1, 1, seq=2)]
    made = step(batch(ticks, symbols), FeatureState(plan, symbols))
    assert (made.offset_N.tolist(), made.x_NF[:, 0].tolist()) == ([0, 2], [1, 2])


def test_state_of_an_own_feature_survives_dump_and_load(folder: Path) -> None:
    plan, symbols = own(folder, "own_features:Count"), SymbolTable()
    state = FeatureState(plan, symbols)
    step(batch([trade(0, 1)], symbols), state)
    other = FeatureState(plan, SymbolTable())
    for block, data in state.dump():
        other.load(block, data)
    assert step(batch([trade(1, 1)], other.symbols), other).x_NF.tolist() == [[2.0]]


@settings(deadline=None, max_examples=20)
@given(ticks=markets(), places=st.lists(st.integers(0, 120), max_size=5))
def test_batch_cuts_make_no_difference_to_an_own_feature(folder: Path, ticks: list[Tick], places: list[int]) -> None:
    plan, symbols = own(folder, "own_features:Count"), SymbolTable()
    columns = batch(ticks, symbols)
    state = FeatureState(plan, symbols)
    whole = joined([step(columns, FeatureState(plan, symbols))])
    assert joined([step(part, state) for part in cut(columns, places)]) == whole


def test_what_an_own_feature_gives_is_finite_or_missing(folder: Path) -> None:
    plan, symbols = own(folder, "own_features:Infinite"), SymbolTable()
    assert np.isnan(step(batch([trade(0, 1)], symbols), FeatureState(plan, symbols)).x_NF).all()


@pytest.mark.parametrize(("name", "message"), [("Short", r"shape \(1,\) for 2 ticks"), ("Failing", "no luck")])
def test_an_own_feature_that_fails_is_named(folder: Path, name: str, message: str) -> None:
    plan, symbols = own(folder, f"own_features:{name}"), SymbolTable()
    with pytest.raises(InputError, match=message):
        step(batch([trade(0, 1), trade(1, 1)], symbols), FeatureState(plan, symbols))


def test_a_class_that_is_no_feature_is_refused(folder: Path) -> None:
    with pytest.raises(SpecError, match="width"):
        own(folder, "own_features:Stateless")
    with pytest.raises(UnknownPartError, match="Count"):
        own(folder, "own_features:Cuont")


def test_the_code_of_an_own_feature_is_part_of_the_hash(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "own_features.py").write_text(OWN.replace("+= 1", "+= 2"))
    assert own(folder, "own_features:Count").hash != own(tmp_path, "own_features:Count").hash
