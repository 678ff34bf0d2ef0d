"""What clocks that are wrong, for a moment or for good, do to rows: the rules computed twice."""

import math

import numpy as np
import pytest

from ml_core.data_processor import calendars
from ml_core.data_processor.features import FeaturePlan, FeatureState, move
from ml_core.data_processor.kernel_tables import UNCOUNTED
from ml_core.types import RowFlag, SymbolTable
from tests.unit.ml_core.data_processor import clock_oracle
from tests.unit.ml_core.data_processor.clock_oracle import Meaning
from tests.unit.ml_core.data_processor.market import NAN, START_NS, Tick, batch, pipeline, quote, trade
from tests.unit.ml_core.data_processor.oracle import History

USE = ["signed_volume:10s", "queue_imbalance_mean:1s"]
GAP_NS, HOUR_S = 60 * 10**9, 3600.0


def market(shift_s: dict[int, float]) -> list[Tick]:
    """Ticks every 0.7 s, the stamps of some shifted."""
    return ticks_at([0.7 * i + shift_s.get(i, 0.0) for i in range(60)])


def ticks_at(seconds: list[float]) -> list[Tick]:
    ticks = []
    for i, at_s in enumerate(seconds):
        ticks.append(quote(at_s, 99, 101, 1 + i % 5, 2) if i % 3 else trade(at_s, 100, 1 + i % 4, 1 - 2 * (i % 2)))
    return ticks


CASES = {
    "1.3 s behind": {20: -1.3, 21: -1.3, 40: -1.3},
    "5 s ahead": {20: 5.0, 40: 5.0},
    "one hour back for a moment": dict.fromkeys(range(20, 27), -HOUR_S),
    "one hour back for long": dict.fromkeys(range(20, 45), -HOUR_S),
    "one hour ahead once": {20: HOUR_S, 40: HOUR_S},
    "one hour ahead for good": dict.fromkeys(range(20, 60), HOUR_S),
    "one hour ahead twice": {20: HOUR_S, 21: HOUR_S},
    "further ahead each time": {20: HOUR_S, 21: 2 * HOUR_S, 22: 200.0, 23: 0.1},
}


def expected_x(ticks: list[Tick], placed: list[clock_oracle.Placed], n: int) -> list[float]:
    """The features of tick n, from their formulas over the ticks since its symbol began."""
    start = max(k for k in range(n + 1) if placed[k].meaning is Meaning.START)
    seen = [ticks[k]._replace(at_s=(placed[k].clock_ns - START_NS) / 1e9) for k in range(start, n + 1)]
    past, last = History(seen), n - start
    size = [0.0 if math.isnan(tick.size) else tick.size for tick in seen]
    volume = past.sum(last, 10.0, size.__getitem__)
    signed = past.sum(last, 10.0, lambda k: seen[k].side * size[k])
    return [signed / volume if volume else NAN, past.mean(last, 1.0, past.queue)]


def compare(ticks: list[Tick], sessions: clock_oracle.Sessions = ()) -> list[clock_oracle.Placed]:
    plan, symbols = FeaturePlan.from_spec(pipeline(USE, features={"max_age": "7d"})), SymbolTable()
    made, lag_N = move(batch(ticks, symbols), FeatureState(plan, symbols))
    placed = clock_oracle.place([tick.ts_ns for tick in ticks], GAP_NS, sessions)
    assert made.flags_N.tolist() == clock_oracle.flags(placed, plan.look_back_ns, sessions)
    assert lag_N.tolist() == [each.clock_ns - each.ts_ns for each in placed]
    for n in range(len(ticks)):
        assert made.x_NF[n].tolist() == pytest.approx(expected_x(ticks, placed, n), rel=1e-4, abs=1e-5, nan_ok=True), n
    return placed


@pytest.mark.parametrize("case", CASES)
def test_rows_of_wrong_clocks_are_those_of_the_rules(case: str) -> None:
    placed = compare(market(CASES[case]))
    assert placed[-1].meaning in (Meaning.MOVE, Meaning.LATE)


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_clocks_that_are_wrong_at_random_are_those_of_the_rules(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shifts = rng.choice([0.0, -1.3, 5.0, -HOUR_S, HOUR_S, 61.0], 60, p=[0.5, 0.1, 0.1, 0.1, 0.15, 0.05])
    where = np.sort(rng.integers(0, 60, 12))
    held = np.repeat(shifts[:12], np.diff([*where, 60]))  # some wrong clocks stay
    shift_s = {i: float(shifts[i]) for i in range(int(where[0]))}
    shift_s |= {int(where[0]) + k: float(shift) for k, shift in enumerate(held)}
    compare(market(shift_s))


# open 0 to 14 s, 30 to 40 s and 1000 to 2000 s: behind a break and behind a night
SESSIONS_S = ((0, 14), (30, 40), (1000, 2000))
NIGHTS = {
    "over night": [1.0, 2.0, 31.0, 32.0, 1000.5, 1001.0, 1012.0],
    "late for the open": [1.0, 2.0, 31.0, 1100.0, 1101.0, 1120.0],
    "behind the close": [1.0, 13.9, 14.0, 15.0, 31.0, 39.0, 41.0, 500.0, 42.0, 500.0, 501.0, 1001.0],
    "a wrong stamp by night": [1.0, 500.0, 2.0, 3.0],
    "a wrong stamp in a session": [1001.0, 1500.0, 1002.0, 1500.0, 1501.0],
    "a session left out": [1.0, 2.0, 1000.5, 1001.0],
    "beyond the last session, and before the first": [1100.0, 1999.9, 2000.0, 2001.0, 1990.0, 2020.0, *[-5.0] * 9],
    "back into the session before": [31.0, 1001.0, *[32.0] * 9, 33.0, 1002.0],
}


@pytest.fixture
def sessions(monkeypatch) -> clock_oracle.Sessions:
    found = [(START_NS + begin * 10**9, START_NS + over * 10**9) for begin, over in SESSIONS_S]
    monkeypatch.setattr(calendars, "edges", lambda _name: np.array(found).ravel())
    return found


@pytest.mark.parametrize("case", NIGHTS)
def test_rows_of_sessions_are_those_of_the_rules(case: str, sessions) -> None:
    compare(ticks_at(NIGHTS[case]), sessions)


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_times_at_random_in_and_out_of_sessions_are_those_of_the_rules(seed: int, sessions) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.choice([0.2, 3.0, 20.0, 61.0, 700.0, -3.0, -900.0], 60, p=[0.5, 0.2, 0.1, 0.05, 0.05, 0.05, 0.05])
    compare(ticks_at(np.round(np.cumsum(steps), 1).tolist()), sessions)


@pytest.mark.parametrize(
    ("quotes_s", "owed"),
    [((1000, 1030), RowFlag.WARM_UP), ((1000, 1100, 1101, 1150), RowFlag.WARM_UP | RowFlag.GAP)],
    ids=["a night", "a night and a gap"],
)
def test_the_first_row_says_that_its_symbol_began_anew_however_late_it_comes(quotes_s, owed, sessions) -> None:
    # rows on trades alone: the first trade comes long after warm-up, and no window may reach across the night
    quotes, end_s = [quote(at_s, 1, 2) for at_s in quotes_s], quotes_s[-1] + 10
    ticks = [trade(0, 1), trade(12, 1), *quotes, trade(end_s, 1), trade(end_s + 1, 1)]
    plan, symbols = (
        FeaturePlan.from_spec(pipeline(USE, features={"rows_on": ["trade"], "max_age": "7d"})),
        SymbolTable(),
    )
    flags_N = move(batch(ticks, symbols), FeatureState(plan, symbols)).rows.flags_N
    assert flags_N.tolist() == [RowFlag.WARM_UP, 0, owed, 0]


def test_only_ticks_that_count_have_a_lag() -> None:
    plan, symbols = FeaturePlan.from_spec(pipeline(USE, source={"symbols": ["A"]})), SymbolTable()
    ticks = [trade(9, 1, seq=1), trade(7, 1, seq=2), trade(9, 1, seq=1), trade(9, 1, symbol="B")]
    assert move(batch(ticks, symbols), FeatureState(plan, symbols)).lag_N.tolist() == [0, 2 * 10**9, *[UNCOUNTED] * 2]
