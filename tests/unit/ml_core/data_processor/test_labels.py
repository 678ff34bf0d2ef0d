import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.data_processor import labels
from ml_core.data_processor.cleaning import Drops

S = 10**9


def path(points: list[tuple[float, float]], symbol: int = 0) -> labels.PricePath:
    at = np.array([round(t * S) for t, _ in points])
    price = np.array([p for _, p in points], dtype=np.float64)
    known = np.ones(len(points), dtype=np.bool_)
    return labels.price_path(np.full(len(points), symbol, dtype=np.int32), at, price, known)


def labelled(at_s: list[float], points: list[tuple[float, float]], **more: int) -> tuple[labels.Labels, Drops]:
    ts_ns_N = np.array([round(t * S) for t in at_s])
    drops = Drops(len(at_s))
    settings = {"horizons_ns": (10 * S,), "delay_ns": 0, "max_age_ns": 5 * S} | more
    made = labels.label(np.zeros(len(at_s), dtype=np.int32), ts_ns_N, path(points), drops=drops, **settings)
    return made, drops


def test_a_label_is_the_last_price_at_its_end_against_the_last_price_one_could_act_on() -> None:
    # second     0     1     2            11    12    20
    # price      100   101   103          110   120   -
    # row        t=0, delay 1: acts at 101, ends at 11: 110 (the tick of that very time counts)
    made, drops = labelled([0], [(0, 100), (1, 101), (2, 103), (11, 110), (12, 120), (20, 1)], delay_ns=S)
    assert made.return_NH[0, 0] == pytest.approx(math.log(110 / 101))
    assert made.end_ns_NH[0, 0] == 11 * S
    assert drops.counts == {}


def test_a_row_whose_label_ends_at_or_past_the_last_tick_has_none() -> None:
    # a tick at the very end may still be followed by another of the same time
    _, drops = labelled([0, 0.5, 1], [(0, 100), (9, 100), (10.5, 100)])
    assert drops.kept_N.tolist() == [True, False, False]
    assert drops.counts == {"not_matured": 2}


def test_a_price_that_is_too_old_makes_no_label() -> None:
    # at 10 the last price is 6 s old
    _, drops = labelled([0], [(0, 100), (4, 101), (30, 102)])
    assert drops.counts == {"old_price": 1}


def test_every_horizon_needs_its_price() -> None:
    made, drops = labelled([0], [(0, 100), (1, 101), (9, 102), (30, 1)], horizons_ns=(S, 10 * S))
    assert made.return_NH[0].tolist() == pytest.approx([math.log(1.01), math.log(1.02)])
    _, drops = labelled([0], [(0, 100), (1, 101), (30, 1)], horizons_ns=(S, 10 * S))
    assert drops.counts == {"old_price": 1}


def test_symbols_have_paths_of_their_own() -> None:
    both = labels.price_path(
        np.array([0, 1, 0, 1], dtype=np.int32), np.array([0, 0, 2, 2]), np.array([1.0, 5, 2, 6]), np.ones(4, np.bool_)
    )
    drops = Drops(2)
    made = labels.label(
        np.array([0, 1], dtype=np.int32), np.zeros(2, np.int64), both, horizons_ns=(1,), delay_ns=0, max_age_ns=9,
        drops=drops,
    )  # fmt: skip
    assert made.return_NH.tolist() == [[0.0], [0.0]]
    assert drops.kept_N.all()


def test_a_symbol_without_any_price_has_no_label() -> None:
    drops = Drops(1)
    nothing = path([])
    labels.label(
        np.zeros(1, np.int32), np.zeros(1, np.int64), nothing, horizons_ns=(1,), delay_ns=0, max_age_ns=9, drops=drops
    )
    assert drops.counts == {"not_matured": 1}


def test_the_ends_of_the_dead_zone_are_flat() -> None:
    returns = np.array([[-0.2, 0.3], [-0.1, 0.2], [0.11, -0.21]])
    assert labels.classes(returns, (0.1, 0.2)).tolist() == [[0, 2], [1, 1], [2, 0]]


def test_without_a_dead_zone_only_no_change_is_flat() -> None:
    assert labels.classes(np.array([[-1e-9], [0.0], [1e-9]]), (0.0,)).T.tolist() == [[0, 1, 2]]


def test_the_dead_zone_is_measured_in_median_spreads() -> None:
    width, measure = labels.fit_dead_zone(0.5, np.array([1.0, 2, 9, np.nan]), np.full(4, 100.0), path([]))
    assert (width, measure) == (0.01, "median relative spread")


def test_without_quotes_jumps_of_trade_prices_stand_for_the_spread() -> None:
    trades = path([(0, 100), (1, 100), (2, 101), (3, 100), (4, 100)])
    width, measure = labels.fit_dead_zone(0.5, np.full(2, np.nan), np.full(2, 100.0), trades)
    assert width == pytest.approx(0.5 * math.log(1.01))
    assert measure == "median jump of trade prices"


def test_uniqueness_by_hand() -> None:
    # labels open:   [0 ------ 10)
    #                     [5 ------ 15)
    #                                     [20 - 25)     alone
    # open at once:  1    2    1
    found = labels.uniqueness(np.zeros(3, np.int32), np.array([0, 5, 20]), np.array([10, 15, 25]))
    assert found.tolist() == [0.75, 0.75, 1.0]


def test_labels_of_other_symbols_do_not_overlap() -> None:
    found = labels.uniqueness(np.array([0, 1], np.int32), np.array([0, 0]), np.array([10, 10]))
    assert found.tolist() == [1.0, 1.0]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30), st.integers(1, 10)), max_size=30))
def test_uniqueness_equals_the_mean_over_every_moment(spans: list[tuple[int, int, int]]) -> None:
    def share(n: int) -> float:
        symbol, start, length = spans[n]
        moments = range(start, start + length)
        return sum(1 / sum(s == symbol and a <= t < a + w for s, a, w in spans) for t in moments) / length

    start_N = np.array([start for _, start, _ in spans], dtype=np.int64)
    end_N = start_N + np.array([length for _, _, length in spans], dtype=np.int64)
    symbol_N = np.array([symbol for symbol, _, _ in spans], dtype=np.int32)
    expected = [share(n) for n in range(len(spans))]
    assert labels.uniqueness(symbol_N, start_N, end_N).tolist() == pytest.approx(expected, rel=1e-6)
