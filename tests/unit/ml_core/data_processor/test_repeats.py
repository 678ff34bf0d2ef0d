"""Ticks that come again are known by their numbers, whatever a venue does with these."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.data_processor.features import FeaturePlan, FeatureState, step
from ml_core.types import SymbolTable, TickKind
from tests.unit.ml_core.data_processor import bar_lab
from tests.unit.ml_core.data_processor.market import Tick, batch, cut, pipeline, quote, rows, trade
from tests.unit.ml_core.data_processor.repeat_oracle import Numbers

USE = ["signed_volume:10s"]
WILD = 10**18
DAY_S = 86_400.0


def trades(seqs: list[int], *, start_s: float = 0.0) -> list[Tick]:
    """Trades a tenth of a second apart; one that comes again has its time."""
    first = {seq: i for i, seq in reversed(list(enumerate(seqs))) if seq >= 0}
    return [trade(start_s + 0.1 * first.get(seq, i), 100, seq=seq) for i, seq in enumerate(seqs)]


def repeated(ticks: list[Tick]) -> list[int]:
    """Return the places of the ticks that make no row."""
    with_row = set(rows(ticks, USE).offset_N.tolist())
    return [i for i in range(len(ticks)) if i not in with_row]


def not_in_bars(ticks: list[Tick]) -> list[int]:
    """Return the places of the trades that are in no bar, where no time is far off."""
    in_bar = {bar.cause for bar in bar_lab.bars(ticks, bar_lab.pipeline("ticks:1", lateness="60s"))}
    return [i for i, tick in enumerate(ticks) if tick.kind == TickKind.TRADE and i not in in_bar]


OLD = range(900, 1000)
# seqs; places of those that are repeats
CASES = {
    "a new numbering, from its first tick on": ([*OLD, 1, 1, 2, 3, 2], [101, 104]),
    "a new numbering in force": ([*OLD, *range(1, 30), 29, 5], [129, 130]),
    "a new numbering that begins behind a gap": ([*OLD, 300, 500, 700, 700, 500], [103]),
    "stragglers of the old numbering between": ([*OLD, 1, 990, 2, 1000, 3, 999, 1, 1000], [101, 105, 106, 107]),
    "stragglers of the old numbering behind": ([*OLD, *range(1, 30), 999, 1000, 30, 1000, 29], [129, 132, 133]),
    "the old numbering goes on far ahead": ([*OLD, *range(1, 30), 1100, 30, 29, 1100], [131, 132]),
    "one wild number": ([*OLD, WILD, 1000, 999, WILD, 990, 1001, 1000], [102, 103, 104, 106]),
    "a second wild number": ([*OLD, WILD, 1000, 2 * WILD, 1001, 990, 2 * WILD], [104, 105]),
    "long behind a wild number": ([*OLD, WILD, *range(1000, 1050), 1049, 1000, WILD], [151, 152, 153]),
    "a wild number at first": ([WILD, 1, 2, 1, WILD, *range(3, 20), 3], [3, 4, 22]),
    "one low number": ([*OLD, 3, 999, 1000, 3, 1000], [101, 103, 104]),
    "two low numbers": ([*OLD, 3, 300, 999, 1000, 300, 3, 990], [102, 104, 106]),
    "numbers of a whole venue": ([100, 1300, 2700, 1300, 5500, 9100, 9100], [3, 6]),
    "no numbers between": ([7, -1, -1, 7, -1], [3]),
    "zero": ([0, 0, 1, 0], [1, 3]),
    "the largest number": ([5, 2**63 - 1, 2**63 - 1, 5, 6, 2**63 - 2], [2, 3]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_a_repeat(case: str) -> None:
    seqs, expected = CASES[case]

    assert repeated(trades(seqs)) == not_in_bars(trades(seqs)) == expected


def test_a_venue_that_numbers_from_one_each_day_loses_no_tick_and_repeats_none() -> None:
    ticks: list[Tick] = []
    expected: list[int] = []
    # yesterday's highest numbers come again in the middle of the day, and are no repeats
    for day, last in enumerate((200, 150, 100, 300)):
        seqs = [seq for n in range(1, last + 1) for seq in ((n, n - 3, n) if n > 3 and n % 5 == 0 else (n,))]
        expected += [len(ticks) + i for i, seq in enumerate(seqs) if seq in seqs[:i]]
        ticks += trades(seqs, start_s=day * DAY_S)

    assert repeated(ticks) == expected


@pytest.mark.parametrize("price", ["trade", "mid"])
def test_the_bars_of_a_new_day_count_no_tick_twice(price) -> None:
    days = [trades([n for n in range(1, 101) for _ in range(2)], start_s=day * DAY_S) for day in range(3)]
    ticks = [tick if price == "trade" else quote(tick.at_s, 99, 101, seq=tick.seq) for day in days for tick in day]

    made = bar_lab.bars(ticks, bar_lab.pipeline("time:86400s", "ticks:100", price=price))

    assert [bar.ticks for bar in made if bar.kind == "ticks:100"] == [100] * 3
    assert [bar.ticks for bar in made if bar.kind != "ticks:100" and bar.revision == 0] == [100] * 2


def test_a_number_in_force_is_a_repeat_also_with_another_time() -> None:
    again = [tick._replace(at_s=100 + i) for i, tick in enumerate(trades([*range(940, 1000)]))]

    assert repeated([*trades([*range(940, 1000)]), *again]) == [*range(60, 120)]


def test_what_is_sent_again_from_far_back_is_known_where_the_numbers_are() -> None:
    sent = trades([*range(800, 1001)])
    ticks = [*sent, *sent[50:], *trades([1001, 1002], start_s=30)]

    # 850 to 936 are too old to be known
    assert repeated(ticks) == [*range(201 + 87, 201 + 151)]


def test_numberings_are_those_of_a_symbol_and_a_kind() -> None:
    others = [quote(0.1 * i, 99, 101, seq=i) for i in range(40)]
    others += [trade(0.1 * i, 100, seq=i, symbol="B") for i in range(40)]
    ours = trades([*range(900, 1000), *range(1, 40), 999, 39])

    assert repeated([*ours[:100], *others, *ours[100:]]) == [100 + 80 + 39, 100 + 80 + 40]


@st.composite
def numbered(draw: st.DrawFn) -> list[Tick]:
    """Draw ticks of two symbols and both kinds, whose numbers go on, begin anew, leap, come again or are wild."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ticks, last, at_s = [], {}, 0.0
    for _ in range(draw(st.integers(1, 250))):
        key = "AB"[rng.integers(2)], TickKind(int(rng.integers(2)))
        past = last.setdefault(key, [int(rng.integers(0, 300))])
        how, near = rng.random(), int(rng.integers(1, 90))
        if how < 0.55:
            seq = past[-1] + 1
        elif how < 0.75:
            seq = past[-min(near, len(past))]
        elif how < 0.85:
            seq = max(past[-1] + int(rng.choice([-1, 1])) * near, 0)
        else:
            seq = int(rng.choice([-1, 0, 1, 150, 300, 1000, WILD]))
        past.append(max(seq, 0))
        at_s += float(rng.choice([-0.3, 0.0, 0.1, 0.2]))
        more = {"symbol": key[0], "seq": seq}
        ticks.append(trade(at_s, 100, **more) if key[1] == TickKind.TRADE else quote(at_s, 99, 101, **more))
    return ticks


@given(numbered())
def test_repeats_are_those_of_the_rules(ticks) -> None:
    numbers: dict[tuple[str, TickKind], Numbers] = {}
    clock_ns: dict[str, int] = {}
    expected = []
    for i, tick in enumerate(ticks):
        of_kind = numbers.setdefault((tick.symbol, tick.kind), Numbers())
        if of_kind.is_repeat(tick.seq, is_later=tick.ts_ns > clock_ns.get(tick.symbol, 0)):
            expected.append(i)
        else:
            clock_ns[tick.symbol] = max(clock_ns.get(tick.symbol, 0), tick.ts_ns)

    assert repeated(ticks) == expected
    assert not_in_bars(ticks) == [i for i in expected if ticks[i].kind == TickKind.TRADE]


@given(numbered(), st.integers(0, 250))
def test_what_was_seen_is_in_the_state(ticks, at) -> None:
    plan, symbols = FeaturePlan.from_spec(pipeline(USE)), SymbolTable()
    first, second = cut(batch(ticks, symbols), [at])
    state = FeatureState(plan, symbols)
    made = step(first, state).offset_N.tolist()
    restored = FeatureState(plan, SymbolTable())
    for block, data in state.dump(dirty_only=False):
        restored.load(block, data)

    assert [*made, *step(second, restored).offset_N.tolist()] == rows(ticks, USE).offset_N.tolist()


@given(st.integers(0, 2**32))
def test_wrong_numbers_here_and_there_cost_no_tick_and_hide_no_repeat(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seqs, expected = [], []
    for seq in range(1000, 1150):
        seqs.append(seq)
        if rng.random() < 0.3:
            expected.append(len(seqs))
            seqs.append(int(rng.integers(max(seq - 20, 1000), seq + 1)))
        if seq % 10 == 0 and rng.random() < 0.5:  # far from each other, too
            seqs.append(int(rng.choice([seq - 900, seq + 1000 * seq, WILD + 1000 * seq])))

    assert repeated(trades(seqs)) == expected
