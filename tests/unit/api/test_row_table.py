"""The newest row of each symbol, whatever records its rows came in."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from api.row_table import RowTable
from ml_core.data_processor.windows import link
from ml_core.types import RowBatch, RowFlag

SYMBOLS = ["A", "B", "C"]
WINDOW = 3


def rows_of(symbols, *, flags=None, start=0):
    count = len(symbols)
    return RowBatch(
        offset_N=np.arange(start, start + count),
        index_N=np.zeros(count, np.int32),
        symbol_N=np.array(symbols, np.int32),
        ts_ns_N=np.arange(start, start + count),
        mid_N=np.zeros(count),
        spread_N=np.zeros(count),
        x_NF=np.arange(start, start + count, dtype=np.float32)[:, None],
        flags_N=np.array(flags if flags is not None else [0] * count, np.uint8),
        symbols=SYMBOLS,
    )


def renumbered(rows):
    """Number the symbols as a record does, which knows its own alone."""
    used, place_N = np.unique(rows.symbol_N, return_inverse=True)
    columns = {name: getattr(rows, name) for name in RowBatch._fields}
    changed = {"symbol_N": place_N.astype(np.int32), "symbols": [rows.symbols[i] for i in used]}
    return RowBatch(**{**columns, **changed})


@given(
    stream=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([0, 0, 0, RowFlag.WARM_UP, RowFlag.GAP, RowFlag.STALE])),
        min_size=1,
        max_size=40,
    ),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    repeated=st.integers(0, 5),
)
def test_newest_rows_and_windows_are_those_of_the_whole_stream_however_it_is_cut_and_repeated(stream, cuts, repeated):
    rows = rows_of([symbol for symbol, _ in stream], flags=[flag for _, flag in stream])
    table = RowTable(0, 1, [1, WINDOW], from_start=True)
    edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})

    for low, high in pairwise(edges):
        # a worker that crashed repeats some rows that are out already
        table.take(renumbered(rows.select(slice(max(0, low - repeated), high))))

    idx_NT = link(rows.symbol_N, rows.flags_N, WINDOW)
    for number, symbol in enumerate(SYMBOLS):
        places = np.flatnonzero(rows.symbol_N == number)
        single, windowed = table.newest(symbol, 1), table.newest(symbol, WINDOW)
        if not len(places):
            assert single is windowed is None
            continue
        last = places[-1]
        assert single.row.offset_N[0] == windowed.row.offset_N[0] == last
        assert single.x_1TF.tolist() == [[[float(last)]]]
        assert windowed.ready == (idx_NT[last, 0] >= 0)
        assert windowed.sure
        if windowed.ready:
            assert windowed.x_1TF[0, :, 0].tolist() == idx_NT[last].tolist()


def test_a_short_window_is_in_doubt_only_where_earlier_rows_may_exist_unread():
    flags = [0, 0, RowFlag.WARM_UP, 0]
    table = RowTable(0, 1, [WINDOW], from_start=False)
    table.take(rows_of([0, 0, 1, 1], flags=flags))

    in_doubt, begun = table.newest("A", WINDOW), table.newest("B", WINDOW)

    assert (in_doubt.ready, in_doubt.sure) == (False, False)
    assert (begun.ready, begun.sure) == (False, True)


def test_rows_that_were_seen_are_not_taken_again():
    table = RowTable(0, 1, [WINDOW], from_start=True)

    assert table.take(rows_of([0, 1, 0])) == 3
    assert table.take(rows_of([0, 1, 0])) == 0
    assert table.take(rows_of([0, 1, 0], start=2)) == 2


def test_rows_of_one_record_of_ticks_share_an_offset_and_are_told_apart_by_index():
    rows = rows_of([0, 0, 0])
    columns = {name: getattr(rows, name) for name in RowBatch._fields}
    rows = RowBatch(**{**columns, "offset_N": np.zeros(3, np.int64), "index_N": np.arange(3, dtype=np.int32)})
    table = RowTable(0, 1, [1], from_start=True)

    assert table.take(rows.select(slice(0, 2))) == 2
    assert table.take(rows) == 1
    assert table.newest("A", 1).row.index_N[0] == 2


def test_a_held_row_keeps_no_whole_record_alive():
    table = RowTable(0, 1, [WINDOW], from_start=True)
    table.take(rows_of([0] * 100))

    newest = table.newest("A", WINDOW)

    assert newest.row.x_NF.base is None or newest.row.x_NF.base.nbytes < 100
    assert newest.x_1TF.base.nbytes == WINDOW * 4
