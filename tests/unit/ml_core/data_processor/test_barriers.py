"""Triple barriers and volatilities: by hand, and against a walk along the path."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_io.data_fetcher.synthetic import Market, Synthetic
from ml_core.data_processor import barriers as walls
from ml_core.data_processor import labels
from ml_core.data_processor.cleaning import Drops
from ml_core.data_processor.dataset import process
from ml_core.data_processor.volatility import STEPS, realised
from ml_core.errors import NotEnoughDataError
from tests.unit.ml_core.data_processor.market import frame, pipeline, quote
from tests.unit.ml_core.data_processor.test_labels import S, path

SPAN = 32 * S  # one step a second


@pytest.fixture(scope="module")
def ticks() -> pd.DataFrame:
    return Synthetic(Market(symbols=2, ticks=20_000, rate=200, seed=3)).fetch()


def touched(points, at_s=(40.0,), up=1.0, down=1.0, horizons_ns=(8 * S,), delay_ns=0, least=0.0):
    ts_ns_N = np.array([round(t * S) for t in at_s])
    symbol_N, drops, prices = np.zeros(len(ts_ns_N), np.int32), Drops(len(ts_ns_N)), path(points)
    after = labels.label(
        symbol_N, ts_ns_N, prices, horizons_ns=horizons_ns, delay_ns=delay_ns, max_age_ns=10**18, drops=drops
    )
    stand = walls.Barriers(up, down, SPAN, np.full(len(ts_ns_N), least))
    return walls.first_touches(symbol_N, ts_ns_N, prices, after, stand, delay_ns=delay_ns, drops=drops), drops


def history(until_s: int = 40) -> list[tuple[float, float]]:
    """One tick a second, up and down by 1 %: over 8 s a deviation of sqrt(8) %."""
    return [(t, 100 * math.exp(0.01 * (t % 2))) for t in range(until_s + 1)]


def test_the_barrier_that_is_met_first_is_the_class_and_ends_the_label() -> None:
    # barriers at +-2.83 %: the price passes 103 at 43 and falls through 97 at 45
    made, drops = touched([*history(), (42, 101), (43, 103), (45, 90), (60, 100)])
    assert (made.target_NH.tolist(), made.end_ns_NH.tolist()) == ([[labels.UP]], [[43 * S]])
    assert made.return_NH[0, 0] == pytest.approx(math.log(1.03))
    made, _ = touched([*history(), (42, 97), (43, 103), (60, 100)])
    assert (made.target_NH.tolist(), made.end_ns_NH.tolist()) == ([[labels.DOWN]], [[42 * S]])
    assert drops.counts == {}


def test_a_price_between_the_barriers_is_flat_at_the_end_of_the_horizon() -> None:
    made, _ = touched([*history(), (47, 102), (48.5, 110), (60, 100)])
    assert (made.target_NH.tolist(), made.end_ns_NH.tolist()) == ([[labels.FLAT]], [[48 * S]])
    assert made.return_NH[0, 0] == pytest.approx(math.log(1.02))


def test_barriers_are_seen_from_the_price_one_can_act_at_and_no_earlier_price_touches_them() -> None:
    # acts at 42, at 104: 103 is a fall
    made, _ = touched([*history(), (41, 104), (44, 103), (46, 107.5), (70, 100)], delay_ns=2 * S)
    assert (made.target_NH.tolist(), made.end_ns_NH.tolist()) == ([[labels.UP]], [[46 * S]])
    assert made.return_NH[0, 0] == pytest.approx(math.log(107.5 / 104))


def test_no_barrier_is_nearer_than_the_least_return() -> None:
    made, _ = touched([*history(), (43, 103), (60, 100)], least=0.05)
    assert made.target_NH.tolist() == [[labels.FLAT]]


def test_a_row_without_enough_history_or_without_motion_has_no_barriers() -> None:
    _, drops = touched(history(60), at_s=(20.0,))
    assert drops.counts == {"no_volatility": 1}
    _, drops = touched([(t, 100) for t in range(60)])
    assert drops.counts == {"no_volatility": 1}


def test_a_touch_makes_no_row_of_one_whose_horizon_is_not_over() -> None:
    _, drops = touched([*history(), (43, 110), (47, 100)])
    assert drops.counts == {"not_matured": 1}


@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(-4, 4)), min_size=45, max_size=90),
    widths=st.tuples(st.sampled_from([0.3, 1.0, 2.5]), st.sampled_from([0.3, 1.0, 2.5])),
    delay=st.integers(0, 3),
)
def test_first_touches_equal_a_walk_along_the_path(steps, widths, delay) -> None:
    at_P = np.cumsum([gap for gap, _ in steps])
    log_P = 0.005 * np.cumsum([move for _, move in steps])
    prices = np.exp(log_P)
    rows = [float(t) for t in range(30, int(at_P[-1]), 3)]
    horizons_ns = (4 * S, 9 * S)
    made, drops = touched(list(zip(at_P.tolist(), prices.tolist(), strict=True)), rows, *widths, horizons_ns, delay * S)
    for n in np.flatnonzero(drops.kept_N):
        past = [prices[at_P <= rows[n] - 32 + k][-1] for k in range(33)]
        deviation = math.sqrt(sum(math.log(b / a) ** 2 for a, b in itertools.pairwise(past)))
        for h, horizon_ns in enumerate(horizons_ns):
            start, end = rows[n] + delay, rows[n] + delay + horizon_ns / S
            reference = prices[at_P <= start][-1]
            scale = deviation * math.sqrt(horizon_ns / SPAN)
            expected = labels.FLAT, end, prices[at_P <= end][-1]
            for at, price in zip(at_P, prices, strict=True):
                move = math.log(price / reference)
                near = min(abs(move - widths[0] * scale), abs(move + widths[1] * scale)) < 1e-9
                if start < at <= end and near:  # rounding may decide here
                    expected = None
                    break
                if start < at <= end and (move >= widths[0] * scale or move <= -widths[1] * scale):
                    expected = labels.UP if move > 0 else labels.DOWN, at, price
                    break
            if expected is not None:
                kind, at, price = expected
                assert (made.target_NH[n, h], made.end_ns_NH[n, h]) == (kind, at * S)
                assert made.return_NH[n, h] == pytest.approx(math.log(price / reference), abs=1e-12)


def test_realised_volatility_is_the_root_of_squared_returns_between_equal_steps() -> None:
    at, price = np.arange(STEPS + 9) * S, np.exp(0.01 * (np.arange(STEPS + 9) % 2))
    found = realised(at, price, np.array([0, -S]), np.array([STEPS * S, STEPS * S]))
    assert found[0] == pytest.approx(0.01 * math.sqrt(STEPS))
    assert math.isnan(found[1])


def test_labels_that_end_at_a_touch_are_purged_and_weighed_by_it(ticks) -> None:
    made = process(ticks, pipeline(label={"kind": "triple_barrier", "horizons": ["4s"], "volatility_span": "20s"}))
    data = made.dataset
    length_N = data.end_ns_NH[:, 0] - data.ts_ns_N
    assert set(np.unique(data.y_NH)) == {labels.DOWN, labels.FLAT, labels.UP}
    assert (length_N[data.y_NH[:, 0] == labels.FLAT] == 4 * S).all()
    assert (length_N[data.y_NH[:, 0] != labels.FLAT] <= 4 * S).all()
    assert (np.sign(data.return_NH) == data.y_NH - 1)[data.y_NH != labels.FLAT].all()
    assert data.end_ns_NH[made.train_I].max() < made.report["cuts_ns"][0]
    whole_I = made.train_I[length_N[made.train_I] == 4 * S]
    short_I = made.train_I[length_N[made.train_I] < 2 * S]
    assert data.weight_N[short_I].mean() != pytest.approx(data.weight_N[whole_I].mean(), rel=0.02)
    wide = process(
        ticks,
        pipeline(
            label={"kind": "triple_barrier", "horizons": ["4s"], "volatility_span": "20s", "barriers": {"up": 3.0}}
        ),
    )
    assert (wide.dataset.y_NH == labels.UP).mean() < 0.5 * (data.y_NH == labels.UP).mean()


def test_a_volatility_is_a_logarithm_that_prices_at_rest_do_not_make_infinite(ticks) -> None:
    made = process(ticks, pipeline(label={"kind": "volatility", "horizons": ["1s", "4s"]}))
    data = made.dataset
    assert data.y_NH.dtype == np.float32
    assert np.isfinite(data.y_NH).all()
    assert (data.y_NH >= np.log(made.dead_zone).astype(np.float32) - 1e-5).all()
    assert np.corrcoef(data.y_NH[:, 1], np.log(np.abs(data.return_NH[:, 1]) + 1e-5))[0, 1] > 0.15
    assert made.prior[1][0] > made.prior[0][0]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("return", "are a return of 0 at 1s"),
        ("volatility", "are a volatility of"),
        ("triple_barrier", "0 labelled rows"),
    ],
)
def test_a_constant_label_is_refused_by_name(kind, words) -> None:
    still = [quote(i / 10, 99, 101, 1 + i % 3) for i in range(1500)]
    asked = pipeline(
        ["queue_imbalance"], label={"kind": kind, "horizons": ["1s"], "volatility_span": "9s"}, train={"min_rows": 100}
    )
    with pytest.raises(NotEnoughDataError, match=words):
        process(frame(still), asked)


def test_costs_widen_flat_and_come_from_the_rows_or_the_file(ticks) -> None:
    def made(half_spread: object, costs: bool = True):
        return process(
            ticks,
            pipeline(label={"horizons": ["4s"], "costs": costs}, costs={"fee_bps": 0.1, "half_spread": half_spread}),
        )

    plain, given_, of_rows = made(0.2, costs=False), made(0.2), made("rows")
    assert given_.dead_zone[0] == pytest.approx(plain.dead_zone[0] + 6e-5)
    assert (given_.dataset.cost_bps_N == 0.1 + 0.2).all()
    relative = plain.report["dead_zone"]["log_return"] / 0.5
    assert of_rows.dead_zone[0] == pytest.approx(plain.dead_zone[0] + 2e-5 + relative, rel=1e-6)
    assert (of_rows.dataset.cost_bps_N > 0.1).all()
