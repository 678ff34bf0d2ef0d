import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core import frames
from ml_core.errors import SchemaMismatchError
from ml_core.types import SymbolTable, TickBatch, TickKind


def two_ticks() -> pd.DataFrame:
    return frames.build(
        ts_ns=np.array([10, 20]),
        symbol=frames.category(np.array([1, 0]), ["UNUSED-FIRST", "BTC", "NEVER"]),
        kind=np.array([TickKind.TRADE, TickKind.QUOTE], dtype=np.int8),
        price=np.array([5.0, np.nan]),
        size=np.array([1.0, np.nan]),
        bid=np.array([np.nan, 4.0]),
        ask=np.array([np.nan, 6.0]),
        side=np.array([1, 0]),
    )


def test_a_built_frame_has_every_column_and_says_not_applicable_where_nothing_was_given() -> None:
    frame = two_ticks()

    frames.check(frame)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == frames.TICK_COLUMNS
    assert frame["type"].tolist() == ["trade", "quote"]
    assert frame["seq"].tolist() == [-1, -1]
    assert frame["bid_size"].isna().all()


def test_building_with_an_unknown_column_names_the_nearest() -> None:
    with pytest.raises(SchemaMismatchError, match="'bid_sise'; did you mean 'bid_size'"):
        frames.build(ts_ns=np.array([1]), symbol=pd.Categorical(["A"]), kind=TickKind.QUOTE, bid_sise=1.0)


def test_only_symbols_that_occur_join_the_table_in_the_order_they_are_seen() -> None:
    table = SymbolTable(["ETH"])

    batch = frames.to_batch(two_ticks(), table)

    assert table.names == ["ETH", "BTC", "UNUSED-FIRST"]
    assert batch.symbol_N.tolist() == [1, 2]
    assert batch.symbols is table.names


def test_ticks_are_named_by_their_offsets_or_else_by_their_rows() -> None:
    frame = two_ticks()
    assert frames.to_batch(frame).offset_N.tolist() == [0, 1]

    frame["offset"] = np.array([70, 71], dtype=np.int64)
    frame["index"] = np.array([0, 3], dtype=np.int32)
    batch = frames.to_batch(frame)
    assert (batch.offset_N.tolist(), batch.index_N.tolist()) == ([70, 71], [0, 3])


def test_an_empty_frame_makes_an_empty_batch_and_back() -> None:
    batch = frames.to_batch(frames.empty())

    assert len(batch) == 0
    frames.check(frames.to_frame(batch))


def test_a_full_symbol_table_is_an_error_that_names_the_symbol() -> None:
    with pytest.raises(SchemaMismatchError, match="'UNUSED-FIRST' has no place"):
        frames.to_batch(two_ticks(), SymbolTable(limit=1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.rename(columns={"size": "siez"}), "no column 'size'; did you mean 'siez'"),
        (lambda f: f.drop(columns=["price", "seq"]), "no column 'price'.*no column 'seq'"),
        (lambda f: f.astype({"ts_ns": "float64"}), "'ts_ns' is float64, not int64"),
        (lambda f: f.astype({"symbol": "str"}), "'symbol' is str, not category"),
        (lambda f: f.assign(type=pd.Categorical(["quote", "quote"])), r"categories of 'type' are \['quote'\]"),
        (lambda f: f.assign(symbol=pd.Categorical(["A", None])), "'symbol' is empty in 1 of 2 rows"),
        (lambda f: f.assign(offset=[1.0, 2.0]), "'offset' is float64, not int64"),
    ],
)  # fmt: skip
def test_a_wrong_frame_is_refused_with_the_columns_named(damage, message: str) -> None:
    with pytest.raises(SchemaMismatchError, match=message):
        frames.to_batch(damage(two_ticks()))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**62), st.sampled_from(["A", "B", "ü/€"]), st.sampled_from(TickKind), st.floats(width=64),
            st.sampled_from([-1, 0, 1]), st.integers(-1, 2**63 - 1),
        )
    )
)  # fmt: skip
def test_columns_survive_the_way_through_a_frame_and_back(ticks: list[tuple]) -> None:
    ts, symbol, kind, value, side, seq = zip(*ticks, strict=True) if ticks else ([],) * 6
    table = SymbolTable()
    value_N = np.array(value, dtype=np.float64)
    batch = TickBatch(
        offset_N=np.arange(len(ts), dtype=np.int64), index_N=np.zeros(len(ts), dtype=np.int32),
        kind_N=np.array(kind, dtype=np.int8), symbol_N=np.array([table.add(s) for s in symbol], dtype=np.int32),
        ts_ns_N=np.array(ts, dtype=np.int64), price_N=value_N, size_N=value_N, side_N=np.array(side, dtype=np.int8),
        bid_N=value_N, ask_N=value_N, bid_size_N=value_N, ask_size_N=value_N, seq_N=np.array(seq, dtype=np.int64),
        symbols=table.names,
    )  # fmt: skip

    back = frames.to_batch(frames.to_frame(batch))

    assert back.symbols == batch.symbols
    for name in TickBatch._fields[:-1]:
        given, found = getattr(batch, name), getattr(back, name)
        assert given.dtype == found.dtype
        np.testing.assert_array_equal(found, given, err_msg=name)
