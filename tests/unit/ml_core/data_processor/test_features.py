import math

import numpy as np
import pytest

from ml_core.data_processor.catalogue import mirrored
from ml_core.data_processor.features import CATALOGUE, DEFAULT_USE, FeaturePlan, FeatureState, step
from ml_core.data_processor.kernel_tables import TICK_DTYPES, Ticks
from ml_core.types import RowFlag, SymbolTable, TickBatch, TickKind
from tests.unit.ml_core.data_processor.market import NAN, START_NS, Tick, batch, pipeline, quote, rows, trade
from tests.unit.ml_core.data_processor.oracle import History

E = math.exp(-1)


def column(ticks: list[Tick], name: str) -> list[float]:
    return [pytest.approx(value, abs=1e-6, nan_ok=True) for value in rows(ticks, [name]).x_NF[:, 0]]


def test_signed_volume_decays_with_time_and_not_with_ticks() -> None:
    # second   0        1                  1 (same time)
    # trade    buy 4    sell 1             sell 1
    # EW sum   4        4/e - 1            4/e - 2
    ticks = [trade(0, 100, 4, 1), trade(1, 100, 1, -1), trade(1, 100, 1, -1)]
    assert column(ticks, "signed_volume:1s") == [1.0, (4 * E - 1) / (4 * E + 1), (4 * E - 2) / (4 * E + 2)]


def test_a_missing_side_follows_from_the_quote_then_from_the_last_change_of_price() -> None:
    # quote 99/101: mid 100. A trade above it bought, below it sold, at the mid the last change of price decides.
    ticks = [quote(0, 99, 101), *[trade(0, price, 1, 0) for price in (100.5, 99.5, 100, 100)]]
    streak = rows(ticks, ["trade_streak"]).x_NF[:, 0]
    assert np.sign(streak[1:]).tolist() == [1, -1, 1, 1]


def test_trade_flow_fades_while_nobody_trades_and_is_measured_by_the_pace_of_trades() -> None:
    # second   0        1          2
    # trade    buy      sell       -
    # EW sum   1        1/e - 1    (1/e - 1)/e, over 1 s; and trades over 30 s
    pace = math.exp(-1 / 30)
    ticks = [trade(0, 100, 4, 1), trade(1, 100, 9, -1), quote(2, 99, 101)]
    expected = [1.0, (E - 1) / (pace + 1), (E - 1) * E / ((pace + 1) * pace)]
    assert column(ticks, "trade_flow:1s") == expected


def test_the_offset_from_the_volume_weighted_price_is_told_in_mean_spreads() -> None:
    # second   0            1           2
    # tick     quote 99/101 100.5 x 2   101 x 1
    # VWAP     -            100.5       (100.5 x 2/e + 101) / (2/e + 1)
    ticks = [quote(0, 99, 101), trade(1, 100.5, 2, 1), trade(2, 101, 1, 1)]
    vwap = (100.5 * 2 * E + 101) / (2 * E + 1)
    assert column(ticks, "vwap_offset:1s") == [NAN, -0.5 / 2, (100 - vwap) / 2]


def test_order_flow_follows_the_paper_by_hand() -> None:
    # second  0             1                          2
    # quote   100x5 101x5   100.5x3 101x5              100.5x3 101x9
    # e_n     -             +3 (a better bid of 3)     -4 (four more to sell)
    ticks = [quote(0, 100, 101, 5, 5), quote(1, 100.5, 101, 3, 5), quote(2, 100.5, 101, 3, 9)]
    assert column(ticks, "ofi:1s") == [NAN, 1.0, (3 * E - 4) / (3 * E + 4)]


def test_a_worse_quote_is_flow_the_other_way() -> None:
    # bid 100x5 -> 99x7: -5 of the bid that went; ask 101x5 -> 102x2: +5 of the ask that went
    ticks = [quote(0, 100, 101, 5, 4), quote(1, 99, 102, 7, 2)]
    assert column(ticks, "ofi:1s") == [NAN, (-5 + 4) / 1]


def test_intensity_is_unbiased_from_the_start() -> None:
    ticks = [trade(0, 100), trade(1, 100), trade(2, 100)]
    expected = math.log((1 + E + E * E) / (1 - E * E))
    assert column(ticks, "trade_intensity:1s")[2] == expected
    assert column(ticks, "trade_intensity:1s")[0] == NAN


def test_time_since_the_last_trade_at_a_trade_is_that_to_the_one_before() -> None:
    ticks = [quote(0, 99, 101), trade(1, 100), quote(1.001, 99, 101), trade(1.003, 100)]
    assert column(ticks, "since_trade") == [NAN, NAN, math.log(2), math.log(4)]


def test_features_of_the_book_by_hand() -> None:
    ticks = [quote(0, 99, 101, 3, 1), trade(0, 101)]
    assert column(ticks, "queue_imbalance") == [0.5, 0.5]
    assert column(ticks, "relative_spread") == [200.0, 200.0]
    assert column(ticks, "last_trade_offset") == [NAN, 0.5]


def test_spread_ratio_compares_with_the_spread_that_was_in_force() -> None:
    # spread 2 holds from 0 to 1 and is all there is of a mean; then 4
    assert column([quote(0, 99, 101), quote(1, 98, 102)], "spread_ratio:1s") == [NAN, 1.0]


def test_streak_counts_trades_of_one_side() -> None:
    ticks = [trade(0, 100, 1, 1), trade(0, 100, 1, 1), trade(0, 100, 1, -1)]
    assert column(ticks, "trade_streak") == [math.log(2), math.log(3), -math.log(2)]


def test_trade_size_is_relative_to_its_mean() -> None:
    assert column([trade(0, 100, 2), trade(0, 100, 6)], "trade_size:1s") == [0.0, math.log(6 / 4)]


@pytest.mark.parametrize("seed", range(4))
def test_features_equal_their_formulas_over_the_whole_past(seed: int) -> None:
    rng = np.random.default_rng(seed)
    now_s, mid, ticks = 0.0, 100.0, []
    for _ in range(150):
        now_s += float(rng.choice([0.0, 0.01, 0.3, 2.0]))
        mid += float(rng.normal(0, 0.05))
        if rng.random() < 0.4:
            ticks.append(trade(now_s, round(mid, 2), float(rng.integers(1, 9)), int(rng.choice([-1, 1]))))
        else:
            ticks.append(quote(now_s, round(mid - 0.02, 2), round(mid + 0.03, 2), *rng.integers(1, 9, 2).tolist()))
    past, last = History(ticks), len(ticks) - 1

    def flow(n: int, size: float = 1.0) -> float:
        value = past.flow[n]
        return value if size else abs(value)

    expected = {
        "return:1s": past.change(last, 1.0),
        "return:10s": past.change(last, 10.0),
        "ewma_vol:30s": math.log(1e4 * past.sigma(last)),
        "vol_ratio:5s": math.log(past.sigma(last, 5.0) / past.sigma(last)),
        "mid_offset:10s": (past.log_price[last] - past.mean(last, 10.0, past.log_price))
        / (past.sigma(last) * math.sqrt(10)),
        "queue_imbalance_mean:1s": past.mean(last, 1.0, past.queue),
        "spread_ratio:30s": past.spread[last] / past.mean(last, 30.0, past.spread) - 1,
        "ofi:1s": past.sum(last, 1.0, flow) / past.sum(last, 1.0, lambda n: flow(n, 0)),
        "quote_intensity:10s": math.log(
            past.sum(last, 10.0, lambda n: ticks[n].kind == TickKind.QUOTE)
            / (10 * (1 - math.exp(-(past.ts[last] - past.ts[0]) / 1e10)))
        ),
    }
    found = rows(ticks, list(expected)).x_NF[last]
    assert found.tolist() == pytest.approx(list(expected.values()), rel=1e-4, abs=1e-5)


def test_a_tick_on_the_edge_of_a_bucket_belongs_to_the_bucket_that_begins() -> None:
    edges = np.cumsum(np.random.default_rng(0).choice([1, 2, 3, 17], 80))  # buckets of 1/16 s
    ticks = [quote(edge / 16, 100 + i % 7, 101 + i % 7) for i, edge in enumerate(edges.tolist())]
    past = History(ticks)
    expected = [past.change(n, 1.0) for n in range(40, 80)]
    assert rows(ticks, ["return:1s"]).x_NF[40:, 0].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_share_of_a_sum_that_has_decayed_to_nothing_is_not_known() -> None:
    ticks = [trade(0, 100, 2, 1), quote(500, 99, 101), quote(600, 99, 101)]
    assert column(ticks, "signed_volume:1s") == [1.0, 1.0, pytest.approx(NAN, nan_ok=True)]


def test_every_default_feature_is_defined_after_warm_up_and_none_is_infinite() -> None:
    rng = np.random.default_rng(0)
    ticks = []
    for i in range(2000):
        mid = 100 + 0.01 * float(rng.integers(-9, 9))
        ticks += [quote(i * 0.05, mid - 0.01, mid + 0.01, 1 + i % 7, 2)]
        ticks += [trade(i * 0.05 + 0.01, mid, 1 + i % 3, 1 - 2 * (i % 2))]
    made = rows(ticks)
    assert not np.isinf(made.x_NF).any()
    assert np.isfinite(made.x_NF[made.flags_N == 0]).all()
    assert (made.flags_N == 0).sum() > 2000
    assert made.x_NF.shape[1] == 22


@pytest.mark.parametrize("kept", [TickKind.TRADE, TickKind.QUOTE])
def test_a_source_of_one_kind_alone_gives_rows_with_the_features_it_can_have(kept: TickKind) -> None:
    rng = np.random.default_rng(1)
    ticks = [t for i in range(900) for t in (quote(i / 9, 99 + rng.random(), 101), trade(i / 9, 99.5 + rng.random()))]
    made = rows([t for t in ticks if t.kind == kept], list(CATALOGUE))
    plan = FeaturePlan.from_spec(pipeline(list(CATALOGUE)))
    defined = np.isfinite(made.x_NF[-1])
    for name, is_defined in zip(plan.names, defined, strict=True):
        needs = CATALOGUE[name.partition(":")[0]].kinds
        assert is_defined == (needs <= {kept.name.lower()}), name
    assert made.flags_N[-1] == 0
    assert np.isnan(made.spread_N[-1]) == (kept == TickKind.TRADE)


def test_features_do_not_see_the_scale_of_prices_and_sizes() -> None:
    rng = np.random.default_rng(2)
    ticks = []
    for i in range(800):
        mid = float(rng.integers(99_000, 101_000))
        ticks += [quote(i * 0.1, mid - 8, mid + 8, 4, 1 + i % 5), trade(i * 0.1, mid + 8, 2, 1)]

    def scaled(tick: Tick, price: float, size: float) -> Tick:
        changed = {name: getattr(tick, name) * price for name in ("price", "bid", "ask")}
        return tick._replace(**changed, **{n: getattr(tick, n) * size for n in ("size", "bid_size", "ask_size")})

    base = rows(ticks, list(CATALOGUE)).x_NF
    other = rows([scaled(tick, 1 / 1024, 4096.0) for tick in ticks], list(CATALOGUE)).x_NF
    np.testing.assert_allclose(other, base, rtol=1e-4, atol=1e-4)


def test_a_mirrored_market_turns_the_sign_of_signed_features_and_leaves_the_others() -> None:
    rng = np.random.default_rng(3)
    ticks = []
    for i in range(600):
        mid = 10_000 + float(rng.integers(-9, 9))  # moves so small that logarithms are straight
        ticks += [quote(i * 0.1, mid - 1, mid + 2, 4, 1 + i % 5), trade(i * 0.1, mid + i % 3, 2 + i % 4, 1 - i % 2)]

    def mirrored_tick(tick: Tick) -> Tick:
        price, bid, ask = (20_000 - value for value in (tick.price, tick.ask, tick.bid))
        sizes = {"bid_size": tick.ask_size, "ask_size": tick.bid_size}
        return tick._replace(price=price, bid=bid, ask=ask, side=-tick.side, **sizes)

    there, back = (rows(each, list(CATALOGUE)).x_NF for each in (ticks, [mirrored_tick(tick) for tick in ticks]))
    names = FeaturePlan.from_spec(pipeline(list(CATALOGUE))).names
    np.testing.assert_allclose(back, mirrored(names) * there, rtol=2e-3, atol=2e-3)


def test_the_catalogue_says_unit_and_source_of_every_feature() -> None:
    assert len(CATALOGUE) >= 16
    assert all(f.formula and f.unit and f.source for f in CATALOGUE.values())
    assert set(DEFAULT_USE) <= set(CATALOGUE)


def test_a_quote_that_is_one_sided_or_crossed_leaves_the_book() -> None:
    ticks = [quote(0, 99, 101), quote(1, NAN, 102), quote(2, 103, 102)]
    assert rows(ticks).mid_N.tolist() == [100.0, 100.0, 100.0]


def test_rows_stand_on_the_kinds_asked_for_and_others_move_state_all_the_same() -> None:
    ticks = [quote(0, 99, 101, 3, 1), trade(1, 100), quote(2, 99, 101), trade(3, 100)]
    made = rows(ticks, ["queue_imbalance"], rows_on=["trade"])
    assert made.offset_N.tolist() == [1, 3]
    assert made.x_NF[:, 0].tolist() == [0.5, 0.0]


def test_symbols_that_are_not_asked_for_make_no_row() -> None:
    plan = FeaturePlan.from_spec(pipeline(source={"symbols": ["B"]}))
    symbols = SymbolTable()
    made = step(batch([trade(0, 1, symbol="A"), trade(0, 2, symbol="B")], symbols), FeatureState(plan, symbols))
    assert made.offset_N.tolist() == [1]


def test_read_only_columns_of_other_layouts_are_taken() -> None:
    plan, symbols = FeaturePlan.from_spec(pipeline()), SymbolTable()
    ticks = batch([trade(i, 100) for i in range(6)], symbols)
    strided = TickBatch(**{**ticks._asdict(), "price_N": np.repeat(ticks.price_N, 2)[::2]})
    strided.ts_ns_N.flags.writeable = False
    assert len(step(strided, FeatureState(plan, symbols))) == 6


def test_the_kernel_takes_the_columns_of_ticks_in_their_order() -> None:
    assert Ticks._fields == tuple(name for name, _ in TICK_DTYPES) == TickBatch._fields[2:-1]


def test_a_row_carries_the_time_and_the_name_of_its_tick() -> None:
    made = rows([quote(0, 99, 101), quote(5, 99, 102)])
    assert made.ts_ns_N.tolist() == [START_NS, START_NS + 5 * 10**9]
    assert made.mid_N.tolist() == [100.0, 100.5]
    assert made.spread_N.tolist() == [2.0, 3.0]
    assert made.flags_N[0] == RowFlag.WARM_UP
