"""An Arrow record read as columns gives what the same record gives row by row: the same ticks and the same rejects."""

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_io.topics import tick_arrow
from data_io.topics.records import Records, Reject
from data_io.topics.ticks import TickDecoder
from ml_core.types import MAX_TS_NS, SymbolTable, TickBatch

KNOWN = ["ACME", "BRK.B"]
HEADERS = (("content-type", tick_arrow.CONTENT_TYPE.encode()),)
TICK = {"type": "trade", "symbol": "ACME", "ts": 5, "price": 10.5, "size": 2.0, "side": "buy"}


def stream(*batches: pa.RecordBatch) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=False)
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def decode(*values: bytes, limit: int = 100) -> tuple[TickBatch, list[Reject]]:
    n = len(values)
    records = Records([100 + i for i in range(n)], [None] * n, list(values), [HEADERS] * n)
    return TickDecoder().decode(records, SymbolTable(KNOWN, limit=limit))


def both(monkeypatch: pytest.MonkeyPatch, *values: bytes, limit: int = 100) -> tuple[TickBatch, list[Reject]]:
    """Return the ticks and rejects of records, after asserting that row by row they are the same."""
    ticks, rejects = decode(*values, limit=limit)
    with monkeypatch.context() as patch:
        patch.setattr(tick_arrow, "_columns", lambda _batch: None)
        by_row, rejects_by_row = decode(*values, limit=limit)
    assert rejects == rejects_by_row
    for name, a, b in zip(ticks._fields, ticks, by_row, strict=True):
        assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes()) if name != "symbols" else a == b, name
    return ticks, rejects


def is_columns(batch: pa.RecordBatch) -> bool:
    return all(isinstance(part, tick_arrow.ArrowTicks) for part in tick_arrow.read(stream(batch)))


def mostly(good: object, odd: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(*[st.just(good)] * 6, odd)


names = mostly("ACME", st.sampled_from(["BRK.B", "NEW", "Ä1", "", "A B", "x" * 65, None]))
floats = mostly(3.5, st.floats() | st.sampled_from([0.0, -1.0, 5e-324, None]))
large = mostly(
    3, st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, -1, 2**53 + 1, MAX_TS_NS, MAX_TS_NS + 1, None])
)
small = mostly(3, st.integers(-1, 2**31 - 1) | st.none())
unsigned = mostly(3, st.integers(0, 2**64 - 1) | st.none())
# The usual type first.
NUMBERS = [(pa.float64(), floats), (pa.int64(), large), (pa.uint64(), unsigned), (pa.null(), st.none())]
NUMBERS += [(pa.float32(), mostly(3.5, st.floats(width=32))), (pa.string(), st.just("1"))]
INTEGERS = [(pa.int64(), large), (pa.int32(), small), (pa.uint64(), unsigned), (pa.float64(), floats)]
COLUMNS = {
    "type": [(pa.string(), mostly("trade", mostly("quote", st.sampled_from(["order", "", None]))))],
    "symbol": [(pa.string(), names), (pa.large_string(), names), (pa.string_view(), names), (pa.int8(), st.just(1))],
    "ts": [*INTEGERS, (pa.timestamp("ns"), large), (pa.timestamp("s", "UTC"), small)],
    **dict.fromkeys(("price", "size", "bid", "ask", "bid_size", "ask_size"), NUMBERS),
    "side": [
        (pa.string(), mostly("buy", st.sampled_from(["sell", "BUY", "", None]))),
        (pa.int8(), mostly(1, st.integers(-128, 127) | st.none())),
        (pa.int64(), mostly(-1, st.integers(-(2**63), 2**63 - 1))),
        (pa.uint64(), mostly(1, st.integers(0, 2) | st.just(2**64 - 1))),
        (pa.null(), st.none()),
        (pa.bool_(), st.booleans()),
    ],
    "seq": [*INTEGERS, (pa.null(), st.none())],
    "venue": [(pa.list_(pa.int8()), st.just([1]))],
}


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    """Draw a batch; most often of the usual types."""
    rows = draw(st.integers(0, 8))
    is_odd = draw(st.booleans())
    arrays = {}
    for name, kinds in COLUMNS.items():
        kind, values = draw(st.sampled_from(kinds)) if is_odd and draw(st.integers(0, 3)) == 0 else kinds[0]
        array = pa.array([draw(values) for _ in range(rows)], kind)
        if pa.types.is_string(kind) and draw(st.booleans()):
            array = array.dictionary_encode()
        if not is_odd or draw(st.integers(0, 9)):
            arrays[name] = array
    return pa.RecordBatch.from_pydict(dict(draw(st.permutations(list(arrays.items())))))


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(batches(), min_size=1, max_size=3), limit=st.sampled_from([2, 3, 100]))
def test_columns_are_the_rows(parts: list[pa.RecordBatch], limit: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        both(monkeypatch, *map(stream, parts), limit=limit)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("symbol", pa.array(["ACME", "ACME"]).dictionary_encode()),
        ("symbol", pa.array(["ACME", "NEW"], pa.large_string())),
        ("ts", pa.array([1, 2], pa.timestamp("ms", "UTC"))),
        ("ts", pa.array([1, 2], pa.uint32())),
        ("price", pa.array([1, 2**60 + 1])),
        ("price", pa.array([0.1, 0.2], pa.float32())),
        ("side", pa.array([1, -1], pa.int8())),
        ("side", pa.nulls(2)),
        ("seq", pa.array([7, None])),
        ("seq", pa.nulls(2)),
    ],
)
def test_usual_types_are_read_as_columns(monkeypatch: pytest.MonkeyPatch, name: str, column: pa.Array) -> None:
    batch = pa.RecordBatch.from_pylist([TICK, TICK])
    batch = batch.remove_column(batch.schema.names.index(name)) if name in batch.schema.names else batch
    batch = batch.append_column(name, column)
    assert is_columns(batch)
    ticks, rejects = both(monkeypatch, stream(batch))
    assert (len(ticks), rejects) == (2, [])


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("symbol", pa.array(["ACME", "ACME"], pa.string_view())),
        ("symbol", pa.DictionaryArray.from_arrays([0, 1], ["ACME", None])),
        ("ts", pa.array([1, 2], pa.uint64())),
        ("price", pa.array(["1", "2"])),
        ("side", pa.array([2**64 - 1, 1], pa.uint64())),
    ],
)
def test_unusual_types_are_read_row_by_row(monkeypatch: pytest.MonkeyPatch, name: str, column: pa.Array) -> None:
    batch = pa.RecordBatch.from_pylist([TICK, TICK])
    batch = batch.set_column(batch.schema.names.index(name), name, column)
    assert not is_columns(batch)
    both(monkeypatch, stream(batch))


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
@pytest.mark.parametrize("wrong", [2**62, -(2**62), None])
def test_a_time_that_nanoseconds_cannot_hold_refuses_its_row_alone(monkeypatch, unit, wrong) -> None:
    batch = pa.RecordBatch.from_pylist([TICK, TICK, TICK])
    batch = batch.set_column(batch.schema.names.index("ts"), "ts", pa.array([1, wrong, 2], pa.timestamp(unit)))

    ticks, rejects = both(monkeypatch, stream(batch))

    unit_ns = np.timedelta64(1, unit) // np.timedelta64(1, "ns")
    assert ticks.ts_ns_N.tolist() == [unit_ns, 2 * unit_ns]
    assert [reject.index for reject in rejects] == [1]


def test_a_column_that_is_there_twice_is_one_reject(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pa.RecordBatch.from_pylist([TICK, TICK])
    _, rejects = both(monkeypatch, stream(batch.append_column("ts", pa.array([1, 2]))))
    assert [(r.index, r.reason) for r in rejects] == [(0, "bad_arrow")]


def test_new_symbols_get_their_places_in_the_order_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    # The dictionary is in another order, and the first row of B is refused for another reason.
    symbols = pa.DictionaryArray.from_arrays([2, 0, 1, 3, 2, 0], ["A", "BAD ONE", "B", "C"])
    batch = pa.RecordBatch.from_pylist([TICK | {"price": price} for price in (-1.0, 1.0, 1.0, 1.0, 1.0, 1.0)])
    batch = batch.set_column(1, "symbol", symbols)
    ticks, rejects = both(monkeypatch, stream(batch))
    assert ticks.symbols == [*KNOWN, "A", "C", "B"]
    assert ticks.index_N.tolist() == [1, 3, 4, 5]
    assert [(r.index, r.reason) for r in rejects] == [(0, "not_positive:price"), (2, "bad_symbol")]


def test_batches_of_one_record_and_records_of_both_formats_stay_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pa.RecordBatch.from_pylist([TICK, TICK | {"symbol": "N1"}])
    odd = pa.RecordBatch.from_pylist([TICK | {"symbol": "N2", "seq": "x"}, TICK | {"symbol": "N3"}])
    ticks, rejects = both(monkeypatch, stream(batch, batch), stream(odd), stream(batch))
    assert ticks.offset_N.tolist() == [100, 100, 100, 100, 101, 102, 102]
    assert ticks.index_N.tolist() == [0, 1, 2, 3, 1, 0, 1]
    assert [(r.position, r.index, r.reason) for r in rejects] == [(1, 0, "bad_type:seq")]
    assert ticks.symbols == [*KNOWN, "N1", "N3"]


def test_columns_can_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    # Kernels are compiled for such arrays only; those of Arrow are read-only.
    ticks, _ = both(monkeypatch, stream(pa.RecordBatch.from_pylist([TICK, TICK])))
    assert all(isinstance(c, list) or (c.flags.writeable and c.flags.c_contiguous) for c in ticks)


def test_many_symbols_cost_no_more_than_many_rows() -> None:
    # 60,000 symbols that are refused: quadratic work would take minutes
    n = 60_000
    columns = {"type": ["trade"] * n, "symbol": [f"BAD {i}" for i in range(n)], "ts": np.arange(1, n + 1)}
    ticks, rejects = decode(stream(pa.RecordBatch.from_pydict(columns | {"price": np.ones(n), "size": np.ones(n)})))
    assert (len(ticks), len(rejects), rejects[-1].detail) == (0, 9, f"{n - 8} more rows of this record are refused")


def market(rows: int, symbols: int = 7, *, is_coded: bool = False) -> pa.RecordBatch:
    """Return trades and quotes in turn, with null where a field does not apply, as a table of both holds them."""
    n, row = rows, range(rows)
    of_trade = [i % 2 == 0 for i in row]
    columns = {"type": ["trade" if t else "quote" for t in of_trade], "symbol": [f"S{i % symbols}-USDT" for i in row]}
    columns |= {"ts": np.arange(1, n + 1), "side": [("buy", "sell")[i % 3 > 0] if i % 2 == 0 else None for i in row]}
    for name in ("price", "size", "bid", "ask", "bid_size", "ask_size"):
        columns[name] = [1.5 + i if t is (name in ("price", "size")) else None for i, t in enumerate(of_trade)]
    batch = pa.RecordBatch.from_pydict(columns | {"seq": [i if i % 5 else None for i in row]})
    for i in (0, 1, 3) if is_coded else ():
        batch = batch.set_column(i, batch.schema.names[i], batch.column(i).dictionary_encode())
    return batch


@pytest.mark.parametrize("is_coded", [False, True])
@pytest.mark.parametrize("symbols", [1, 7, 300, 2000])
def test_many_rows_with_nulls_are_read_as_columns(
    monkeypatch: pytest.MonkeyPatch, symbols: int, is_coded: bool
) -> None:
    batch = market(2001, symbols, is_coded=is_coded)
    assert is_columns(batch)
    ticks, rejects = both(monkeypatch, stream(batch, batch), limit=10_000)
    assert (len(ticks), rejects, len(ticks.symbols)) == (4002, [], len(KNOWN) + min(symbols, 2001))


LENGTHS = [0, 1, 2, 6, 7, 8, 9, 15, 16, 17, 63, 64, 65, 300]


def test_names_of_any_length_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of each length three that differ in the first or the last byte only, and the last one ends with the text.
    names = [text for n in LENGTHS for text in ("x" * n, ("y" + "x" * n)[:n], ("x" * n + "y")[-n:] if n else "")]
    for some in (names, names[:36]):  # the second without those that are too long for a symbol
        batch = pa.RecordBatch.from_pylist([TICK | {"symbol": name} for name in some * 2])
        both(monkeypatch, stream(batch))


@settings(max_examples=200, deadline=None)
@given(
    columns=st.lists(st.tuples(names, names, names), min_size=1, max_size=40),
    kinds=st.lists(mostly("trade", st.sampled_from(["quote", "trad", "trades", "quote\0", "", "Trade"])), min_size=1),
)
def test_texts_are_judged_by_all_of_their_bytes(columns: list[tuple[str, ...]], kinds: list[str]) -> None:
    rows = [
        TICK | {"type": kinds[i % len(kinds)], "symbol": name, "side": ("buy", "sell", "buy\0", None, "bu")[i % 5]}
        for i, name in enumerate(name for names in columns for name in names)
    ]
    with pytest.MonkeyPatch.context() as monkeypatch:
        both(monkeypatch, stream(pa.RecordBatch.from_pylist(rows)))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a stream in which some bytes are others."""
    batch = market(draw(st.sampled_from([3, 9, 40])), is_coded=draw(st.booleans()))
    if draw(st.booleans()):  # a column that is no part of a tick, but of the record
        batch = batch.append_column("venue", pa.array(["é"] * batch.num_rows))
    data = bytearray(stream(*[batch] * draw(st.integers(1, 2))))
    for _ in range(draw(st.integers(1, 3))):
        # Not the schema, which is before the first of the texts and makes most streams unreadable
        at = draw(st.integers(data.index(b"tradequote" if b"tradequote" in data else b"S0-USDT") - 600, len(data) - 1))
        data[at] = draw(st.sampled_from([0, 1, 2, 7, 8, 0x30, 0x7F, 0x80, 0xC3, 0xFF]) | st.integers(0, 255))
    return bytes(data)


@settings(max_examples=500, deadline=None)
@given(damaged())
def test_a_damaged_stream_is_refused_as_arrow_refuses_it(value: bytes) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        both(monkeypatch, value)


def replaced(batch: pa.RecordBatch, old: bytes, new: bytes) -> bytes:
    data = stream(batch)
    assert (data.count(old), len(old)) == (1, len(new))
    return data.replace(old, new)


def int32s(*values: int) -> bytes:
    return np.array(values, np.int32).tobytes()


@pytest.mark.parametrize(
    ("name", "values", "old", "new"),
    [
        ("symbol", ["ACME", "NEWER"], b"ACMENEWER", b"ACMENEW\xff\xff"),
        ("symbol", ["ACME", "NEWER"], int32s(0, 4, 9), int32s(0, 4, 99)),
        ("symbol", ["ACME", "NEWER", "ACME"], int32s(0, 4, 9, 13), int32s(0, 10, 9, 13)),
        ("symbol", ["ACME", "NEWER", "ACME"], int32s(0, 4, 9, 13), int32s(0, -4, 9, 13)),
        ("type", ["trade", "order"], b"tradeorder", b"tradeorde\xff"),
        ("type", ["trade", "quote", "quote"], int32s(0, 5, 10, 15), int32s(0, 11, 10, 15)),
        ("side", ["buy", "sell"], b"buysell", b"buysel\xff"),
        ("side", ["buy", "sell", "sell"], int32s(0, 3, 7, 11), int32s(0, -3, 7, 11)),
        ("side", ["buy", "sell", "sell"], int32s(0, 3, 7, 11), int32s(0, 2**31 - 1, 7, 11)),
        ("venue", ["ACME", "NEWER"], b"ACMENEWER", b"ACMENEW\xff\xff"),
    ],
)
def test_a_text_that_lies_is_refused_as_arrow_refuses_it(
    monkeypatch: pytest.MonkeyPatch, name: str, values: list[str], old: bytes, new: bytes
) -> None:
    columns = {key: pa.array([value] * len(values)) for key, value in TICK.items()} | {"symbol": ["A"] * len(values)}
    batch = pa.RecordBatch.from_pydict(columns | {name: pa.array(values)})
    ticks, rejects = both(monkeypatch, replaced(batch, old, new))
    assert (len(ticks), [r.reason for r in rejects]) == (0, ["bad_arrow"])
    assert "ArrowInvalid" in rejects[0].detail


def test_bytes_that_null_hides_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    names = pa.StringArray.from_buffers(
        2, pa.py_buffer(int32s(0, 4, 6)), pa.py_buffer(b"ACME\xff\xff"), pa.py_buffer(b"\1"), 1
    )
    batch = pa.RecordBatch.from_pydict({k: [v] * 2 for k, v in TICK.items()} | {"symbol": names})
    ticks, rejects = both(monkeypatch, stream(batch))
    assert (ticks.index_N.tolist(), [r[1:3] for r in rejects]) == ([0], [(1, "missing:symbol")])


@pytest.mark.parametrize("name", ["type", "symbol", "side", "price", "seq", "ts"])
def test_nulls_that_are_counted_wrong_are_refused_as_arrow_refuses_them(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    right = pa.array([TICK.get(name, 1), None, TICK.get(name, 1), None])
    wrong = pa.Array.from_buffers(right.type, 4, right.buffers(), null_count=1)
    batch = pa.RecordBatch.from_pydict({k: [v] * 4 for k, v in TICK.items()} | {name: wrong})
    ticks, rejects = both(monkeypatch, stream(batch))
    assert (len(ticks), [r.reason for r in rejects]) == (0, ["bad_arrow"])


def test_a_broken_column_refuses_the_record_also_where_a_row_of_it_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pa.RecordBatch.from_pydict(
        {**{k: [v] * 2 for k, v in TICK.items()}, "ts": pa.array([1, 2**62], pa.timestamp("s"))}
    )
    batch = batch.append_column("venue", pa.array(["ACME", "NEWER"]))
    _, rejects = both(monkeypatch, stream(batch), replaced(batch, b"ACMENEWER", b"ACMENEW\xff\xff"))
    assert [(r.index, r.reason) for r in rejects] == [(1, "out_of_range:ts"), (0, "bad_arrow")]


def test_a_batch_that_is_refused_takes_those_before_it_along(monkeypatch: pytest.MonkeyPatch) -> None:
    good, new = (pa.RecordBatch.from_pylist([TICK | {"symbol": name}] * 2) for name in ("NEW1", "NEW2"))
    data = stream(good, new).replace(b"NEW2NEW2", b"NEW2NEW\xff")
    ticks, rejects = both(monkeypatch, data)
    assert (len(ticks), ticks.symbols, [r.reason for r in rejects]) == (0, KNOWN, ["bad_arrow"])
