"""One data set for equal ticks, in whatever order files and partitions bring them."""

import numpy as np
import pandas as pd
import pytest

from data_io.data_fetcher.synthetic import Market, Synthetic
from ml_core.data_processor import canonical
from ml_core.data_processor.canonical import form, order, rank
from ml_core.data_processor.dataset import process
from ml_core.spec import PipelineSpec
from tests.unit.ml_core.data_processor.market import pipeline


def spec(**train: object) -> PipelineSpec:
    return pipeline(
        features={"window": 3}, label={"horizons": ["1s"], "delay": "20ms"}, train={"min_rows": 500, **train}
    )


@pytest.fixture(scope="module")
def ticks() -> pd.DataFrame:
    return Synthetic(Market(symbols=4, ticks=20_000, rate=400, seed=3)).fetch()


def by_partition(ticks: pd.DataFrame, symbols_of: list[list[int]]) -> pd.DataFrame:
    """The ticks as a topic holds them: partition after partition, symbols whole, each in its order of arrival."""
    code_N = ticks["symbol"].cat.codes
    return pd.concat([ticks[code_N.isin(codes)] for codes in symbols_of], ignore_index=True)


@pytest.mark.parametrize("symbols_of", [[[3, 1], [0, 2]], [[2], [1], [0, 3]]])
def test_ticks_of_partitions_make_the_data_set_of_the_file(ticks, symbols_of) -> None:
    of_file, of_topic = process(ticks, spec()), process(by_partition(ticks, symbols_of), spec())
    assert of_topic.hash == of_file.hash
    assert of_topic.scaler == of_file.scaler
    assert (of_topic.dead_zone, of_topic.prior) == (of_file.dead_zone, of_file.prior)
    for name in ("y_NH", "weight_N", "ts_ns_N", "end_ns_NH", "return_NH", "symbol_N"):
        assert getattr(of_topic.dataset, name).tobytes() == getattr(of_file.dataset, name).tobytes(), name
    assert of_topic.dataset.symbols == of_file.dataset.symbols
    for part in ("train_I", "validation_I", "holdout_I"):
        assert getattr(of_topic, part).tolist() == getattr(of_file, part).tolist()


def test_samples_stand_by_time_then_name_then_arrival() -> None:
    names = ["b", "a"]
    symbol_N, ts_ns_N = np.array([0, 1, 0, 0]), np.array([5, 5, 4, 5])
    assert order(ts_ns_N, rank(names)[symbol_N]).tolist() == [2, 1, 0, 3]


def test_another_tick_another_cut_and_another_feature_are_another_data_set(ticks) -> None:
    one = process(ticks, spec())
    hashes = {one.hash, process(ticks, spec(embargo="1s")).hash, process(ticks.iloc[:-300], spec()).hash}
    changed = ticks.copy()
    row = one.dataset.idx_NT[one.train_I[100], -1]
    changed.loc[row, ["bid_size", "size"]] *= 1.001
    hashes.add(process(changed, spec()).hash)
    fewer = pipeline(features={"window": 3, "use": ["return:1s"]}, label=spec().label.model_dump(mode="json"))
    hashes.add(process(ticks, fewer).hash)
    assert len(hashes) == 5
    assert process(ticks.copy(), spec()).hash == one.hash


def test_a_hash_is_of_all_that_training_and_its_figures_read(ticks, monkeypatch) -> None:
    one = process(ticks, spec())
    costs = spec().costs.model_copy(update={"fee_bps": 3.0})
    assert process(ticks, spec().model_copy(update={"costs": costs})).hash != one.hash
    assert (form(one.hash), len(one.hash)) == ("2", 66)

    given = {}
    monkeypatch.setattr(canonical, "dataset_hash", lambda *columns: given.update(columns=columns[4]) or "")
    made = process(ticks, spec()).dataset
    for name in ("ts_ns_N", "end_ns_NH", "return_NH", "y_NH", "weight_N", "cost_bps_N"):
        assert any(column is getattr(made, name) for column in given["columns"]), name
