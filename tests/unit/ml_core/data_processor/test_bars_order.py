"""Bars do not depend on batches, other symbols, restarts or, within the lateness, on the order of ticks."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_io.data_fetcher.sources import open_source
from ml_core.data_processor.bars import BarState, step
from ml_core.data_processor.cleaning import select
from ml_core.types import SECOND_NS, SymbolTable, TickKind
from tests.unit.ml_core.data_processor.bar_lab import Bar, bars, latest, listed, pipeline, state_of
from tests.unit.ml_core.data_processor.market import Tick, batch, cut, markets, quote, trade

ALL = pipeline("time:1s", "time:10s", "ticks:7", "volume:5", "value:400", lateness="5s")
CAPTURE = Path(__file__).parents[4] / ".." / "shared" / "data" / "binance-spot-btcusdt-20240808.gz"


@st.composite
def with_wrong_stamps(draw: st.DrawFn) -> list[Tick]:
    """Draw ticks of some symbols, with stamps an hour or two ahead, alone and in a row."""
    market = draw(markets())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ahead_s = rng.choice([0.0, 3600.0, 7200.0], len(market), p=[0.8, 0.15, 0.05]).tolist()
    return [tick._replace(at_s=tick.at_s + ahead) for tick, ahead in zip(market, ahead_s, strict=True)]


@given(with_wrong_stamps(), st.lists(st.integers(0, 120), max_size=6))
def test_where_batches_are_cut_makes_no_difference(market, cuts) -> None:
    state = state_of(ALL)
    parts = cut(batch(market, state.symbols), cuts)

    assert [bar for part in parts for bar in listed(step(part, state))] == bars(market, ALL)


@given(with_wrong_stamps(), st.integers(0, 120))
def test_state_that_was_dumped_and_loaded_goes_on_bit_for_bit(market, at) -> None:
    state = state_of(ALL)
    first, second = cut(batch(market, state.symbols), [at])
    made = listed(step(first, state))
    restored = BarState(state.plan, SymbolTable())
    for block, data in state.dump(dirty_only=False):
        restored.load(block, data)

    assert made + listed(step(second, restored)) == bars(market, ALL)
    step(second, state)
    assert restored.dump(dirty_only=False) == state.dump(dirty_only=False)


@given(with_wrong_stamps())
def test_other_symbols_make_no_difference(market) -> None:
    alone = [bar for name in "012" for bar in bars([tick for tick in market if tick.symbol == f"S{name}"], ALL)]

    def without_cause(made: list[Bar]) -> list[Bar]:
        return sorted(bar._replace(cause=0) for bar in made)

    assert without_cause(bars(market, ALL)) == without_cause(alone)


@pytest.mark.parametrize("then_s", [1001, 3])
def test_a_tick_that_is_not_believed_yet_outlives_batches_and_restarts(then_s: float) -> None:
    ahead = trade(1000, 11, 3, seq=8)
    ticks = [trade(1, 10, seq=7), ahead, ahead, trade(then_s, 12, 2), trade(1011, 9), trade(1011, 9)]
    state, made = state_of(ALL), []
    for i, tick in enumerate(ticks):
        part = step(batch([tick], state.symbols), state)
        made += [bar._replace(cause=i) for bar in listed(part)]
        blocks, state = state.dump(dirty_only=False), BarState(state.plan, SymbolTable())
        for block, data in blocks:
            state.load(block, data)

    assert made == bars(ticks, ALL)
    assert any(bar.start_s == 1000 for bar in made) == (then_s > 1000)  # a repeat confirms nothing


def test_only_blocks_that_ticks_touched_are_dumped() -> None:
    state = state_of(ALL)
    step(batch([trade(1, 1, symbol=f"S{i}") for i in range(200)], state.symbols), state)
    state.mark_clean()

    step(batch([trade(9, 1, symbol="S130")], state.symbols), state)

    assert [block for block, _ in state.dump()] == [2]


@st.composite
def disorder(draw: st.DrawFn) -> tuple[list[Tick], list[Tick]]:
    """Draw ticks of one symbol in order, and the same within a lateness of 5 s, some twice, wrong stamps between."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(2, 60))
    at_s = np.cumsum(rng.choice([0.0, 0.001, 0.3, 1.7, 25.0, 90.0], count, p=[0.2, 0.2, 0.38, 0.15, 0.05, 0.02]))
    ticks = []
    for seq, second in enumerate(at_s.tolist()):
        price, size = float(rng.integers(1, 10**6)) / 100, float(rng.integers(1, 10**9)) / 1e6
        side = int(rng.integers(-1, 2))
        ticks.append(quote(second, 9, 11, seq=seq) if rng.random() < 0.2 else trade(second, price, size, side, seq=seq))
    # Delayed by less than the lateness, so that none comes later than that; numbers go at most 60 back.
    order = np.argsort(at_s + rng.random(count) * 4.999, kind="stable").tolist()
    twice = [(place + 0.5 + rng.integers(0, 4), i) for place, i in enumerate(order) if rng.random() < 0.2]
    came = [ticks[i] for _, i in sorted([*enumerate(order), *twice])]
    # Each is days behind the one before, so that none confirms another.
    for n, place in enumerate(np.sort(rng.integers(1, len(came) + 1, rng.integers(0, 8))).tolist()):
        came.insert(place + n, trade(1e9 - 1e6 * n, 1e9, 1e3))
    end = [trade(1e6, 1, 1, seq=10**6 + i) for i in range(2)]  # they end every bar
    return ticks + end, came + end


@given(disorder())
@settings(max_examples=300)
def test_late_repeated_and_wrong_ticks_lead_to_the_bars_of_ticks_in_order_to_the_bit(drawn) -> None:
    in_order, as_they_came = drawn
    spec = pipeline("time:1s", "time:10s", lateness="5s")

    expected, found = latest(bars(in_order, spec)), latest(bars(as_they_came, spec))

    def numbers(made: dict) -> dict:
        return {name: (bar.prices, bar.volume, bar.value, bar.buy_volume, bar.ticks) for name, bar in made.items()}

    assert all(bar.revision == 0 for bar in expected.values())
    assert numbers(found) == numbers(expected)
    # A late tick may have lain in what the clock took for a gap, never the other way round.
    assert all(expected[name].complete for name, bar in found.items() if bar.complete)


def test_bars_of_recorded_trades_equal_those_that_pandas_makes() -> None:
    if not CAPTURE.exists():
        pytest.skip(f"needs the capture {CAPTURE.name} in shared/data beside the checkout")
    state, parts, made = state_of(pipeline("time:1s", "time:60s")), [], []
    for part in open_source(str(CAPTURE)).stream():
        for name in part.symbols:
            state.symbols.add(name)
        parts.append(select(part, part.kind_N == TickKind.TRADE))
        made += listed(step(part, state))
    columns = ("ts_ns", "price", "size", "side")
    frame = pd.DataFrame({name: np.concatenate([getattr(part, f"{name}_N") for part in parts]) for name in columns})
    frame["bought"] = frame["size"].where(frame["side"] > 0, 0.0)

    for kind, width_ns in (("time:1s", SECOND_NS), ("time:60s", 60 * SECOND_NS)):
        found = {bar.number: bar for bar in latest(made).values() if bar.kind == kind}
        by = frame.sort_values("ts_ns", kind="stable").groupby(lambda i, w=width_ns: frame["ts_ns"][i] // w)
        expected = by.agg({"price": ["first", "max", "min", "last", "size"], "size": "sum", "bought": "sum"})
        expected = expected.loc[: max(found)]  # the last bar has not ended

        assert len(found) > 2
        assert sorted(found) == expected.index.tolist()
        *prices, volume, bought = expected.T.to_numpy()
        found = [found[number] for number in sorted(found)]
        assert np.array_equal([(*bar.prices, bar.ticks) for bar in found], np.transpose(prices))
        assert [bar.volume for bar in found] == pytest.approx(volume, rel=1e-12)
        assert [bar.buy_volume for bar in found] == pytest.approx(bought, rel=1e-12, abs=1e-12)
