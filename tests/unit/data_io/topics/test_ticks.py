import io
import json
import math
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_io.topics import ticks
from data_io.topics.records import Records
from data_io.topics.tick_arrow import CONTENT_TYPE
from data_io.topics.ticks import TickDecoder
from ml_core.types import MAX_TS_NS, SymbolTable, TickBatch

TRADE = {"type": "trade", "symbol": "ACME", "ts": 1_723_075_200_000_000_001, "price": 10.5, "size": 2, "side": "buy"}
QUOTE = {"type": "quote", "symbol": "ACME", "ts": 5, "bid": 1.0, "ask": 1.5, "bid_size": 3, "ask_size": 4.5, "seq": 7}
ARROW = (("content-type", CONTENT_TYPE.encode()),)


def records(*values: bytes | None, headers: tuple = ()) -> Records:
    n = len(values)
    return Records([100 + i for i in range(n)], [None] * n, list(values), [headers] * n)


def decode(*values: bytes | None, headers: tuple = ()) -> tuple[TickBatch, list]:
    return TickDecoder().decode(records(*values, headers=headers), SymbolTable())


def reason(value: bytes | None) -> str:
    """Return why ``value`` is rejected, after asserting that its neighbours go through."""
    good = json.dumps(TRADE).encode()
    batch, rejects = decode(good, value, good)
    assert batch.offset_N.tolist() == [100, 102]
    assert [(r.position, r.index) for r in rejects] == [(1, 0)]
    assert rejects[0].detail
    return rejects[0].reason


def trade(**changes: object) -> bytes:
    return json.dumps({key: value for key, value in (TRADE | changes).items() if value != "absent"}).encode()


def quote(**changes: object) -> bytes:
    return json.dumps({key: value for key, value in (QUOTE | changes).items() if value != "absent"}).encode()


@pytest.mark.parametrize("value", [
    trade(), quote(), trade(price=-1), trade(size=0), quote(bid=2.0), trade(price="ten"), trade(price=None),
    trade(ts=0), trade(ts=2**70), trade(ts=-1.5), trade(symbol=7), trade(symbol="absent"), trade(type="swap"),
    trade(type=None), trade(seq=-1), trade(seq=True), trade(side="both"), trade(venue={"a": [1]}), b"", b"[1]",
    trade(symbol="A\u0007B"),
    b"1", b"{", trade()[:-9], trade() + b"}", trade().replace(b"10.5", b"NaN"), trade().replace(b"10.5", b"1e309"),
    trade().replace(b"10.5", b"-1e400"), trade().replace(b"10.5", b"1e-400"), trade().replace(b"10.5", b"1" * 5_000),
    trade().replace(b"}", b',"x":1e999}'), trade().replace(b"}", b',"price":0}'), b"\xff", b'{"type":"trade"}',
])  # fmt: skip
def test_behind_a_bad_record_the_same_is_said_of_the_next(value: bytes) -> None:
    alone, behind = decode(value), decode(b"{", value)

    assert [column.tobytes() for column in alone[0][1:-1]] == [column.tobytes() for column in behind[0][1:-1]]
    assert [reject[1:] for reject in alone[1]] == [reject[1:] for reject in behind[1][1:]]


def test_a_trade_and_a_quote_become_columns() -> None:
    batch, rejects = decode(json.dumps(TRADE).encode(), json.dumps(QUOTE).encode())
    nan = math.nan
    expected = TickBatch(
        offset_N=np.array([100, 101]),
        index_N=np.array([0, 0], np.int32),
        kind_N=np.array([0, 1], np.int8),
        symbol_N=np.array([0, 0], np.int32),
        ts_ns_N=np.array([1_723_075_200_000_000_001, 5]),
        price_N=np.array([10.5, nan]),
        size_N=np.array([2.0, nan]),
        side_N=np.array([1, 0], np.int8),
        bid_N=np.array([nan, 1.0]),
        ask_N=np.array([nan, 1.5]),
        bid_size_N=np.array([nan, 3.0]),
        ask_size_N=np.array([nan, 4.5]),
        seq_N=np.array([-1, 7]),
        symbols=["ACME"],
    )
    assert rejects == []
    for name, got, wanted in zip(batch._fields[:-1], batch, expected, strict=False):
        assert got.dtype == wanted.dtype, name
        np.testing.assert_array_equal(got, wanted, err_msg=name)
    assert batch.symbols == ["ACME"]


def test_no_records_make_an_empty_batch() -> None:
    batch, rejects = decode()
    assert (len(batch), rejects, batch.ts_ns_N.dtype) == (0, [], np.int64)


@pytest.mark.parametrize(
    ("side", "sign"), [("buy", 1), ("sell", -1), (1, 1), (-1, -1), (0, 0), (None, 0), ("absent", 0)]
)
def test_sides(side: object, sign: int) -> None:
    batch, _ = decode(trade(side=side))
    assert batch.side_N.tolist() == [sign]


def test_a_locked_quote_passes() -> None:
    batch, rejects = decode(quote(bid=1.5, ask=1.5))
    assert (len(batch), rejects) == (1, [])


def test_unknown_and_optional_fields_are_ignored() -> None:
    batch, rejects = decode(trade(venue="X", conditions=["@", "T"], exchange_ts=3, other={"deep": [1, {}]}, bid="?"))
    assert (len(batch), rejects) == (1, [])


@pytest.mark.parametrize(
    "symbol", ["A", "BRK.B", "^GSPC", "EUR/USD", "BTC-27DEC24-100000-C", "日本", 'Q"\\', "é" * 32, "😀"]
)
def test_odd_symbols_are_kept_as_they_are(symbol: str) -> None:
    batch, _ = decode(trade(symbol=symbol))
    assert batch.symbols == [symbol]


@pytest.mark.parametrize(
    "symbol",
    ["", " ", "A B", "A\t", "A\x00", "A\u00a0B", "A\u200b", "\u2028", "A\u0301" * 40, "x" * 65, "é" * 33, "\U000e0001"],
)
def test_bad_symbols_are_rejected(symbol: str) -> None:
    assert reason(trade(symbol=symbol)) == "bad_symbol"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null_value"),
        (b"", "empty_value"),
        (b" ", "bad_json"),
        (b"{", "bad_json"),
        (json.dumps(TRADE).encode()[:-1], "bad_json"),
        (json.dumps(TRADE).encode() + b"{}", "bad_json"),
        (b"\xef\xbb\xbf" + json.dumps(TRADE).encode(), "bad_json"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b"\xff\xfe", "bad_utf8"),
        (trade(venue="\u00e9").replace(b"\\u00e9", b"\xe9"), "bad_utf8"),
        (b"[" * 300, "too_deep"),
        (trade(x=1).replace(b"1}", b"[" * 200 + b"]" * 200 + b"}"), "too_deep"),
        (b'{"a":"' + b"x" * 70_000 + b'"}', "too_large"),
        (b"{}", "missing:type"),
        (trade(type=1), "bad_type:type"),
        (trade(type="order"), "unknown_type"),
        (trade(symbol="absent"), "missing:symbol"),
        (trade(symbol=None), "missing:symbol"),
        (trade(symbol=5), "bad_type:symbol"),
        (trade(symbol="\ud800"), "bad_json"),
        (trade(ts="absent"), "missing:ts"),
        (trade(ts=True), "bad_type:ts"),
        (trade(ts=1.5), "bad_type:ts"),
        (trade(ts=1e18), "bad_type:ts"),
        (trade(ts="1"), "bad_type:ts"),
        (trade(ts=0), "not_positive:ts"),
        (trade(ts=-1), "not_positive:ts"),
        (trade(ts=MAX_TS_NS + 1), "out_of_range:ts"),
        (trade(ts=2**63 - 1), "out_of_range:ts"),
        (trade(ts=2**63), "out_of_range:ts"),
        (trade(ts=2**64), "out_of_range:ts"),
        (trade(ts=1).replace(b'"ts": 1', b'"ts": ' + b"9" * 6000), "out_of_range:ts"),
        (trade(price="absent"), "missing:price"),
        (trade(price=None), "missing:price"),
        (trade(price="10.5"), "bad_type:price"),
        (trade(price=True), "bad_type:price"),
        (trade(price=[1]), "bad_type:price"),
        (trade(price={}), "bad_type:price"),
        (trade(price=math.nan), "bad_json"),
        (trade(price=math.inf), "bad_json"),
        (trade(price=1).replace(b'"price": 1', b'"price": 1e999'), "not_finite:price"),
        (trade(price=10**400), "not_finite:price"),
        (trade(price=0), "not_positive:price"),
        (trade(price=-1.5), "not_positive:price"),
        (trade(price=1).replace(b'"price": 1', b'"price": 1e-999'), "not_positive:price"),
        (trade(size=0), "not_positive:size"),
        (trade(size="absent"), "missing:size"),
        (trade(side="b"), "bad_side"),
        (trade(side="BUY"), "bad_side"),
        (trade(side=2), "bad_side"),
        (trade(side=2**70), "bad_side"),
        (trade(side=True), "bad_type:side"),
        (trade(side=1.0), "bad_type:side"),
        (trade(seq=-1), "negative:seq"),
        (trade(seq=2**63), "out_of_range:seq"),
        (trade(seq="1"), "bad_type:seq"),
        (quote(bid=0), "not_positive:bid"),
        (quote(ask="absent"), "missing:ask"),
        (quote(bid_size=0), "not_positive:bid_size"),
        (quote(ask_size=-1), "not_positive:ask_size"),
        (quote(bid=2, ask=1.5), "crossed_quote"),
    ],
)
def test_bad_values_are_rejected_with_their_reason(value: bytes | None, expected: str) -> None:
    assert reason(value) == expected


def test_the_letter_of_a_time_beyond_the_bound_names_the_bound() -> None:
    _, rejects = decode(trade(ts=MAX_TS_NS), trade(ts=MAX_TS_NS + 1))
    assert [(each.position, each.detail) for each in rejects] == [
        (1, "ts is 4102444800000000001 ns; expected at most 4102444800000000000, the year 2100")
    ]


@given(
    value=st.one_of(st.binary(max_size=60), st.recursive(st.floats() | st.text() | st.none() | st.integers(), st.lists))
)
def test_no_value_ever_raises(value: object) -> None:
    decode(value if isinstance(value, bytes) else json.dumps(value).encode())


def test_a_rejection_does_not_depend_on_how_deep_the_caller_stands() -> None:
    value = trade(x=1).replace(b"1}", b"[" * 100 + b"]" * 100 + b"}")

    def at_depth(depth: int) -> int:
        return len(decode(value)[0]) if depth == 0 else at_depth(depth - 1)

    assert (at_depth(0), at_depth(sys.getrecursionlimit() - 300)) == (1, 1)


def test_a_full_symbol_table_rejects_new_symbols_only() -> None:
    values = [trade(symbol=name) for name in ("A", "B", "A")]
    batch, rejects = TickDecoder().decode(records(*values), SymbolTable(limit=1))
    assert batch.offset_N.tolist() == [100, 102]
    assert [r.reason for r in rejects] == ["symbols_full"]


def test_a_rejected_tick_adds_no_symbol() -> None:
    symbols = SymbolTable()
    TickDecoder().decode(records(trade(symbol="A", price=-1), quote(symbol="B", ask=0.1)), symbols)
    assert symbols.names == []


def arrow(rows: list[dict], schema: pa.Schema | None = None) -> bytes:
    names = dict.fromkeys(name for row in rows for name in row)
    table = (
        pa.Table.from_pydict({name: [row.get(name) for row in rows] for name in names})
        if schema is None
        else (pa.Table.from_pylist(rows, schema))
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def test_an_arrow_record_holds_many_ticks_and_rejects_single_rows() -> None:
    rows = [TRADE, QUOTE, TRADE | {"price": -1.0}, QUOTE | {"symbol": "B C"}, TRADE | {"side": None}]
    batch, rejects = decode(arrow(rows), b"junk", arrow([]), headers=ARROW)
    assert list(zip(batch.offset_N.tolist(), batch.index_N.tolist(), strict=True)) == [(100, 0), (100, 1), (100, 4)]
    assert [r[:3] for r in rejects] == [(0, 2, "not_positive:price"), (0, 3, "bad_symbol"), (1, 0, "bad_arrow")]
    np.testing.assert_array_equal(batch.price_N, [10.5, math.nan, 10.5])


def test_an_arrow_record_may_hold_timestamps_and_dictionaries() -> None:
    schema = pa.schema([("type", pa.string()), ("symbol", pa.dictionary(pa.int32(), pa.string()))])
    schema = schema.append(pa.field("ts", pa.timestamp("us", "UTC"))).append(pa.field("price", pa.float32()))
    schema = schema.append(pa.field("size", pa.int64()))
    batch, rejects = decode(arrow([TRADE | {"ts": 1_723_075_200_000_000}], schema), headers=ARROW)
    assert rejects == []
    assert batch.ts_ns_N.tolist() == [1_723_075_200_000_000_000]


@pytest.mark.parametrize("kept", [0, 1, 8, 100, -20])
def test_a_cut_arrow_record_is_one_reject(kept: int) -> None:
    batch, rejects = decode(arrow([TRADE])[:kept], headers=ARROW)
    assert (len(batch), [r.index for r in rejects]) == (0, [0])
    assert rejects[0].reason == "bad_arrow"


def test_many_bad_rows_of_one_arrow_record_make_few_dead_letters() -> None:
    batch, rejects = decode(arrow([TRADE, *[TRADE | {"price": -1.0}] * 50, TRADE]), headers=ARROW)
    assert batch.index_N.tolist() == [0, 51]
    assert [r.index for r in rejects] == list(range(1, 10))
    assert rejects[-1][2:] == ("more_rows", "42 more rows of this record are refused")


def test_an_arrow_record_of_too_many_rows_is_one_reject() -> None:
    _, rejects = decode(arrow([{"x": None}] * 70_000), headers=ARROW)
    assert [r.reason for r in rejects] == ["too_large"]


prices = st.floats(min_value=5e-324, max_value=1.7e308)


@given(
    numbers=st.tuples(*[prices] * 4),
    ts=st.integers(1, MAX_TS_NS),
    seq=st.integers(-1, 2**63 - 1),
    symbol=st.sampled_from(["A", "é", 'Q"\\']),
    side=st.sampled_from([-1, 0, 1]),
)
def test_what_is_encoded_decodes_to_the_same(numbers: tuple, ts: int, seq: int, symbol: str, side: int) -> None:
    low, high = sorted(numbers[:2])
    values = [trade(symbol=symbol, ts=ts, price=low, size=high, side=side, seq=max(seq, 0))]
    values.append(quote(symbol=symbol, ts=ts, bid=low, ask=high, bid_size=numbers[2], ask_size=numbers[3], seq=None))
    batch, rejects = decode(*values)
    assert rejects == []
    encoded = ticks.encode(batch)
    again, rejects = decode(*(value for _, value in encoded))
    assert rejects == []
    assert [key for key, _ in encoded] == [symbol.encode()] * 2
    for name, a, b in zip(batch._fields[:-1], batch, again, strict=False):
        assert a.tobytes() == b.tobytes(), name


def test_encoded_ticks_read_as_the_format_says() -> None:
    batch, _ = decode(trade(), quote())
    assert [json.loads(value) for _, value in ticks.encode(batch)] == [TRADE, QUOTE]


def test_the_topic_is_stamped_by_the_broker() -> None:
    spec = ticks.topic_spec("my.ticks", 3)
    assert (spec.name, spec.partitions) == ("my.ticks", 3)
    assert spec.config["message.timestamp.type"] == "LogAppendTime"
    assert int(spec.config["retention.ms"]) > 3 * 86_400_000
