import json
import math

import pytest

from data_io.topics.records import Records
from data_io.topics.ticks import TickDecoder
from ml_core.errors import SpecError
from ml_core.spec import FieldMap
from ml_core.types import SymbolTable

BINANCE_TRADE = FieldMap(ts="$.T:ms", symbol="$.s", price="$.p", size="$.q", side="$.m:maker", seq="$.t")
TRADE = {
    "e": "trade", "E": 1723075203271, "s": "BTCUSDT", "t": 3727338, "p": "61000.10000000", "q": "0.00100000",
    "T": 1723075203270, "m": True, "M": True,
}  # fmt: skip
COMBINED = FieldMap(
    ts="$.data.T:ms", symbol="$.data.s", price="$.data.p", size="$.data.q",
    bid="$.data.b", ask="$.data.a", bid_size="$.data.B", ask_size="$.data.A",
)  # fmt: skip


def decode(field_map: FieldMap, *values: object, key: bytes | None = None) -> tuple:
    texts = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    n = len(texts)
    return TickDecoder(field_map).decode(Records(list(range(n)), [key] * n, texts, [()] * n), SymbolTable())


def reasons(field_map: FieldMap, *values: object, key: bytes | None = None) -> list[str]:
    batch, rejects = decode(field_map, *values, key=key)
    assert len(batch) + len(rejects) == len(values)
    return [reject.reason for reject in rejects]


def test_numbers_as_text_units_and_the_maker_flag_are_understood() -> None:
    batch, rejects = decode(BINANCE_TRADE, TRADE, TRADE | {"m": False}, TRADE | {"m": None})
    assert rejects == []
    assert (batch.ts_ns_N[0], batch.price_N[0], batch.size_N[0]) == (1723075203270000000, 61000.1, 0.001)
    assert batch.side_N.tolist() == [-1, 1, 0]
    assert (batch.symbols, batch.seq_N[0], batch.kind_N[0]) == (["BTCUSDT"], 3727338, 0)


def test_paths_lead_into_inner_objects_and_the_fields_present_tell_the_kind() -> None:
    common = {"T": 5, "s": "A"}
    trade = {"stream": "x", "data": {**common, "p": "1.5", "q": "2"}}
    quote = {"stream": "y", "data": {**common, "b": "1", "a": "2", "B": "3", "A": "4"}}
    batch, rejects = decode(COMBINED, trade, quote)
    assert rejects == []
    assert batch.kind_N.tolist() == [0, 1]
    assert (batch.price_N[0], batch.bid_N[1], batch.ask_size_N[1]) == (1.5, 1.0, 4.0)


def test_the_key_may_be_the_symbol() -> None:
    field_map = FieldMap(ts="$.t", symbol="$key", price="$.p", size="$.q")
    batch, _ = decode(field_map, {"t": 1, "p": 1, "q": 1}, key=b"ACME")
    assert batch.symbols == ["ACME"]
    assert reasons(field_map, {"t": 1, "p": 1, "q": 1}) == ["missing:symbol"]
    assert reasons(field_map, {"t": 1, "p": 1, "q": 1}, key=b"\xff") == ["bad_utf8"]


def test_a_type_may_be_named() -> None:
    field_map = FieldMap(ts="$.t", symbol="$.s", type="$.kind", price="$.p", size="$.q", bid="$.b", ask="$.a")
    both = {"t": 1, "s": "A", "p": 1, "q": 1, "b": 1, "a": 2}
    batch, rejects = decode(field_map, both | {"kind": "trade"}, both | {"kind": "quote"}, both | {"kind": "book"})
    assert batch.kind_N.tolist() == [0, 1]
    assert [r.reason for r in rejects] == ["unknown_type"]


def test_sizes_that_the_map_leaves_out_are_unknown() -> None:
    batch, rejects = decode(FieldMap(ts="$.t", symbol="$.s", bid="$.b", ask="$.a"), {"t": 1, "s": "A", "b": 1, "a": 2})
    assert rejects == []
    assert math.isnan(batch.bid_size_N[0])


@pytest.mark.parametrize("side", ["buy", "Buy", "BUY"])
def test_a_side_may_have_any_case(side: str) -> None:
    field_map = FieldMap(ts="$.t", symbol="$.s", price="$.p", size="$.q", side="$.x")
    batch, _ = decode(field_map, {"t": 1, "s": "A", "p": 1, "q": 1, "x": side})
    assert batch.side_N.tolist() == [1]


@pytest.mark.parametrize(
    ("unit", "ts_ns"), [("", 7), (":ns", 7), (":us", 7_000), (":ms", 7_000_000), (":s", 7 * 10**9)]
)
@pytest.mark.parametrize("ts", [7, "7"])
def test_units_of_time(unit: str, ts_ns: int, ts: object) -> None:
    field_map = FieldMap(ts=f"$.t{unit}", symbol="$.s", price="$.p", size="$.q")
    batch, _ = decode(field_map, {"t": ts, "s": "A", "p": 1, "q": 1})
    assert batch.ts_ns_N.tolist() == [ts_ns]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"p": "abc"}, "bad_number:price"),
        ({"p": ""}, "bad_number:price"),
        ({"p": " 1"}, "bad_number:price"),
        ({"p": "1_000"}, "bad_number:price"),
        ({"p": "nan"}, "bad_number:price"),
        ({"p": "Infinity"}, "bad_number:price"),
        ({"p": "٣"}, "bad_number:price"),
        ({"p": "9" * 500}, "bad_number:price"),
        ({"p": "1e999"}, "not_finite:price"),
        ({"p": "0.00000000"}, "not_positive:price"),
        ({"p": "-1"}, "not_positive:price"),
        ({"p": [1]}, "bad_type:price"),
        ({"p": True}, "bad_type:price"),
        ({"p": None}, "missing:price"),
        ({"q": None}, "missing:size"),
        ({"s": 5}, "bad_type:symbol"),
        ({"s": None}, "missing:symbol"),
        ({"T": None}, "missing:ts"),
        ({"T": 1.5}, "bad_type:ts"),
        ({"T": "1.5"}, "bad_type:ts"),
        ({"T": True}, "bad_type:ts"),
        ({"T": 4_102_444_800_001}, "out_of_range:ts"),
        ({"T": 2**62}, "out_of_range:ts"),
        ({"T": "9" * 30}, "bad_type:ts"),
        ({"T": 0}, "not_positive:ts"),
        ({"m": "yes"}, "bad_type:side"),
        ({"t": -4}, "negative:seq"),
        ({"p": {"x": 1}, "T": "bad"}, "bad_type:ts"),
    ],
)
def test_bad_fields_are_rejected_and_neighbours_go_through(changes: dict, expected: str) -> None:
    batch, rejects = decode(BINANCE_TRADE, TRADE, TRADE | changes, TRADE)
    assert batch.offset_N.tolist() == [0, 2]
    assert [(r.position, r.reason) for r in rejects] == [(1, expected)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"stream": "x", "result": None}, "missing:symbol"),
        ({"data": None}, "missing:symbol"),
        ({"data": 5}, "not_an_object"),
        ({"data": [1]}, "not_an_object"),
        ({"data": {"s": "A", "T": 1, "b": 1}}, "missing:price"),
        (b'{"data":{"s":"A","T":1,"p":1e999,"q":1}}', "not_finite:price"),
        (b'{"data":{"s":"A","T":1,"p":NaN,"q":1}}', "bad_json"),
        (b'{"data":{"s":"A"', "bad_json"),
        (b"", "empty_value"),
    ],
)
def test_records_of_another_shape_are_rejected(value: object, expected: str) -> None:
    assert reasons(COMBINED, value) == [expected]


@pytest.mark.parametrize(
    "changes",
    [
        {"symbol": "$s"},
        {"price": "$key"},
        {"symbol": "$."},
        {"symbol": "$.a..b"},
        {"symbol": "$.a[0]"},
        {"price": "$.p:ms"},
        {"price": "p"},
        {"side": "$.m:taker"},
        {"seq": "$.p.q"},
        {"seq": "$"},
    ],
)
def test_paths_that_make_no_sense_are_refused_at_once(changes: dict) -> None:
    paths = {"ts": "$.T", "symbol": "$.s", "price": "$.p", "size": "$.q"}
    with pytest.raises(SpecError, match=r"source\.map\."):
        TickDecoder(FieldMap(**(paths | changes)))


def test_one_field_may_serve_two_names() -> None:
    field_map = FieldMap(ts="$.t", symbol="$.s", price="$.p", size="$.q", seq="$.t")
    batch, _ = decode(field_map, {"t": 9, "s": "A", "p": 1, "q": 1})
    assert (batch.ts_ns_N[0], batch.seq_N[0]) == (9, 9)
