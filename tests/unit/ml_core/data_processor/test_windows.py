import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.data_processor.windows import Tail, link
from ml_core.errors import SchemaMismatchError
from ml_core.types import RowBatch, RowFlag

STARTS_ANEW = RowFlag.WARM_UP | RowFlag.GAP
flag = st.sampled_from(
    [0, 0, 0, 0, RowFlag.LATE, RowFlag.AHEAD, RowFlag.STALE, RowFlag.GAP, RowFlag.GAP | RowFlag.LATE]
)
rows_drawn = st.lists(st.tuples(st.integers(0, 3), flag), max_size=60)


def by_hand(rows: list[tuple[int, int]], window: int) -> list[list[int]]:
    windows, whole = [], {}
    for n, (symbol, flags) in enumerate(rows):
        before = whole.setdefault(symbol, [])
        if flags & STARTS_ANEW:
            before.clear()
        if not flags:
            before.append(n)
        windows.append(before[-window:] if not flags and len(before) >= window else [-1] * window)
    return windows


def made(rows: list[tuple[int, int]], names: list[str], features: int = 2) -> RowBatch:
    n = len(rows)
    symbol_N = np.array([symbol for symbol, _ in rows], dtype=np.int32)
    x_NF = np.arange(n * features, dtype=np.float32).reshape(n, features)
    zero_N = np.zeros(n, dtype=np.int64)
    flags_N = np.array([flags for _, flags in rows], dtype=np.uint8)
    return RowBatch(zero_N, zero_N.astype(np.int32), symbol_N, zero_N, zero_N * 1.0, zero_N * 1.0, x_NF, flags_N, names)


def part(rows: RowBatch, first: int, last: int) -> RowBatch:
    return RowBatch(*(column[first:last] for column in rows[:-1]), symbols=rows.symbols)


def test_a_window_holds_whole_rows_of_its_symbol_and_starts_anew_at_a_gap() -> None:
    # row       0  1  2  3  4     5     6    7  8
    # symbol    A  B  A  A  A     A     A    A  A
    # flags              .  LATE  .     GAP
    flags = [0, 0, 0, 0, RowFlag.LATE, 0, RowFlag.GAP, 0, 0]
    symbols = [0, 1, 0, 0, 0, 0, 0, 0, 0]
    idx_NT = link(np.array(symbols, np.int32), np.array(flags, np.uint8), 2)
    no = [-1, -1]
    assert idx_NT.tolist() == [no, no, [0, 2], [2, 3], no, [3, 5], no, no, [7, 8]]


def test_a_window_passes_over_a_row_that_is_ahead_and_starts_anew_where_it_was_right() -> None:
    # a wrong stamp costs one row; after a silence the row behind it says GAP
    flags = [0, 0, RowFlag.AHEAD, 0, RowFlag.AHEAD, RowFlag.GAP, 0, 0]
    idx_NT = link(np.zeros(8, np.int32), np.array(flags, np.uint8), 2)
    no = [-1, -1]
    assert idx_NT.tolist() == [no, [0, 1], no, [1, 3], no, no, no, [6, 7]]


@given(rows_drawn, st.integers(1, 5))
def test_windows_equal_those_found_row_by_row(rows: list[tuple[int, int]], window: int) -> None:
    idx_NT = link(
        np.array([symbol for symbol, _ in rows], dtype=np.int32),
        np.array([flags for _, flags in rows], dtype=np.uint8),
        window,
    )
    assert idx_NT.tolist() == by_hand(rows, window)


@given(rows_drawn, st.integers(1, 5), st.lists(st.integers(0, 60), max_size=6))
def test_live_windows_equal_those_of_the_loader(rows: list[tuple[int, int]], window: int, places: list[int]) -> None:
    columns = made(rows, ["A", "B", "C", "D"])
    idx_NT = link(columns.symbol_N, columns.flags_N, window)
    tail, bounds = Tail(window, 2), [0, *sorted(min(place, len(rows)) for place in places), len(rows)]
    parts = [tail.windows(part(columns, a, b)) for a, b in itertools.pairwise(bounds)]
    ready_N = np.concatenate([ready for _, ready in parts])
    assert ready_N.tolist() == (idx_NT[:, 0] >= 0).tolist()
    x_NTF = np.concatenate([x for x, _ in parts])
    assert x_NTF[ready_N].tobytes() == columns.x_NF[idx_NT[ready_N]].tobytes()
    assert np.isnan(x_NTF[~ready_N]).all()


def test_a_tail_takes_symbols_as_its_table_grows() -> None:
    names = ["A"]
    tail = Tail(2, 2)
    tail.windows(made([(0, 0)], names))
    names += [f"S{i}" for i in range(200)]
    _, ready_N = tail.windows(made([(0, 0), (150, 0), (150, 0)], names))
    assert ready_N.tolist() == [True, False, True]


def test_a_tail_refuses_rows_that_number_symbols_otherwise() -> None:
    tail = Tail(2, 2)
    tail.windows(made([(0, 0)], ["A"]))
    with pytest.raises(SchemaMismatchError, match="another"):
        tail.windows(made([(0, 0)], ["B"]))


def test_a_dumped_tail_goes_on_where_it_was() -> None:
    names = [f"S{i}" for i in range(100)]
    tail, other = Tail(3, 2), Tail(3, 2)
    tail.windows(made([(70, 0), (70, 0), (1, 0)], names))
    for block, data in tail.dump():
        other.load(block, data)
    assert other.dump() == []
    following = made([(70, 0), (1, 0)], names)
    x_NTF, ready_N = tail.windows(following)
    again_x_NTF, again_ready_N = other.windows(following)
    assert ready_N.tolist() == again_ready_N.tolist() == [True, False]
    assert x_NTF.tobytes() == again_x_NTF.tobytes()


def test_a_tail_of_another_shape_or_out_of_order_is_refused() -> None:
    names = [f"S{i}" for i in range(100)]
    tail = Tail(3, 2)
    tail.windows(made([(70, 0)], names))
    blocks = dict(tail.dump())
    with pytest.raises(SchemaMismatchError, match="schema"):
        Tail(4, 2).load(0, blocks[0])
    with pytest.raises(SchemaMismatchError, match="before block 0"):
        Tail(3, 2).load(1, blocks[1])
