"""A replay is equal: batch cuts, other symbols, checkpoints and what comes later change no bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.data_processor.catalogue import CATALOGUE
from ml_core.data_processor.cleaning import select
from ml_core.data_processor.features import FeaturePlan, FeatureState, step
from ml_core.data_processor.windows import Tail
from ml_core.types import SymbolTable
from tests.unit.ml_core.data_processor.market import Tick, batch, cut, joined, markets, pipeline

PLAN = FeaturePlan.from_spec(pipeline(list(CATALOGUE)))
cuts = st.lists(st.integers(0, 120), max_size=8) | st.just(list(range(121)))  # or tick by tick


@settings(deadline=None, max_examples=60)
@given(markets(), cuts)
def test_where_batches_are_cut_makes_no_difference(ticks: list[Tick], places: list[int]) -> None:
    symbols = SymbolTable()
    columns = batch(ticks, symbols)
    whole = step(columns, FeatureState(PLAN, symbols))
    state = FeatureState(PLAN, symbols)
    assert joined([step(part, state) for part in cut(columns, places)]) == joined([whole])


@settings(deadline=None, max_examples=30)
@given(markets())
def test_other_symbols_make_no_difference(ticks: list[Tick]) -> None:
    symbols = SymbolTable()
    whole = step(batch(ticks, symbols), FeatureState(PLAN, symbols))
    for name in symbols.names:
        alone = SymbolTable()
        made = step(batch([tick for tick in ticks if tick.symbol == name], alone), FeatureState(PLAN, alone))
        assert made.x_NF.tobytes() == whole.x_NF[whole.symbol_N == symbols.index[name]].tobytes()
        assert made.flags_N.tobytes() == whole.flags_N[whole.symbol_N == symbols.index[name]].tobytes()


@settings(deadline=None, max_examples=30)
@given(markets(), st.integers(0, 120))
def test_rows_do_not_change_by_what_comes_after_them(ticks: list[Tick], place: int) -> None:
    symbols = SymbolTable()
    columns = batch(ticks, symbols)
    whole = step(columns, FeatureState(PLAN, symbols))
    early = step(select(columns, slice(0, place)), FeatureState(PLAN, symbols))
    assert early.x_NF.tobytes() == whole.x_NF[: len(early)].tobytes()


@settings(deadline=None, max_examples=30)
@given(markets(symbols=5), cuts, st.integers(1, 4))
def test_a_state_that_was_dumped_and_loaded_goes_on_alike(ticks: list[Tick], places: list[int], window: int) -> None:
    # every checkpoint dumps dirty blocks alone; the newest of each block make the state of a new process
    symbols = SymbolTable()
    columns = batch(ticks, symbols)
    plain, tail = FeatureState(PLAN, symbols), Tail(window, len(PLAN.names))
    blocks: dict[tuple[str, int], bytes] = {}
    restored, restored_tail = FeatureState(PLAN, SymbolTable()), Tail(window, len(PLAN.names))
    for part in cut(columns, places):
        made = step(part, plain)
        x_NTF, ready_N = tail.windows(made)
        again = step(_renumbered(part, restored.symbols), restored)
        assert joined([again])["x_NF"] == joined([made])["x_NF"]
        again_x_NTF, again_ready_N = restored_tail.windows(again)
        assert again_x_NTF.tobytes() == x_NTF.tobytes()
        assert again_ready_N.tobytes() == ready_N.tobytes()

        for name, owner in (("state", restored), ("tail", restored_tail)):
            blocks |= {(name, block): data for block, data in owner.dump()}
            owner.mark_clean()
            assert owner.dump() == []
        restored, restored_tail = FeatureState(PLAN, SymbolTable()), Tail(window, len(PLAN.names))
        for (name, block), data in sorted(blocks.items()):
            (restored if name == "state" else restored_tail).load(block, data)


def _renumbered(part: object, symbols: SymbolTable) -> object:
    own = np.array([symbols.add(part.symbols[s]) for s in part.symbol_N], dtype=np.int32)
    return type(part)(**{**part._asdict(), "symbol_N": own, "symbols": symbols.names})
