"""Bars of silent symbols: shown by the wall clock, once a content, and without a trace in the state."""

import pytest

from ml_core.data_processor import silent_bars
from ml_core.data_processor.bars import step
from ml_core.data_processor.silent_bars import GRACE_NS, SilentBars
from ml_core.types import SECOND_NS, BarStatus
from tests.unit.ml_core.data_processor.bar_lab import Bar, bars, listed, pipeline, state_of
from tests.unit.ml_core.data_processor.market import START_NS, batch, quote, trade


class Lab:
    """A partition's bars and a wall clock in seconds after START_NS."""

    def __init__(self, *by: str) -> None:
        self.state = state_of(pipeline(*by))
        self.silent = SilentBars(self.state)

    def take(self, *ticks) -> list[Bar]:
        return listed(step(batch(list(ticks), self.state.symbols), self.state))

    def look(self, at_s: float) -> list[Bar]:
        due = self.silent.due(START_NS + round(at_s * SECOND_NS))
        return [] if due is None else listed(due)


@pytest.fixture
def lab() -> Lab:
    return Lab("time:10s", "ticks:9")


GRACE_S = GRACE_NS / SECOND_NS


def test_the_open_bar_of_a_silent_symbol_is_shown_once_its_end_has_passed(lab) -> None:
    lab.take(trade(1, 10, 2), trade(3, 12, 1, -1))
    assert lab.look(3) == []
    assert lab.look(9.9 + GRACE_S) == []

    [bar] = lab.look(10 + GRACE_S)

    [final] = bars([trade(1, 10, 2), trade(3, 12, 1, -1), trade(10, 1)], pipeline("time:10s"))
    assert bar == final._replace(revision=-1, status=BarStatus.PROVISIONAL, cause=-1)
    assert lab.look(100) == []


def test_a_symbol_that_still_speaks_is_not_silent_however_old_its_ticks_are(lab) -> None:
    for second in range(5):
        lab.take(trade(second, 10))
        assert lab.look(1000 + second) == []

    assert [bar.ticks for bar in lab.look(1004 + GRACE_S)] == [5]


def test_a_bar_is_shown_again_only_when_something_came_into_it(lab) -> None:
    lab.take(trade(1, 10))
    lab.look(2)
    assert [bar.ticks for bar in lab.look(20)] == [1]

    lab.take(quote(2, 9, 11))
    lab.look(21)
    assert lab.look(30) == []

    lab.take(trade(3, 11))
    lab.look(31)
    assert [bar.ticks for bar in lab.look(40)] == [2]


def test_a_symbol_whose_only_newer_tick_is_not_believed_yet_is_silent(lab) -> None:
    lab.take(trade(1, 10))
    lab.look(10)
    lab.take(trade(1000, 11))
    assert [(bar.start_s, bar.ticks) for bar in lab.look(10 + GRACE_S)] == [(0, 1)]
    assert lab.look(2000) == []

    lab.take(trade(1001, 12))
    lab.look(2001)
    assert [(bar.start_s, bar.ticks) for bar in lab.look(2010)] == [(1000, 2)]


def test_what_was_shown_leaves_no_trace_in_the_state(lab) -> None:
    lab.take(trade(1, 10))
    lab.look(2)
    before = lab.state.dump(dirty_only=False)
    assert len(lab.look(20)) == 1

    assert lab.state.dump(dirty_only=False) == before
    assert [(bar.ticks, bar.revision, bar.status) for bar in lab.take(trade(11, 1))] == [(1, 0, BarStatus.FINAL)]


def test_of_many_bars_those_that_find_no_room_come_with_the_next_look(lab, monkeypatch) -> None:
    monkeypatch.setattr(silent_bars, "MOST_AT_ONCE", 40)
    lab.take(*[trade(1, 10, symbol=f"S{i}") for i in range(100)])
    lab.look(2)

    shown = [[bar.symbol for bar in lab.look(20 + i)] for i in range(4)]

    assert list(map(len, shown)) == [40, 40, 20, 0]
    assert len({symbol for part in shown for symbol in part}) == 100


def test_bars_by_time_of_every_width_are_shown_when_their_own_time_has_come() -> None:
    lab = Lab("time:60s", "time:1s")
    lab.take(trade(1, 10))
    lab.look(1)

    assert [bar.kind for bar in lab.look(10)] == ["time:1s"]
    assert [bar.kind for bar in lab.look(100)] == ["time:60s"]
