"""Bars by hand: each kind, late ticks, gaps, duplicates and a clock that was wrong."""

from fractions import Fraction

import numpy as np
import pytest

from ml_core.data_processor import bars as bars_module
from ml_core.data_processor.bars import step
from ml_core.data_processor.kernels import RESYNC_TICKS
from ml_core.types import BarStatus
from tests.unit.ml_core.data_processor.bar_lab import Bar, bars, latest, listed, pipeline, state_of
from tests.unit.ml_core.data_processor.market import NAN, START_NS, Tick, batch, quote, trade

FINAL, REVISED = BarStatus.FINAL, BarStatus.REVISED
TEN_S = 10**10
FIRST = START_NS // TEN_S  # START_NS begins a bar of ten seconds


def test_a_bar_by_time_ends_with_the_first_tick_at_or_after_its_end() -> None:
    # second   1    4    9.9 |  10    19.9 |  20
    # price   10   12     9  |  11      8  |   7     [10, 20): open 11, high 11, low 8, close 8
    ticks = [trade(1, 10, 2), trade(4, 12, 1, -1), trade(9.9, 9, 4), trade(10, 11), trade(19.9, 8, 3, 0), trade(20, 7)]

    assert bars(ticks, pipeline("time:10s")) == [
        Bar("A", "time:10s", FIRST, 0, 10, (10, 12, 9, 9), 7, 68, 6, 3, 0, FINAL, False, 3),
        Bar("A", "time:10s", FIRST + 1, 10, 20, (11, 11, 8, 8), 4, 35, 1, 2, 0, FINAL, True, 5),
    ]


def test_an_interval_without_ticks_makes_no_bar_and_a_quote_ends_one() -> None:
    made = bars([trade(1, 10), trade(31, 11), quote(45, 9, 11), trade(71, 12)], pipeline("time:10s"))

    assert [(bar.number - FIRST, bar.prices[3], bar.cause) for bar in made] == [(0, 10, 1), (3, 11, 2)]


def test_a_late_tick_revises_the_bar_that_had_ended_and_the_bar_is_written_whole() -> None:
    ticks = [trade(1, 10), trade(11, 20), trade(12, 21), trade(8, 9), trade(0.5, 30, seq=7), trade(20, 5)]

    made = bars(ticks, pipeline("time:10s", lateness="12s"))

    assert [(bar.number - FIRST, bar.revision, bar.status, bar.prices, bar.ticks, bar.cause) for bar in made] == [
        (0, 0, FINAL, (10, 10, 10, 10), 1, 1),
        (0, 1, REVISED, (10, 10, 9, 9), 2, 3),
        (0, 2, REVISED, (30, 30, 9, 9), 3, 4),
        (1, 0, FINAL, (20, 21, 20, 21), 2, 5),
    ]


def test_a_late_tick_makes_the_bar_that_was_never_there() -> None:
    made = bars([trade(1, 10), trade(25, 20), trade(19, 9)], pipeline("time:10s", lateness="10s"))

    assert [(bar.number - FIRST, bar.revision, bar.status, bar.cause) for bar in made] == [
        (0, 0, FINAL, 1),
        (1, 0, FINAL, 2),
    ]


def test_a_tick_later_than_the_lateness_is_counted_and_in_no_bar() -> None:
    spec = pipeline("time:10s", "ticks:3", lateness="10s")
    state = state_of(spec)
    ticks = [trade(1, 10), trade(25, 20), trade(15, 1), trade(14.999999, 2), trade(26, 30)]

    made = step(batch(ticks, state.symbols), state)

    assert made.too_late == 1
    assert [(bar.kind, bar.prices) for bar in listed(made)] == [
        ("time:10s", (10, 10, 10, 10)),
        ("time:10s", (1, 1, 1, 1)),
        ("ticks:3", (10, 20, 1, 20)),
    ]


def test_bars_that_are_open_while_ticks_come_too_late_are_not_complete() -> None:
    wrong = 31  # within the gap bound, so believed
    made = bars(
        [trade(1, 10), trade(2, 10), trade(wrong, 10), trade(3, 10), trade(41, 9), trade(51, 9)], pipeline("time:10s")
    )

    assert [(bar.start_s, bar.ticks, bar.complete) for bar in made] == [(0, 2, False), (30, 1, False), (40, 1, True)]


def test_open_and_close_go_by_event_time_then_number_then_arrival() -> None:
    ticks = [trade(5, 1, seq=4), trade(5, 2, seq=3), trade(5, 3, seq=6), trade(5, 4, seq=5), trade(12, 9, seq=7)]
    assert bars(ticks, pipeline("time:10s"))[0].prices == (2, 4, 1, 3)

    ticks = [trade(5, 1), trade(5, 2), trade(5, 3), trade(12, 9)]
    assert bars(ticks, pipeline("time:10s"))[0].prices == (1, 3, 1, 3)


def test_bars_by_ticks_volume_and_value_end_with_the_tick_that_fills_them() -> None:
    # size           3     4     2    9     1
    # price         10    10     5    1   100
    # volume >= 5:         7               (2 + 9)
    # value >= 60:        70               (10 + 9 + 100)
    ticks = [trade(i, price, size) for i, (price, size) in enumerate([(10, 3), (10, 4), (5, 2), (1, 9), (100, 1)])]

    made = bars(ticks, pipeline("ticks:2", "volume:5", "value:6e1"))

    assert [(bar.kind, bar.number, bar.volume, bar.value, bar.ticks, bar.complete, bar.cause) for bar in made] == [
        ("ticks:2", 0, 7, 70, 2, False, 1),
        ("volume:5", 0, 7, 70, 2, False, 1),
        ("value:6e1", 0, 7, 70, 2, False, 1),
        ("ticks:2", 1, 11, 19, 2, True, 3),
        ("volume:5", 1, 11, 19, 2, True, 3),
        ("value:6e1", 1, 12, 119, 3, True, 4),
    ]
    assert [(bar.start_s, bar.end_s) for bar in made[3:]] == [(2, 3), (2, 3), (2, 4)]


def test_a_late_tick_counts_in_the_bar_by_ticks_that_is_open() -> None:
    ticks = [trade(1, 10), trade(9, 11), trade(8, 12), trade(10, 13), trade(10, 14)]

    made = bars(ticks, pipeline("ticks:2"))

    assert [(bar.number, bar.start_s, bar.end_s, bar.prices) for bar in made] == [
        (0, 1, 9, (10, 11, 10, 11)),
        (1, 8, 10, (12, 13, 12, 13)),
    ]


def test_bars_of_mids_have_no_volume_and_take_no_trades() -> None:
    ticks = [quote(1, 9, 11), quote(2, 10, 14), trade(3, 99), quote(4, NAN, 5), quote(5, 8, 7), quote(11, 1, 3)]

    [bar] = bars(ticks, pipeline("time:10s", price="mid"))

    assert (bar.prices, bar.volume, bar.value, bar.ticks) == ((10, 12, 10, 12), 0, 0, 2)


def test_a_trade_without_a_size_moves_the_price_and_no_volume() -> None:
    state = state_of(pipeline("ticks:1"))
    made = step(batch([trade(1, 10, NAN), trade(2, 11, 4), trade(3, 12, 0)], state.symbols), state)

    assert made.close_B.tolist() == [10, 11, 12]
    assert made.volume_B.tolist() == [0, 4, 0]
    assert np.array_equal(made.vwap_B, [NAN, 11, NAN], equal_nan=True)


def test_a_number_that_was_seen_does_not_count_again() -> None:
    ticks = [trade(1, 10, seq=1), trade(2, 11, seq=2), trade(1, 10, seq=1), trade(3, 12, seq=3), trade(11, 1, seq=4)]

    assert [(bar.ticks, bar.volume) for bar in bars(ticks, pipeline("time:10s"))] == [(3, 3)]


def test_bars_beside_a_gap_are_not_complete() -> None:
    # second       1 | 11    | 21 | (gap of 65 s) 86 | 91    | 101
    at = [1, 11, 21, 86, 91, 92, 101]

    made = bars([trade(second, 10) for second in at], pipeline("time:10s", "ticks:2"))

    assert [(bar.start_s, bar.complete) for bar in made if bar.kind == "time:10s"] == [
        (0, False),  # begins with the first tick ever seen
        (10, True),
        (20, False),  # open across the gap
        (80, False),  # in which ticks resume
        (90, True),
    ]
    assert [(bar.start_s, bar.complete) for bar in made if bar.kind == "ticks:2"] == [
        (1, False),
        (21, False),
        (91, True),
    ]


def test_a_bar_that_begins_behind_a_gap_is_not_complete_though_none_was_open_across_it() -> None:
    made = bars([trade(second, 10) for second in (1, 2, 100, 101, 102, 103)], pipeline("ticks:2"))

    assert [bar.complete for bar in made] == [False, False, True]


def test_a_gap_leaves_a_bar_alone_that_had_ended_before() -> None:
    ticks = [trade(1, 1), trade(11, 2), trade(21, 3), quote(31, 1, 2), quote(95, 1, 2), trade(30, 4)]

    made = latest(bars(ticks, pipeline("time:10s", lateness="70s")))

    assert [made["A", "time:10s", FIRST + n].complete for n in (1, 2, 3)] == [True, True, False]


def test_after_a_clock_that_was_wrong_bars_go_on_behind_what_is_out() -> None:
    wrong = [trade(1000, 50), trade(1000, 50)]
    behind = [trade(12 + i / 10, 11 + i) for i in range(RESYNC_TICKS)]
    ticks = [trade(1, 10), trade(11, 10), *wrong, *behind, trade(9.5, 99), trade(21, 30), trade(995, 60)]

    made = bars([*ticks, trade(1001, 61), trade(1011, 62)], pipeline("time:10s"))

    assert [(bar.number - FIRST, bar.revision, bar.status, bar.complete, bar.prices[3]) for bar in made] == [
        (0, 0, FINAL, False, 10),
        (1, 0, FINAL, False, 10),  # the wrong ticks came behind a gap, as far as its symbol knows
        (100, 0, FINAL, False, 50),
        (1, 1, FINAL, False, 18),  # of the tick that set the clock right
        (2, 1, FINAL, False, 30),
        (99, 1, FINAL, False, 60),
        (100, 1, FINAL, True, 61),
    ]
    assert (
        latest(made)["A", "time:10s", FIRST].prices[3] == 10
    )  # what came late behind the wrong clock does not hide it


def test_a_quote_of_a_wrong_clock_leaves_no_bar_behind() -> None:
    behind = [trade(12 + i / 10, 11) for i in range(RESYNC_TICKS)]

    made = bars([trade(1, 10), quote(1000, 9, 11), quote(1000, 9, 11), *behind, trade(21, 30)], pipeline("time:10s"))

    assert [(bar.number - FIRST, bar.revision, bar.ticks) for bar in made] == [(0, 0, 1), (1, 1, 1)]


# A gap, late ticks and a clock that is wrong for eight ticks.
TIMES = (1, 2, 11, 10.5, 95, 96, 92, 104, 1500, 1501, *[105 + i / 10 for i in range(RESYNC_TICKS)], 111, 200, 300, 301)
MIXED = [quote(at_s, 9, 11) if i % 5 == 2 else trade(at_s, 10 + i, 1 + i % 3) for i, at_s in enumerate(TIMES)]


@pytest.mark.parametrize("wrong", [trade(1e6, 99, 50), quote(1e6, 1, 2)], ids=["trade", "quote"])
@pytest.mark.parametrize("place", range(1, len(MIXED) + 1))
def test_one_wrong_stamp_ahead_changes_no_bar_wherever_it_comes(place: int, wrong: Tick) -> None:
    spec = pipeline("time:1s", "time:10s", "ticks:3", "volume:5", "value:60")

    made = bars([*MIXED[:place], wrong, *MIXED[place:]], spec)

    # The cause is a place, which moved, and of a tick that was parked it is the next one.
    assert [bar._replace(cause=0) for bar in made] == [bar._replace(cause=0) for bar in bars(MIXED, spec)]


def test_the_tick_behind_a_gap_counts_with_the_next_one_which_is_the_cause() -> None:
    ticks = [trade(1, 10), trade(100, 20, 3, -1), trade(101, 21), quote(200, 9, 11), trade(201, 30), trade(202, 31)]

    made = bars(ticks, pipeline("time:10s", "ticks:2"))

    assert [(bar.kind, bar.start_s, bar.prices, bar.ticks, bar.cause) for bar in made] == [
        ("time:10s", 0, (10, 10, 10, 10), 1, 2),
        ("ticks:2", 1, (10, 20, 10, 20), 2, 2),
        ("time:10s", 100, (20, 21, 20, 21), 2, 4),
        ("ticks:2", 101, (21, 30, 21, 30), 2, 4),
    ]
    assert [(bar.volume, bar.value, bar.buy_volume) for bar in made[1:3]] == [(4, 70, 1), (4, 81, 1)]


def test_a_tick_that_confirms_one_and_lies_far_ahead_of_it_waits_for_the_next_in_turn() -> None:
    made = bars([trade(second, 10) for second in (0, 100, 200, 300, 1e6, 301)], pipeline("time:10s"))

    assert [(bar.start_s, bar.cause) for bar in made] == [(0, 2), (100, 3), (200, 4)]


@pytest.mark.parametrize(
    ("at_s", "counted_s", "misdated"),
    [
        ((1, 200, 140), [1, 200], 0),  # within the gap bound of 60 s before it, though too late for a bar
        ((1, 200, 139.9), [1], 1),  # itself ahead, and parked instead
        ((1, 1000, 500, 200, 201), [1, 200, 201], 2),
        ((1, 200, 2, 200), [1, 2], 1),  # a wrong stamp that comes again
        ((10, 200, 9, 200, 201), [10, 9, 200, 200, 201], 0),  # a straggler says nothing
        ((0, 2, 4, 65, 6, 8), [0, 2, 4, 6, 8], 1),  # 6 is near 65 and nearer to the clock
    ],
)
def test_ticks_ahead_that_the_next_one_does_not_confirm_are_counted_and_in_no_bar(at_s, counted_s, misdated) -> None:
    state = state_of(pipeline("ticks:1"))

    made = step(batch([trade(second, 10) for second in at_s], state.symbols), state)

    assert [bar.start_s for bar in listed(made)] == counted_s
    assert made.misdated == misdated


@pytest.mark.parametrize("again_s", [3610, 11])
def test_a_tick_whose_time_was_not_confirmed_is_a_repeat_when_its_number_comes_again(again_s) -> None:
    state = state_of(pipeline("ticks:1"))
    ticks = [trade(second, 10, seq=second % 3600) for second in (9, 3610, 11, 3612)]
    ticks += [trade(again_s, 10, seq=10), trade(13, 10, seq=13), trade(14, 10, seq=14)]

    made = step(batch(ticks, state.symbols), state)

    assert [bar.start_s for bar in listed(made)] == [9, 11, 13, 14]
    assert made.misdated == 2


def test_only_a_tick_with_a_price_is_missing_in_bars_where_its_stamp_was_wrong() -> None:
    state = state_of(pipeline("ticks:1"))

    made = step(batch([trade(1, 10), quote(1000, 9, 11), trade(2, 10)], state.symbols), state)

    assert (len(made), made.misdated) == (2, 0)


def test_where_the_lateness_is_beyond_the_gap_bound_it_says_what_is_ahead() -> None:
    # seconds: 29 ahead is believed at once; 75 is 25 behind the one that is parked, and confirms it
    spec = pipeline("ticks:1", lateness="30s", features={"gap": "1s"})

    made = bars([trade(second, 10) for second in (1, 30, 100, 75, 500, 99)], spec)

    assert [(bar.start_s, bar.cause) for bar in made] == [(1, 0), (30, 1), (100, 3), (75, 3), (99, 5)]


def test_ticks_within_the_lateness_never_set_the_clock_back() -> None:
    late = [trade(100 - i, 10) for i in range(1, 3 * RESYNC_TICKS)]
    spec = pipeline("time:10s", lateness="30s", features={"gap": "1s"})

    made = latest(bars([trade(1, 10), trade(100, 10), *late, trade(110, 10)], spec))

    assert {bar.start_s: bar.ticks for bar in made.values()} == {0: 1, 70: 3, 80: 10, 90: 10, 100: 1}


def test_symbols_that_are_not_asked_for_make_no_bar() -> None:
    ticks = [trade(i, 10, symbol=symbol) for i in range(3) for symbol in "AB"]

    made = bars(ticks, pipeline("ticks:3", source={"symbols": ["B"]}))

    assert [bar.symbol for bar in made] == ["B"]


def test_more_bars_than_there_is_room_for_at_once_come_in_order(monkeypatch) -> None:
    ticks = [trade(i, 10 + i) for i in range(50)]
    spec = pipeline("ticks:1", "time:1s")
    whole = bars(ticks, spec)
    monkeypatch.setattr(bars_module, "ROOM", 4)

    assert bars(ticks, spec) == whole
    assert len(whole) == 99


def test_sums_are_exact_to_the_nearest_float() -> None:
    rng = np.random.default_rng(0)
    sizes, prices = rng.random(1000) * 10.0 ** rng.integers(-6, 6, 1000), rng.random(1000) * 1e5

    made = bars([trade(0, p, s) for p, s in zip(prices, sizes, strict=True)], pipeline("ticks:10"))

    for bar, price, size in zip(made, prices.reshape(100, 10), sizes.reshape(100, 10), strict=True):
        assert bar.volume == float(sum(map(Fraction, size)))
        assert bar.value == float(sum(Fraction(p) * Fraction(s) for p, s in zip(price, size, strict=True)))


@pytest.mark.parametrize("ticks", [[trade(0, 1e308, 1e308)], [trade(0, 1e300, 1)], [trade(0, 1, 1e300)]])
def test_what_is_too_large_to_be_summed_counts_as_a_trade_without_a_size(ticks: list[Tick]) -> None:
    [bar] = bars(ticks, pipeline("ticks:1"))

    assert (bar.volume, bar.value) == (0, 0)
