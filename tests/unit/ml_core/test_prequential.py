from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_io.data_fetcher.sources import open_source
from ml_core import contenders
from ml_core import spec as pipelines
from ml_core.data_processor.dataset import Processed, process
from ml_core.errors import InputError
from ml_core.evaluation.metrics import information_coefficient
from ml_core.learners import network
from ml_core.prequential import OnlineNetwork, RowByRow, prequential
from ml_core.spec import PipelineSpec


class Ledger:
    """A model whose score tells everything that it has learned, in order."""

    def __init__(self) -> None:
        self.learned: list[int] = []

    def scores(self, chosen_B: np.ndarray) -> np.ndarray:
        said = float(hash(tuple(self.learned)) % 10**9)
        return chosen_B[:, None] + said

    def learn(self, chosen_B: np.ndarray) -> None:
        self.learned.extend(chosen_B.tolist())


def slow(ts_N: np.ndarray, end_N: np.ndarray, batch: int, from_ns: int) -> dict[int, float]:
    """Score each row by a model of its own that has seen what had matured by then."""
    found = {}
    for row in range(len(ts_N)):
        if ts_N[row] < from_ns:
            continue
        known = sorted((end, i) for i, end in enumerate(end_N) if end < ts_N[row])
        full = len(known) // batch * batch
        model = Ledger()
        for _, i in known[:full]:
            model.learn(np.array([i]))
        found[row] = float(model.scores(np.array([row]))[0, 0])
    return found


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 15)), min_size=1, max_size=40),
    st.integers(1, 7),
    st.integers(0, 20),
)
def test_every_row_is_scored_with_the_outcomes_that_had_matured_by_then(rows, batch, from_ns) -> None:
    ts_N, span_N = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    end_N = ts_N + span_N
    expected = slow(ts_N, end_N, batch, from_ns)
    if not expected:
        return
    order_I, score_IH = prequential(Ledger(), np.arange(len(ts_N)), ts_N, end_N, batch=batch, scored_from_ns=from_ns)

    assert dict(zip(order_I.tolist(), score_IH[:, 0].tolist(), strict=True)) == expected
    assert (np.diff(ts_N[order_I]) >= 0).all()


def test_only_the_rows_that_are_given_are_scored_and_learned_from() -> None:
    ts_N = np.arange(10) * 10
    model = Ledger()
    order_I, _ = prequential(model, np.array([7, 3, 5]), ts_N, ts_N + 5, batch=1)

    assert order_I.tolist() == [3, 5, 7]
    assert model.learned == [3, 5]


def test_a_label_that_ends_before_its_row_is_refused() -> None:
    with pytest.raises(InputError, match="before its row"):
        prequential(Ledger(), np.arange(2), np.array([5, 6]), np.array([5, 5]), batch=1)
    with pytest.raises(InputError, match="no row to score"):
        prequential(Ledger(), np.arange(2), np.array([5, 6]), np.array([9, 9]), batch=1, scored_from_ns=7)


@pytest.fixture(scope="module")
def spec() -> PipelineSpec:
    return pipelines.parse(
        {
            "name": "demo",
            "features": {"use": ["return:1s", "queue_imbalance", "queue_imbalance_mean:1s"]},
            "label": {"horizons": ["2s"], "kind": "return"},
            "model": {"kind": "mlp", "params": {"hidden": [8], "dropout": 0.1}},
            "train": {"epochs": 1, "min_rows": 500},
        }
    )


@pytest.fixture(scope="module")
def processed(spec) -> Processed:
    return process(open_source("synthetic:symbols=2,ticks=6000,rate=20,seed=1").fetch(), spec)


def online(processed: Processed, spec: PipelineSpec, **how: float) -> np.ndarray:
    task = contenders.task(processed, spec)
    model = OnlineNetwork(network.trained(task)[0], task, **how)
    data = processed.dataset
    order_I, score_IH = prequential(model, processed.holdout_I, data.ts_ns_N, data.end_ns_NH[:, -1], batch=64)
    assert sorted(order_I.tolist()) == processed.holdout_I.tolist()
    return score_IH[:, 0]


def test_a_network_that_learns_as_it_goes_gives_the_same_scores_twice_and_stands_still_at_rate_zero(
    processed, spec
) -> None:
    how = {"learning_rate": 1e-3, "strength": 0.01, "memory": 500}
    data, rows_I = processed.dataset, processed.holdout_I
    moved_I = online(processed, spec, **how)
    order_I = rows_I[np.argsort(data.ts_ns_N[rows_I], kind="stable")]

    assert moved_I.tobytes() == online(processed, spec, **how).tobytes()
    frozen_I = contenders.model(spec)(processed)(order_I)[:, 0]
    assert online(processed, spec, learning_rate=0.0) == pytest.approx(frozen_I, abs=1e-9)
    assert np.abs(moved_I - frozen_I).max() > 1e-6
    assert information_coefficient(moved_I, data.return_NH[order_I, 0]) > 0.1


def test_rows_that_a_network_came_with_are_mixed_in_from_its_first_step(processed, spec) -> None:
    task, first_B = contenders.task(processed, spec), processed.holdout_I[:64]
    graph = network.trained(task)[0]

    def after_a_step(known_I: np.ndarray | None) -> bytes:
        model = OnlineNetwork(deepcopy(graph), task, learning_rate=1e-3, memory=500, known_I=known_I)
        model.learn(first_B)
        return model.scores(first_B).tobytes()

    assert len({after_a_step(known_I) for known_I in (None, processed.train_I, processed.train_I[:500])}) == 3
    assert after_a_step(processed.train_I) == after_a_step(processed.train_I[-500:])


def test_a_model_of_one_row_at_a_time_hears_outcomes_oldest_first() -> None:
    heard: list[tuple[float, float]] = []
    model = RowByRow(
        np.arange(4, dtype=np.float32)[:, None],
        np.arange(4) * 10.0,
        say=lambda z_F: float(z_F[0]) + len(heard),
        hear=lambda z_F, y: heard.append((float(z_F[0]), y)),
    )
    ts_N = np.array([0, 1, 2, 4])  # the first label ends when the last row stands: a tick behind it may change it
    order_I, score_IH = prequential(model, np.arange(4), ts_N, np.array([3, 1, 4, 9]), batch=1)

    assert order_I.tolist() == [0, 1, 2, 3]
    assert score_IH[:, 0].tolist() == [0.0, 1.0, 3.0, 5.0]
    assert heard == [(1.0, 10.0), (0.0, 0.0)]
