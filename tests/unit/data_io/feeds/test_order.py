from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_io.feeds.gaps import Gap
from data_io.feeds.order import Placed, SymbolOrder
from data_io.feeds.port import Quote, Trade
from data_io.feeds.receive_clock import ReceiveClock
from data_io.feeds.report import FeedReport
from ml_core.errors import SourceUnavailableError


class Desk:
    """One symbol and all that comes out of it; each call is one step of time."""

    def __init__(self, *, hold: int = 1000, clock: ReceiveClock | None = None, skew: int | None = None) -> None:
        self.out: list[Placed | Gap] = []
        self.now_ns = 0
        self.report = FeedReport()
        self.skew = skew  # of the venue's clock, which then stamps trades; None: it does not
        self.order = SymbolOrder("A", self.out.append, clock or ReceiveClock(), self.report, hold)

    def step(self) -> int:
        self.now_ns += 10
        return self.now_ns

    def trade(self, *ids: int) -> None:
        for each in ids:
            self.order.trade(self.of(each), self.step())

    def of(self, trade_id: int) -> Trade:
        return trade(trade_id, -1 if self.skew is None else 1000 + 7 * (trade_id - 100) + trade_id * 37 % self.skew)

    def quote(self) -> None:
        self.order.quote(Quote("A", 1.0, 2.0, 1.0, 1.0, -1, -1), self.step())

    def answer(self, *ids: int) -> None:
        self.order.answer([self.of(each) for each in ids], self.step())

    def answered(self) -> None:
        self.order.answered(self.step())

    def give_up(self) -> None:
        self.order.give_up("unavailable", self.step())

    def connect_anew(self) -> None:
        self.order.lost(self.now_ns)
        self.order.connected(self.step())

    @property
    def placed(self) -> list[Placed]:
        return [item for item in self.out if isinstance(item, Placed)]

    @property
    def trades(self) -> list[int]:
        return [item.tick.id for item in self.placed if isinstance(item.tick, Trade)]

    @property
    def gaps(self) -> list[Gap]:
        return [item for item in self.out if isinstance(item, Gap) and item.reason != "started"]


def trade(trade_id: int, exchange_ns: int = -1) -> Trade:
    return Trade("A", trade_id, 1.0, 1.0, 1, exchange_ns)


STEP = st.one_of(
    st.tuples(st.just("trade"), st.integers(0, 12)),  # how far from the newest: late, again, next, or behind a hole
    st.tuples(st.sampled_from(["quote", "connect_anew", "answer", "answered", "give_up"]), st.integers(0, 255)),
)


@settings(max_examples=300)
@example([("trade", n) for n in (0, 2, 9, 9)] + [("quote", 0), ("quote", 0), ("connect_anew", 0), ("trade", 1)])
@given(st.lists(STEP, max_size=80))
def test_whatever_happens_each_trade_is_out_once_or_in_one_mark_and_time_never_goes_back(steps) -> None:
    clock = ReceiveClock()
    clock.learn(received_ns=50, exchange_ns=1000)
    desk, newest, came, marked_before = Desk(hold=6, clock=clock, skew=60), 100, set(), set()
    for name, n in steps:
        if name == "trade":
            each = newest + n - 8 if n < 9 else newest + 1
            newest = max(newest, each)
            if each not in marked_before:
                came.add(each)
            desk.trade(each)
        elif name == "answer":
            first, last = desk.order.hole or (newest, newest)
            desk.answer(*(i for i in range(first - 3, (last or newest) + 4) if n >> i % 8 & 1))
        else:
            getattr(desk, name)()
        marked_before = {i for gap in desk.gaps for i in range(gap.first_seq, gap.last_seq + 1)}
    desk.order.close(desk.step())

    trades = desk.trades
    marked = Counter(i for gap in desk.gaps if gap.kind == "trade" for i in range(gap.first_seq, gap.last_seq + 1))
    if trades:
        assert sorted([*trades, *marked.elements()]) == list(range(trades[0], max([*trades, *marked]) + 1))
        assert {i for i in came if i > trades[0]} <= set(trades)
    assert trades == sorted(trades)
    times = [item.ts_ns for item in desk.placed]
    assert times == sorted(times)
    assert all(gap.from_ns <= gap.to_ns for gap in desk.gaps)
    assert desk.report.most_held <= 6
    assert sum(name == "quote" for name, _ in steps) == len(times) - len(trades)


def test_a_trade_that_comes_late_closes_its_hole_unasked() -> None:
    desk = Desk()
    desk.trade(1, 3)
    desk.quote()
    assert desk.trades == [1]
    desk.trade(2)
    assert desk.trades == [1, 2, 3]
    assert desk.order.hole is None
    assert not desk.gaps


def test_a_trade_that_comes_again_is_given_once_and_counted() -> None:
    desk = Desk()
    desk.trade(1, 1, 4, 4)
    desk.answer(2)
    desk.trade(2, 1)
    desk.answer(3)
    desk.trade(3)
    assert desk.trades == [1, 2, 3, 4]
    assert desk.report.duplicates == 5


def test_after_a_new_connection_a_silent_symbol_is_asked_for_too() -> None:
    desk = Desk()
    desk.trade(1)
    desk.connect_anew()
    assert desk.order.wanted() == [(2, None)]
    desk.quote()
    desk.answer(2, 3)
    assert desk.trades == [1], "nothing goes out while more may come"
    desk.answered()
    assert desk.trades == [1, 2, 3]


def test_a_connection_that_is_lost_while_a_hole_is_open_is_asked_for_behind_it() -> None:
    desk = Desk()
    desk.trade(1, 3)
    desk.connect_anew()
    desk.quote()
    desk.trade(2)
    assert desk.trades == [1, 2, 3]
    assert desk.order.wanted() == [(4, None)]


def test_trades_that_the_rest_side_does_not_have_yet_are_asked_for_again() -> None:
    desk = Desk()
    desk.trade(1)
    desk.connect_anew()
    desk.trade(6)
    desk.answer(2, 4)
    desk.answered()
    assert desk.order.wanted() == [(3, 3), (5, 5)]
    desk.answer(3, 5)
    assert desk.trades == [1, 2, 3, 4, 5, 6]


def test_what_was_found_is_given_and_only_the_rest_is_marked() -> None:
    desk = Desk()
    desk.trade(1, 7)
    desk.answer(3, 4)
    desk.give_up()
    assert desk.trades == [1, 3, 4, 7]
    assert [(gap.first_seq, gap.last_seq, gap.reason) for gap in desk.gaps] == [
        (2, 2, "unavailable"),
        (5, 6, "unavailable"),
    ]


def test_a_hole_is_given_up_when_too_much_waits_for_it() -> None:
    desk = Desk(hold=3)
    desk.trade(1, 5)
    desk.quote()
    assert desk.trades == [1]
    desk.trade(6)
    assert desk.trades == [1, 5, 6]
    assert [(gap.trades, gap.reason) for gap in desk.gaps] == [(3, "overflow")]


def test_a_hole_of_more_trades_than_memory_holds_is_one_mark() -> None:
    desk = Desk()
    desk.trade(1, 2**62)
    desk.give_up()
    assert desk.trades == [1, 2**62]
    assert [(gap.first_seq, gap.last_seq) for gap in desk.gaps] == [(2, 2**62 - 1)]


def test_a_venue_that_counts_anew_is_told_from_one_that_sends_again() -> None:
    desk = Desk(hold=5)
    desk.trade(1000)
    desk.trade(*range(996, 1000), *range(1, 100), 1001)  # sent again
    assert desk.trades == [1000, 1001]
    with pytest.raises(SourceUnavailableError, match="A went back from 1001 to 100;"):
        desk.trade(*range(1, 101))


def test_a_trade_found_stands_where_its_venue_time_puts_it_among_the_quotes() -> None:
    clock = ReceiveClock()
    clock.learn(received_ns=1_000, exchange_ns=0)
    desk = Desk(clock=clock)
    desk.now_ns = 1_000
    desk.trade(1)  # 1010
    desk.connect_anew()  # 1020
    desk.quote()  # 1030
    desk.quote()  # 1040
    desk.order.answer([trade(2, exchange_ns=25), trade(3, exchange_ns=35), trade(4, exchange_ns=3)], desk.step())
    desk.trade(5)  # 1060, closes the hole

    found = [(item.ts_ns, item.tick.id if isinstance(item.tick, Trade) else "quote") for item in desk.placed]
    assert found == [(1010, 1), (1025, 2), (1030, "quote"), (1035, 3), (1035, 4), (1040, "quote"), (1060, 5)]


def test_quotes_of_a_lost_connection_are_marked_up_to_the_next_one() -> None:
    desk = Desk()
    desk.quote()  # 10
    desk.connect_anew()  # 20
    desk.connect_anew()  # 30
    desk.quote()  # 40
    assert desk.gaps == [Gap("A", "quote", 10, 40, "disconnected")]


def test_a_heartbeat_that_names_a_newer_trade_opens_a_hole() -> None:
    desk = Desk()
    desk.order.head(9)
    assert desk.order.hole is None, "before the first trade nothing is missing"
    desk.trade(10)
    desk.order.head(10)
    assert desk.order.hole is None
    desk.order.head(12)
    assert desk.order.wanted() == [(11, 12)]
