"""Outcomes count when nothing can change them any more, and their figures are those of all rows at once."""

import numpy as np
import pytest

from data_io.data_fetcher.port import cut
from data_io.data_fetcher.sources import open_source
from ml_core import frames
from ml_core.contract import ModelContract, Scaler
from ml_core.data_processor import cleaning, labels
from ml_core.data_processor.features import FeaturePlan, FeatureState, move
from ml_core.data_processor.samples import make_samples
from ml_core.evaluation import metrics
from ml_core.spec import parse
from ml_core.types import RowBatch, SymbolTable, TickBatch
from model_ops_manager import matured
from model_ops_manager.matured import Outcomes

S = 10**9
SPEC = parse(
    {
        "name": "demo",
        "source": {"lateness": "2s"},
        "features": {"max_age": "3s"},
        "label": {"kind": "return", "horizons": ["5s"], "delay": "1s"},
        "costs": {"fee_bps": 0.5},
    }
)
# The price of second 4.9 comes when the clock is at 7; without it the row of 4.5 acts on its own price, at 5.5.
LATE = [4, 4.5, 7, 4.9, 7.5, 20], [100, 100, 110, 999, 110, 110]
CONTRACT = ModelContract(
    pipeline="demo", spec_hash="", model_kind="mlp", features=("a",), feature_hash="", window=1, label_kind="return",
    label_price="mid", horizons_ns=(5 * S,), delay_ns=S, dead_zone=(), prior=((1e-4, 1.0),),
    scaler=Scaler(median=(0.0,), iqr=(1.0,)), trained_from_ns=0, trained_to_ns=1, seed=0, code_version="0",
)  # fmt: skip


def rows_of(seconds, mid, symbol_N=None):
    n = len(seconds)
    ts_ns_N, none_N = (np.array(seconds) * S).astype(np.int64), np.zeros(n, np.int32)
    symbol_N = none_N if symbol_N is None else np.array(symbol_N, np.int32)
    mid_N, x_NF, flags_N = np.array(mid, np.float64), np.zeros((n, 1), np.float32), np.zeros(n, np.uint8)
    return RowBatch(np.arange(n), none_N, symbol_N, ts_ns_N, mid_N, mid_N / 1e4, x_NF, flags_N, "AB")


def run(rows, score_N, *, cut=1, spec=SPEC):
    """Figures where each row is scored as it comes, made by a trade at its mid, ``cut`` rows at a time."""
    outcomes = Outcomes(spec, SymbolTable(["A", "B"]))
    outcomes.begin(1, CONTRACT)
    clock_N = np.maximum.accumulate(rows.ts_ns_N)
    for start in range(0, len(rows), cut):
        part = slice(start, start + cut)
        some, before_ns = rows.select(part), int(clock_N[start - 1]) if start else 0
        none_N, one_N = np.zeros(len(some), np.int64), np.ones(len(some))
        trades = (some.offset_N, some.index_N, none_N, some.symbol_N, some.ts_ns_N, some.mid_N, *[one_N] * 7, "AB")
        outcomes.see(TickBatch(*trades), none_N, some, clock_N[part], before_ns)
        score_NH = np.array(score_N, np.float32)[part, None]
        outcomes.add(1, rows.select(part), clock_N[part], score_NH, score_NH)
        outcomes.settle(int(clock_N[part][-1]))
    outcomes.settle(int(clock_N[-1]), last=True)
    return outcomes.figures(1)


def test_the_outcome_is_the_move_from_delay_to_horizon_and_counts_a_lateness_later() -> None:
    # second   0    1    6    8 | 9        the row of second 0: from 100 at 1 to 110 at 6; known for sure after 8
    rows = rows_of([0.5, 1, 6, 8, 9], [90, 100, 110, 120, 130])
    move = np.log(110 / 100)

    found = run(rows, [0.3, 0, 0, 0, 0])

    # the next row, of second 1, is due at 7 and would count behind 9
    assert found["matured"] == 1
    assert found["metrics"]["squared_error"] == pytest.approx((0.3 - move) ** 2)
    assert found["metrics"]["prior_squared_error"] == pytest.approx((1e-4 - move) ** 2)
    assert found["metrics"]["net_edge_bps"] == pytest.approx(1e4 * move - 1)


def test_a_row_whose_price_is_too_old_has_matured_without_a_label() -> None:
    found = run(rows_of([1, 2, 3, 30], [10, 10, 10, 10]), [0.1] * 4)

    assert (found["matured"], found["unlabelled"]) == (0, 3)


def test_what_comes_more_than_lateness_behind_the_clock_counts_for_nothing() -> None:
    rows = rows_of(*LATE)

    without = rows_of(*([each for i, each in enumerate(column) if i != 3] for column in LATE))

    assert run(rows, [0.1] * 6) == run(without, [0.1] * 5)


def test_a_label_of_trade_prices_reads_trades_by_the_same_clock() -> None:
    by_trades = parse(
        {**SPEC.model_dump(mode="json"), "label": {**SPEC.label.model_dump(mode="json"), "price": "trade"}}
    )
    rows = rows_of(*LATE)
    figures = run(rows, [0.1] * 6)

    assert figures["matured"] > 0
    assert all(run(rows, [0.1] * 6, cut=cut, spec=by_trades) == figures for cut in (1, 2, 6))


def test_where_trades_alone_make_rows_labels_still_read_every_mid() -> None:
    frame = open_source("synthetic:symbols=2,ticks=2000,rate=20,seed=1").fetch()
    asked = {"name": "demo", "source": {"lateness": "1m"}, "features": {"rows_on": ["trade"], "use": ["return:1s"]}}
    spec = parse({**asked, "label": {"horizons": ["2s"]}})
    plan, ticks = FeaturePlan.from_spec(spec), cleaning.clean(frames.to_batch(frame))[0]
    symbols = SymbolTable(ticks.symbols)
    state, outcomes, before_ns = FeatureState(plan, symbols), Outcomes(spec, symbols), 0

    for start in range(0, len(ticks), 150):
        part = cut(ticks, start, start + 150)
        rows, lag_N = move(part, state)
        clock_N = np.maximum.accumulate(np.maximum(rows.ts_ns_N, before_ns))
        outcomes.see(part, lag_N, rows, clock_N, before_ns)
        before_ns = max(before_ns, *clock_N.tolist())

    whole = make_samples(frame, spec, plan).path
    for mine, theirs in zip(matured._joined_path(outcomes._path), whole, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert len(whole.ts_ns_P) > 1.5 * len(make_samples(frame, spec, plan).rows)


def test_a_path_that_was_cut_says_the_same_of_every_price_since() -> None:
    rng = np.random.default_rng(1)
    ts_ns_P, price_P = np.sort(rng.integers(0, 1000, 60)), rng.uniform(1, 2, 60)
    whole = labels.price_path(np.arange(60, dtype=np.int32) % 3, ts_ns_P, price_P, np.ones(60, np.bool_))

    short = matured._since(whole, 700)

    when = np.arange(700, 1100)
    assert len(short.ts_ns_P) < 30
    for symbol in range(3):
        said = [labels.price_at(*path.of(symbol), when, 10**6) for path in (whole, short)]
        np.testing.assert_array_equal(*said)


def test_figures_are_those_of_all_rows_at_once_wherever_they_are_cut(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    n = 3000
    seconds = np.sort(rng.uniform(1, 300, n))
    rows = rows_of(
        seconds, 100 * np.exp(np.cumsum(rng.normal(0, 1e-4, n))), symbol_N=rng.random(n) < 0.05
    )  # one symbol is quiet
    score_N = rng.normal(0, 1e-3, n).astype(np.float32)
    whole = run(rows, score_N, cut=n)
    monkeypatch.setattr(matured, "_HELD_POINTS", 100)  # settled again and again, with most of the path let go

    assert run(rows, score_N, cut=7) == run(rows, score_N, cut=501) == whole
    monkeypatch.setattr(matured, "STRETCH_ROWS", 400)
    parts = run(rows, score_N, cut=7)
    assert parts["metrics"]["squared_error"] == pytest.approx(whole["metrics"]["squared_error"], rel=1e-12)

    # the same by hand
    moves, scores = [], []
    for i in range(n):
        if rows.ts_ns_N[i] + 8 * S >= rows.ts_ns_N[-1]:
            continue
        path = np.flatnonzero(rows.symbol_N == rows.symbol_N[i])
        when = rows.ts_ns_N[i] + np.array([1, 6]) * S
        at = path[np.searchsorted(rows.ts_ns_N[path], when, side="right") - 1]
        if (when - rows.ts_ns_N[at] > 3 * S).any():
            continue
        moves.append(np.log(rows.mid_N[at[1]] / rows.mid_N[at[0]]))
        scores.append(score_N[i])
    assert whole["matured"] == len(moves) > 2000
    assert whole["unlabelled"] > 10
    assert whole["metrics"]["ic"] == pytest.approx(metrics.information_coefficient(np.array(scores), np.array(moves)))
