import numpy as np
import pytest

from ml_core.data_processor.features import FeaturePlan, FeatureState, step
from ml_core.errors import SchemaMismatchError
from ml_core.types import SymbolTable
from tests.unit.ml_core.data_processor.market import batch, pipeline, trade

PLAN = FeaturePlan.from_spec(pipeline())


def filled(symbols: int) -> FeatureState:
    table = SymbolTable()
    state = FeatureState(PLAN, table)
    step(batch([trade(i / 100, 1 + i, symbol=f"S{i}") for i in range(symbols)], table), state)
    return state


def test_state_grows_with_the_symbol_table_and_keeps_what_it_has() -> None:
    state = filled(70)
    before = dict(state.dump(dirty_only=False))
    for i in range(1000):
        state.symbols.add(f"NEW{i}")
    after = dict(state.dump(dirty_only=False))
    assert len(after) == 17
    assert after[0] == before[0]


def test_only_blocks_that_ticks_touched_are_dirty() -> None:
    state = filled(200)
    assert [block for block, _ in state.dump()] == [0, 1, 2, 3]
    state.mark_clean()
    step(batch([trade(9, 1, symbol="S130")], state.symbols), state)
    assert [block for block, _ in state.dump()] == [2]


def test_names_that_have_no_ticks_yet_are_dumped_so_that_no_place_is_left_open() -> None:
    table = SymbolTable()
    state = FeatureState(PLAN, table)
    step(batch([trade(0, 1, symbol="A")], table), state)
    state.mark_clean()
    for i in range(100):
        table.add(f"S{i}")
    step(batch([trade(1, 1, symbol="S99")], table), state)
    assert [block for block, _ in state.dump()] == [0, 1]


def test_a_loaded_block_is_the_dumped_one_to_the_bit() -> None:
    state, other = filled(100), FeatureState(PLAN, SymbolTable())
    for block, data in state.dump():
        other.load(block, data)
    assert other.symbols.names == state.symbols.names
    assert other.dump(dirty_only=False) == state.dump(dirty_only=False)


def test_a_loaded_block_is_dirty_only_where_the_table_has_more_symbols_of_it() -> None:
    loaded = filled(70).dump()
    for known, dirty in ((70, []), (80, [1]), (130, [1, 2])):
        other = FeatureState(PLAN, SymbolTable([f"S{i}" for i in range(known)]))
        for block, data in loaded:
            other.load(block, data)
        assert [block for block, _ in other.dump()] == dirty


def test_blocks_of_another_plan_are_refused() -> None:
    [(block, data)] = filled(3).dump()
    other = FeatureState(FeaturePlan.from_spec(pipeline(["return:1s"])), SymbolTable())
    with pytest.raises(SchemaMismatchError, match="schema"):
        other.load(block, data)


@pytest.mark.parametrize("wrong", [b"", b"x" * 10, b"TWXX"])
def test_bytes_that_are_no_block_are_refused(wrong: bytes) -> None:
    [(block, data)] = filled(3).dump()
    with pytest.raises(SchemaMismatchError):
        FeatureState(PLAN, SymbolTable()).load(block, wrong + data[len(wrong) :] if len(wrong) == 4 else wrong)


def test_a_block_that_was_cut_or_padded_is_refused() -> None:
    [(block, data)] = filled(3).dump()
    for wrong in (data[:-1], data[:50], data + b"\0"):
        with pytest.raises(SchemaMismatchError):
            FeatureState(PLAN, SymbolTable()).load(block, wrong)


def test_a_block_under_another_number_or_out_of_order_is_refused() -> None:
    blocks = dict(filled(100).dump())
    with pytest.raises(SchemaMismatchError, match="block"):
        FeatureState(PLAN, SymbolTable()).load(1, blocks[0])
    with pytest.raises(SchemaMismatchError, match="nothing"):
        FeatureState(PLAN, SymbolTable()).load(1, blocks[1])


def test_a_table_that_numbers_symbols_otherwise_is_refused() -> None:
    [(block, data)] = filled(3).dump()
    with pytest.raises(SchemaMismatchError, match="'OTHER'"):
        FeatureState(PLAN, SymbolTable(["OTHER"])).load(block, data)


def test_state_of_a_symbol_is_about_a_kilobyte() -> None:
    assert 8 * (PLAN.floats + PLAN.ints) < 2048


def test_state_holds_no_reference_to_the_ticks_it_saw() -> None:
    table = SymbolTable()
    state = FeatureState(PLAN, table)
    ticks = batch([trade(0, 1)], table)
    made = step(ticks, state)
    ticks.ts_ns_N[:] = 0
    assert made.ts_ns_N[0] != 0
    assert np.isfinite(made.mid_N[0])
