"""When a row is not whole, and which ticks make none."""

import pytest

from ml_core.types import RowFlag
from tests.unit.ml_core.data_processor.market import NAN, Tick, quote, rows, trade

WARM_UP, GAP, NO_PRICE, STALE, LATE = RowFlag.WARM_UP, RowFlag.GAP, RowFlag.NO_PRICE, RowFlag.STALE, RowFlag.LATE
AHEAD = RowFlag.AHEAD
USE = ["signed_volume:10s"]  # looks back 10 s


def flags(ticks: list[Tick], **features: object) -> list[RowFlag]:
    return [RowFlag(value) for value in rows(ticks, USE, **features).flags_N.tolist()]


def test_warm_up_lasts_as_long_as_the_longest_feature_looks_back() -> None:
    # second 0        9.9      10
    assert flags([trade(0, 1), trade(9.9, 1), trade(10, 1)]) == [WARM_UP, WARM_UP, RowFlag(0)]


def test_after_a_silence_rows_are_flagged_until_the_longest_look_back_has_passed() -> None:
    # gap bound 60 s; second 0 ... 20  | 80.1: is it?  80.2: it is    90.1   90.2
    ticks = [trade(0, 1), trade(20, 1), trade(80.1, 1), trade(80.2, 1), trade(90.1, 1), trade(90.2, 1)]
    assert flags(ticks) == [WARM_UP, RowFlag(0), AHEAD, GAP, GAP, RowFlag(0)]


def test_a_silence_of_exactly_the_bound_is_no_gap() -> None:
    assert flags([trade(0, 1), trade(60, 1)])[1] == RowFlag(0)


def test_the_first_row_after_a_gap_says_so_however_late_it_comes() -> None:
    # rows on trades alone: quotes end the silence at 100 s, the next trade comes 20 s after
    quotes = [quote(at, 1, 2) for at in (100, 100, 119)]
    ticks = [trade(0, 1), trade(20, 1), *quotes, trade(120, 1), trade(121, 1)]
    assert flags(ticks, rows_on=["trade"]) == [WARM_UP, RowFlag(0), GAP, RowFlag(0)]


def test_a_gap_that_no_row_has_told_of_is_told_by_one_that_is_ahead_itself() -> None:
    # rows on trades alone: quotes make the gap at 100 s, the trade lies an hour further
    ticks = [trade(0, 1), trade(20, 1), quote(100, 1, 2), quote(100, 1, 2), quote(119, 1, 2), trade(3600, 1)]
    assert flags([*ticks, trade(120, 1)], rows_on=["trade"]) == [WARM_UP, RowFlag(0), GAP | AHEAD, RowFlag(0)]


def test_a_late_tick_is_flagged_and_leaves_the_clock() -> None:
    # the tick at 15 comes after that at 20; 20.5 is measured from 20
    ticks = [trade(0, 1), trade(20, 1), trade(15, 1), trade(20.5, 1)]
    made = rows(ticks, ["since_trade"])
    assert [RowFlag(f) for f in made.flags_N.tolist()][2] == LATE
    assert made.x_NF[2, 0] == 0.0
    assert round(float(made.x_NF[3, 0]), 3) == 6.217  # ln(1 + 500)


def test_one_stamp_far_ahead_is_believed_by_nobody() -> None:
    # second 0 .. 20  3620  21: what counted at 20 s is 1 s old
    ticks = [trade(0, 1), trade(20, 1), trade(3620, 1), trade(21, 1)]
    made = rows(ticks, ["signed_volume:10s", "since_trade"])
    assert made.flags_N.tolist() == [WARM_UP, 0, AHEAD, 0]
    assert made.x_NF[2:, 1].tolist() == [0.0, pytest.approx(6.909, abs=1e-3)]  # ln(1 + 1000)


@pytest.mark.parametrize(
    ("second_s", "expected"),
    [(60, RowFlag(0)), (3639, AHEAD), (3640, GAP), (3700, GAP), (9999, GAP)],
    ids=["back again", "too far behind the first", "within the bound of it", "at the same time", "beyond"],
)
def test_a_stamp_far_ahead_is_confirmed_by_one_that_is_not_behind_it_by_more_than_the_bound(
    second_s: float, expected: RowFlag
) -> None:
    assert flags([trade(0, 1), trade(20, 1), trade(3700, 1), trade(second_s, 1)])[3] == expected


def test_a_late_tick_between_two_far_ahead_leaves_the_second_unconfirmed() -> None:
    ticks = [trade(0, 1), trade(20, 1), trade(3700, 1), trade(19, 1), trade(3701, 1), trade(3702, 1)]
    assert flags(ticks) == [WARM_UP, RowFlag(0), AHEAD, LATE, AHEAD, GAP]


def test_a_repeated_number_confirms_nothing() -> None:
    ticks = [trade(0, 1, seq=1), trade(20, 1, seq=2), trade(3700, 1, seq=3), trade(3700, 1, seq=3), trade(21, 1, seq=4)]
    assert flags(ticks) == [WARM_UP, RowFlag(0), AHEAD, RowFlag(0)]


def test_a_clock_that_two_stamps_have_set_ahead_does_not_silence_a_symbol_for_good() -> None:
    # +1 h twice, then ticks as ever: late at first, then the clock goes back and warm-up starts anew
    ticks = [trade(0, 1), trade(3600, 1), trade(3600, 1), *[trade(1 + i, 1) for i in range(20)]]
    found = flags(ticks)
    assert found[1:3] == [WARM_UP | AHEAD, GAP]
    assert found[3:10] == [LATE | GAP] * 7
    assert found[10] == WARM_UP | GAP
    assert found[-1] == RowFlag(0)


def test_a_trade_long_after_the_last_quote_is_stale() -> None:
    # max_age 5 s
    ticks = [quote(0, 1, 2), trade(5, 1), trade(5.1, 1), quote(6, 1, 2)]
    assert [STALE in f for f in flags(ticks)] == [False, False, True, False]


def test_trades_without_any_quote_are_not_stale() -> None:
    assert flags([trade(0, 1), trade(20, 1)])[1] == RowFlag(0)


def test_without_a_two_sided_quote_or_a_trade_there_is_no_price() -> None:
    made = rows([quote(0, 1, NAN), quote(1, 1, 2)], USE)
    assert [NO_PRICE in RowFlag(f) for f in made.flags_N.tolist()] == [True, False]


def test_a_number_already_seen_makes_no_row_and_moves_no_state() -> None:
    once = [trade(0, 1, 5, 1, seq=7), trade(1, 1, 3, -1, seq=8)]
    twice = [once[0], once[0], once[1], once[0], once[1]]
    assert rows(twice, USE).x_NF.tobytes() == rows(once, USE).x_NF.tobytes()
    assert rows(twice, USE).offset_N.tolist() == [0, 2]


def test_numbers_may_come_out_of_order_within_the_memory() -> None:
    seqs = [100, 90, 101, 90, 37, 38, 200, 38, 136, 137, 137]
    #        new new  new dup old new  new dup old  new dup   (64 are remembered: 38 to 101, and then 137 to 200 too)
    made = rows([trade(i, 1, seq=seq) for i, seq in enumerate(seqs)], USE)
    assert made.offset_N.tolist() == [0, 1, 2, 4, 5, 6, 8, 9]


def test_numbers_count_by_symbol_and_kind() -> None:
    ticks = [trade(0, 1, seq=1), quote(0, 1, 2, seq=1), trade(0, 1, seq=1, symbol="B")]
    assert len(rows(ticks, USE)) == 3


def test_without_a_number_every_tick_counts() -> None:
    assert len(rows([trade(0, 1), trade(0, 1)], USE)) == 2
