import numpy as np
import pytest

from data_io.data_fetcher.sources import open_source
from data_io.topics import ticks
from data_io.topics.records import Records
from ml_core.data_processor import bars, features
from ml_core.data_processor.bars import BarPlan
from ml_core.data_processor.blocks import BLOCK
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import SchemaMismatchError
from ml_core.spec import parse
from ml_core.types import SECOND_NS, RowFlag
from streams.agents import scoring
from streams.partition_state import MAX_MARKS, LabelledRows, PartitionState
from tests.agents.in_memory import quote

PARTS = {"label": {"delay": "0ms", "horizons": ["1s"]}}
SHORT = parse({"name": "short", "features": {"window": 3}, **PARTS})
LONG = parse({"name": "long", "features": {"window": 8}, **PARTS})


def state_of(*pipelines) -> PartitionState:
    return PartitionState({"basic": (FeaturePlan.from_spec(pipelines[0]), pipelines)}, {})


def published(count: int = 3000) -> Records:
    """The records that a publisher would write for a market of more symbols than one block holds."""
    found = []
    for batch in open_source(f"synthetic:symbols=150,ticks={count},rate=2000,seed=5").stream():
        found += ticks.encode(batch)
    return Records(list(range(len(found))), *map(list, zip(*found, strict=True)), [()] * len(found))


def move(state: PartitionState, records: Records, part: slice):
    decoded, _ = ticks.TickDecoder().decode(Records(*(column[part] for column in records)), state.symbols)
    made = features.step(decoded, state.sets["basic"].features)
    return made, scoring.windows(made, state.sets["basic"])


@pytest.fixture
def records() -> Records:
    return published()


def test_state_that_was_dumped_and_loaded_goes_on_bit_for_bit(records) -> None:
    original, restored = state_of(SHORT, LONG), state_of(SHORT, LONG)
    log: dict[bytes, bytes] = {}
    for start in range(0, 2000, 500):  # each checkpoint writes what changed; the newest block of a key counts
        move(original, records, slice(start, start + 500))
        log.update(original.dump())

    assert restored.load(log.items()) == set()
    (rows, windows), (rows_again, windows_again) = (
        move(state, records, slice(2000, None)) for state in (original, restored)
    )

    assert rows_again.x_NF.tobytes() == rows.x_NF.tobytes()
    assert rows_again.flags_N.tobytes() == rows.flags_N.tobytes()
    for window, (x_NTF, ready_N) in windows.items():
        assert windows_again[window][0].tobytes() == x_NTF.tobytes()
        assert np.array_equal(windows_again[window][1], ready_N)
    assert restored.symbols.names == original.symbols.names


def test_a_second_dump_without_ticks_writes_nothing(records) -> None:
    state = state_of(SHORT)
    move(state, records, slice(0, 500))

    assert state.dump() != []
    assert state.dump() == []


def test_a_state_that_was_loaded_writes_only_what_has_changed_since(records) -> None:
    original, restored = state_of(with_bars(), LONG), state_of(with_bars(), LONG)
    move(original, records, slice(0, 2900))
    move_bars(original, records, slice(0, 2900))
    blocks = dict(original.dump())
    assert {key.decode().split("/")[1] for key in blocks} == {"features", "bars", "window-8"}

    restored.load(blocks.items())
    assert restored.dump() == []

    decoded, _ = ticks.TickDecoder().decode(Records(*(column[2900:2903] for column in records)), restored.symbols)
    features.step(decoded, restored.sets["basic"].features)
    assert {key for key, _ in restored.dump()} == {f"basic/features/{n}".encode() for n in decoded.symbol_N // BLOCK}


def test_blocks_of_a_window_that_is_not_used_any_more_are_named_so_that_they_can_be_deleted(records) -> None:
    before, after = state_of(SHORT, LONG), state_of(SHORT)
    move(before, records, slice(0, 1000))
    blocks = dict(before.dump())

    assert after.load(blocks.items()) == {key for key in blocks if b"/window-8/" in key} != set()


def test_blocks_left_by_a_longer_list_of_symbols_do_not_fit(records) -> None:
    longer, shorter, restored = state_of(SHORT), state_of(SHORT), state_of(SHORT)
    move(longer, records, slice(0, 3000))
    move(shorter, records, slice(0, 20))

    with pytest.raises(SchemaMismatchError):
        restored.load({**dict(longer.dump()), **dict(shorter.dump())}.items())


def test_other_symbols_are_another_kernel() -> None:
    def kernels(symbols):
        return state_of(parse({"name": "p", "source": {"symbols": symbols}, **PARTS})).kernels

    assert kernels(["A", "B"]) == kernels(["B", "A"])
    assert kernels(["A", "B"]) != kernels(["A"])
    plain = FeaturePlan.from_spec(SHORT).hash
    assert state_of(SHORT).kernels == {"basic": plain, "basic/window-3": plain}
    assert state_of(SHORT, LONG).kernels == {"basic": plain, "basic/window-3": plain, "basic/window-8": plain}


def with_bars(**source):
    return parse({"name": "short", "bars": {"by": ["time:1s", "ticks:9"]}, "source": source, **PARTS})


def move_bars(state: PartitionState, records: Records, part: slice):
    decoded, _ = ticks.TickDecoder().decode(Records(*(column[part] for column in records)), state.symbols)
    made = bars.step(decoded, state.sets["basic"].bars)
    return [column.tobytes() for column in made[:-4]]


def test_bars_that_were_dumped_and_loaded_go_on_bit_for_bit(records) -> None:
    original, restored = state_of(with_bars()), state_of(with_bars())
    log: dict[bytes, bytes] = {}
    for start in range(0, 2000, 500):
        move_bars(original, records, slice(start, start + 500))
        log.update(original.dump())

    assert restored.load(log.items()) == set()
    assert any(b"/bars/" in key for key in log)
    assert move_bars(restored, records, slice(2000, None)) == move_bars(original, records, slice(2000, None))


def test_other_bars_are_another_kernel_and_none_leave_the_digests_as_they_were(records) -> None:
    plain = FeaturePlan.from_spec(SHORT).hash
    assert state_of(with_bars()).kernels == {"basic": plain, "basic/bars": BarPlan.from_spec(with_bars()).hash}
    assert state_of(with_bars()).kernels != state_of(with_bars(lateness="1s")).kernels

    before, after = state_of(with_bars()), state_of(SHORT)
    move_bars(before, records, slice(0, 500))
    blocks = dict(before.dump())

    assert after.load(blocks.items()) == {key for key in blocks if b"/bars/" in key} != set()


class Rows:
    """As much of a batch of rows of one symbol, of a table of some, as counting looks at."""

    def __init__(self, *seconds: float, flags: int = 0, symbol: int = 0, symbols: int = 1) -> None:
        self.ts_ns_N = np.array([round(second * SECOND_NS) for second in seconds], np.int64)
        self.flags_N = np.full(len(seconds), flags, np.uint8)
        self.symbol_N = np.full(len(seconds), symbol, np.int32)
        self.symbols = [f"S{number}" for number in range(symbols)]

    def __len__(self) -> int:
        return len(self.ts_ns_N)


def counter(look_ahead_ns: int = SECOND_NS, matured: int = 0) -> LabelledRows:
    """One that knows a symbol."""
    labelled = LabelledRows(look_ahead_ns, matured)
    labelled.observe(Rows())
    return labelled


def test_rows_are_counted_once_the_clock_has_passed_their_horizon() -> None:
    labelled = counter(matured=10)
    labelled.observe(Rows(1.0, 1.5))
    labelled.observe(Rows(2.0))
    assert labelled.matured == 10

    labelled.observe(Rows(2.5))
    assert labelled.matured == 12

    labelled.observe(Rows())
    labelled.observe(Rows(9.0))
    assert labelled.matured == 14


@pytest.mark.parametrize("flag", ["AHEAD", "GAP", "WARM_UP", "LATE", "NO_CALENDAR"])
def test_a_row_whose_time_is_not_sure_counts_and_leaves_the_clock(flag: str) -> None:
    labelled = counter()
    labelled.observe(Rows(1.0))
    labelled.observe(Rows(3600.0, flags=RowFlag[flag]))
    assert labelled.matured == 0

    labelled.observe(Rows(2.0))
    assert labelled.matured == 1
    labelled.observe(Rows(3.0))
    assert labelled.matured == 3


def test_the_first_time_of_a_symbol_leaves_the_clock() -> None:
    labelled = counter()
    labelled.observe(Rows(1.0))
    labelled.observe(Rows(3600.0, symbol=1, symbols=2))
    assert labelled.matured == 0

    labelled.observe(Rows(2.0, symbols=2))
    labelled.observe(Rows(3.0, symbols=2))
    assert labelled.matured == 3


def test_a_state_that_starts_empty_takes_every_symbol_for_new() -> None:
    state = state_of(SHORT)
    state.labelled["short"] = counter()
    state.labelled["short"].observe(Rows(1.0))

    labelled = state.emptied().labelled["short"]

    labelled.observe(Rows(3600.0))
    assert labelled.matured == 0
    labelled.observe(Rows(2.0))
    labelled.observe(Rows(3.0))
    assert labelled.matured == 3


def test_a_symbol_that_stays_far_ahead_stops_no_counting() -> None:
    labelled = counter()
    labelled.observe(Rows(symbols=2))
    for second in range(1, 100):
        labelled.observe(Rows(second, second, symbols=2))
        labelled.observe(Rows(1e9 + second, symbol=1, symbols=2))
        assert labelled.matured == 3 * second - 1

    for second in range(100, 110):
        labelled.observe(Rows(second, second, symbols=2))
    assert labelled.matured == 3 * 99 + 2 * 9


def test_waiting_marks_are_bounded_and_no_row_is_lost() -> None:
    labelled = counter(10**9 * SECOND_NS)
    for second in range(MAX_MARKS + 100):
        labelled.observe(Rows(second))
    assert len(labelled._pending) == MAX_MARKS

    labelled.observe(Rows(2e9))
    labelled.observe(Rows(4e9))

    assert labelled.matured == MAX_MARKS + 101


@pytest.mark.parametrize("use", [["relative_spread"], ["return:1s"]])
def test_one_wrong_stamp_of_a_new_symbol_has_no_row_counted_too_early_and_none_forgotten(use: list[str]) -> None:
    spec = parse({"name": "p", "features": {"use": use}, **PARTS})
    far_ns, state = 3_786_912_000 * SECOND_NS, state_of(spec)  # the year 2090

    def move_on(*records: bytes) -> int:
        count = len(records)
        decoded, _ = ticks.TickDecoder().decode(
            Records(list(range(count)), [None] * count, list(records), [()] * count), state.symbols
        )
        state.labelled["p"].observe(features.step(decoded, state.sets["basic"].features))
        return state.labelled["p"].matured

    times_ns = [(1_700_000_000 + second) * SECOND_NS for second in range(100)]
    for ts_ns in times_ns[:50]:
        before = move_on(quote(ts_ns))
    assert before == 49  # the last one waits for its label
    assert move_on(quote(far_ns, "NEW")) == before
    for ts_ns in times_ns[50:]:
        after = move_on(quote(ts_ns), quote(ts_ns, "NEW"))
    assert after == 49 + 1 + 1 + 2 * 49
