"""Through a field map too, the kernel and the exact decoder give the same columns, bit by bit, and the same rejects."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_io.topics.raw_records import RawFetch
from data_io.topics.ticks import Decoded, warm_up
from ml_core.spec import FieldMap
from tests.unit.data_io.topics import either_way

SAMPLE = Path(__file__).parents[3] / "data" / "binance-capture.txt"
CAPTURE = Path(__file__).parents[5] / "shared/data/binance-spot-btcusdt-20240808.gz"
TRADES = FieldMap(ts="$.T:ms", symbol="$.s", price="$.p", size="$.q", side="$.m:maker", seq="$.t")
STREAMS = FieldMap(
    ts="$.data.T:ms", symbol="$.data.s", price="$.data.p", size="$.data.q", side="$.data.m:maker", seq="$.data.t",
    bid="$.data.b", ask="$.data.a", bid_size="$.data.B", ask_size="$.data.A",
)  # fmt: skip
BY_KEY = FieldMap(ts="$.at:us", symbol="$key", price="$.px", size="$.qty", side="$.side")
TYPED = FieldMap(
    ts="$.head.time:s", symbol="$.head.id", type="$.kind", price="$.p", size="$.q", bid="$.book.bid.price",
    ask="$.book.ask.price", bid_size="$.book.bid.size", seq="$.n",
)  # fmt: skip
NO_SIZES = FieldMap(ts="$.T", symbol="$.s", bid="$.b", ask="$.a", price="$.p", side="$.x")
QUOTES = FieldMap(ts="$.u", symbol="$.s", bid="$.b", ask="$.a", bid_size="$.B", ask_size="$.A")
MAPS = [TRADES, STREAMS, BY_KEY, TYPED, NO_SIZES, QUOTES]
KNOWN = ["BTCUSDT", "ETHUSDT", "A", "BRK.B", "S" * 64]
TRADE = (
    b'{"e":"trade","E":1723075203271,"s":"BTCUSDT","t":3727338,"p":"61000.10000000","q":"0.00100000",'
    b'"T":1723075203270,"m":true,"M":true}'
)
STREAMED = b'{"stream":"btcusdt@trade","data":' + TRADE + b"}"
QUOTED = b'{"stream":"x","data":{"u":1,"s":"BTCUSDT","b":"1.5","B":"3","a":"1.5","A":"4","T":5}}'
ORDER = b'{"at":7,"px":1.5,"qty":2,"side":"Sell"}'
BOOK = b'{"kind":"quote","head":{"time":9,"id":"A"},"book":{"bid":{"price":1,"size":2},"ask":{"price":2}},"n":null}'


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_up()


def both(batches, field_map: FieldMap, *texts: bytes | None, key: bytes | None = None) -> Decoded:
    raw = batches.build([(key, text, []) for text in texts])
    return either_way.both(RawFetch(raw, 0, []), KNOWN, field_map)


@pytest.mark.parametrize(
    ("field_map", "text"),
    [
        (TRADES, TRADE),
        (TRADES, TRADE.replace(b"true", b"false")),
        (TRADES, TRADE.replace(b'"m":true', b'"m":null')),
        (TRADES, TRADE.replace(b',"m":true', b"")),
        (TRADES, TRADE.replace(b"3727338", b'"3727338"')),
        (TRADES, TRADE.replace(b"3727338", b"null")),
        (TRADES, TRADE.replace(b"1723075203270", b'"1723075203270"')),
        (TRADES, TRADE.replace(b'"61000.10000000"', b"61000.1")),
        (TRADES, TRADE.replace(b'"0.00100000"', b'"1.5e-3"')),
        (TRADES, TRADE.replace(b"{", b' {\n"deep": {"e": [1.5e-7, [], {}, {"p": "]}"}], "T": {}}, ')),
        (TRADES, TRADE.replace(b'"trade"', b'"' + b"x" * 99 + b'"')),
        (STREAMS, STREAMED),
        (STREAMS, QUOTED),
        (STREAMS, STREAMED.replace(b'"m":true', b'"m":true,"b":null,"a":"1"')),
        (BY_KEY, ORDER),
        (BY_KEY, ORDER.replace(b"Sell", b"BUY")),
        (BY_KEY, ORDER.replace(b'"Sell"', b"-1")),
        (BY_KEY, ORDER.replace(b'"Sell"', b"0")),
        (TYPED, BOOK),
        (TYPED, BOOK.replace(b',"n":null', b',"p":0,"q":"-1","n":"5"').replace(b'"-1"', b"null")),
        (TYPED, b'{"p":"1","q":2,"kind":"trade","head":{"id":"A","time":"12"}}'),
        (NO_SIZES, b'{"T":1,"s":"BRK.B","b":1,"a":"1"}'),
        (NO_SIZES, b'{"T":1,"s":"BRK.B","p":"1","b":null,"a":3,"x":"sELL"}'),
    ],
)
def test_plain_ticks_are_taken_by_the_kernel(batches, field_map: FieldMap, text: bytes) -> None:
    # twice: read by the rules, and by the layout of the first
    decoded = both(batches, field_map, text, text, key=b"BRK.B")
    assert not decoded.reject_records.offset
    assert len(decoded.ticks) == 2


@pytest.mark.parametrize(
    ("field_map", "text"),
    [
        (TRADES, TRADE.replace(b'"s"', b'"\\u0073"')),
        (TRADES, TRADE.replace(b"trade", "händel".encode())),
        (TRADES, TRADE.replace(b"{", b'{"p":1,')),
        (TRADES, TRADE.replace(b"61000.10000000", b"")),
        (TRADES, TRADE.replace(b"61000.10000000", b"+1")),
        (TRADES, TRADE.replace(b"61000.10000000", b" 1")),
        (TRADES, TRADE.replace(b"61000.10000000", b"1.0.0")),
        (TRADES, TRADE.replace(b"61000.10000000", b"0" * 500 + b"1")),
        (TRADES, TRADE.replace(b"61000.10000000", b"0." + b"0" * 500 + b"1e500")),
        (TRADES, TRADE.replace(b'"0.00100000"', b'"0.00000000"')),
        (TRADES, TRADE.replace(b'"0.00100000"', b"null")),
        (TRADES, TRADE.replace(b'"0.00100000"', b"[]")),
        (TRADES, TRADE.replace(b"true", b'"true"')),
        (TRADES, TRADE.replace(b"true", b"1")),
        (TRADES, TRADE.replace(b"true", b"trub")),
        (TRADES, TRADE.replace(b"1723075203270", b"4102444800001")),
        (TRADES, TRADE.replace(b"1723075203270", b"9223372036855")),
        (TRADES, TRADE.replace(b"1723075203270", b"1.5")),
        (TRADES, TRADE.replace(b"1723075203270", b'"-5"')),
        (TRADES, TRADE.replace(b"BTCUSDT", b"UNSEEN")),
        (TRADES, TRADE.replace(b'"BTCUSDT"', b"5")),
        (TRADES, TRADE.replace(b"{", b'{"deep":[1},')),
        (TRADES, TRADE.replace(b"{", b'{"deep":{"a":1],')),
        (TRADES, TRADE.replace(b"{", b'{"deep":[1 2],')),
        (TRADES, TRADE.replace(b"{", b'{"deep":{"a"},')),
        (TRADES, TRADE.replace(b"{", b'{"deep":[01],')),
        (STREAMS, TRADE),
        (STREAMS, STREAMED.replace(b'"data":', b'"data":null,"other":')),
        (STREAMS, STREAMED.replace(b'"data":', b'"data":{},"data":')),
        (STREAMS, STREAMED.replace(b'"stream"', b'"data"')),
        (STREAMS, STREAMED[:-1]),
        (STREAMS, QUOTED.replace(b'"a":"1.5"', b'"a":"1.4"')),
        (STREAMS, QUOTED.replace(b'"1.5"', b"[]")),
        (STREAMS, STREAMED.replace(b"{", b'{"deep":' + b"[" * 33 + b"]" * 33 + b",", 1)),
        (BY_KEY, ORDER.replace(b"Sell", b"Sold")),
        (BY_KEY, ORDER.replace(b'"Sell"', b"true")),
        (BY_KEY, ORDER.replace(b'"Sell"', b"2")),
        (BY_KEY, ORDER.replace(b'"Sell"', b"\x02Sell\x02")),
        (TYPED, BOOK.replace(b'"quote"', b'"order"')),
        (TYPED, BOOK.replace(b'"quote"', b"null")),
        (TYPED, BOOK.replace(b'"quote"', b'"Quote"')),
        (TYPED, BOOK.replace(b'"ask":{"price":2}', b'"ask":2')),
        (NO_SIZES, b'{"T":1,"s":"A"}'),
        (QUOTES, b'{"u":1,"s":"A","b":1,"B":1,"A":1}'),
        (TRADES, TRADE.replace(b"1723075203270", b"18446744073710")),  # 2**64 ns and a little
        (NO_SIZES, b'{"T":1,"s":"A","b":1}'),
    ],
)
def test_everything_else_is_left_to_the_exact_decoder(batches, field_map: FieldMap, text: bytes) -> None:
    good = {id(TRADES): TRADE, id(STREAMS): STREAMED, id(BY_KEY): ORDER, id(TYPED): BOOK}.get(id(field_map), b"{}")
    decoded = both(batches, field_map, good, text, text, key=b"BRK.B")
    assert decoded.reject_records.offset[-2:] == [1, 2]


@pytest.mark.parametrize("key", [None, b"", b"UNSEEN", b"BRK", b"BRK.B2", b"S" * 65, b"\xff", "É".encode(), b'"'])
def test_other_keys_are_left_to_the_exact_decoder(batches, key: bytes | None) -> None:
    assert both(batches, BY_KEY, ORDER, key=key).reject_records.offset == [0]


def test_more_layouts_than_are_kept_are_all_read(batches) -> None:
    texts = [TRADE.replace(b"{", b"{" + b" " * n) for n in range(20)] * 3
    assert not both(batches, TRADES, *texts).reject_records.offset


def test_an_object_too_long_to_keep_its_layout_is_read(batches) -> None:
    many = b"".join(b'"x%d":1,' % n for n in range(100))
    long = b'"' + b"x" * 5000 + b'":1,'
    texts = [TRADE.replace(b"{", b"{" + more) for more in (many, long)]
    assert not both(batches, TRADES, *texts * 2, TRADE).reject_records.offset


def test_a_field_that_serves_two_names_is_left_to_the_exact_decoder(batches) -> None:
    field_map = FieldMap(ts="$.t", symbol="$.s", price="$.p", size="$.p")
    decoded = both(batches, field_map, b'{"t":1,"s":"A","p":2}')
    assert (decoded.ticks.price_N.tolist(), decoded.ticks.size_N.tolist()) == ([2.0], [2.0])


@pytest.mark.parametrize("capture", [SAMPLE, CAPTURE], ids=["sample", "capture"])
def test_a_recorded_market_is_the_same_either_way(batches, capture: Path) -> None:
    if not capture.exists():
        pytest.skip(f"needs the capture {capture.name} in shared/data beside the checkout")
    with gzip.open(capture) if capture.suffix == ".gz" else capture.open("rb") as lines:
        texts = [line.split(b" ", 1)[1].strip() for line in lines]
    # Best quotes carry no time of the venue, so the update id stands in for it.
    quotes = FieldMap(
        ts="$.data.u", symbol="$.data.s", bid="$.data.b", ask="$.data.a", bid_size="$.data.B", ask_size="$.data.A"
    )
    trades = [text for text in texts if b"@trade" in text]
    assert trades
    assert both(batches, STREAMS, *trades).reject_records.offset == []
    decoded = both(batches, quotes, *texts)
    left = decoded.reject_records.offset
    refused = {left[reject.position] for reject in decoded.rejects}
    assert {i for i in left if b"@bookTicker" in texts[i]} <= refused
    both(batches, TRADES, *texts[:3000])


decimals = st.one_of(
    st.floats(min_value=1e-9, max_value=1e9).map(repr),
    st.decimals(min_value="0", max_value="1e12", places=8).map(lambda d: f"{d:f}"),
    st.tuples(st.integers(1, 10**20), st.integers(-70, 70)).map(lambda pair: f"{pair[0]}e{pair[1]}"),
    st.integers(0, 2**64).map(str),
    st.sampled_from(
        ["0", "-1", "007", "1.", ".5", "1e999", "nan", "", "9007199254740993", "0.0000000000000000000012345"]
    ),
)
quoted = decimals.map(json.dumps)
odd = st.sampled_from(
    ["null", "true", "false", "[]", "{}", '"x"', "5", '"5"', "-5", "1.5", '{"price":1}', "nul", '"buy"']
)
numbers = st.one_of(decimals, quoted, quoted, odd)
values = {
    "ts": st.one_of(
        st.integers(-1, 2**63).map(str),
        st.integers(1, 10**10).map(str),
        st.sampled_from([str(4_102_444_800 * 10**power + off) for power in (0, 3, 6, 9) for off in (0, 1)]),
        st.integers(1, 99).map('"{}"'.format),
        odd,
    ),
    "symbol": st.sampled_from(['"BTCUSDT"', '"A"', '"BRK.B"', '"NEW"', '"Ä"', '"A\\u0042"', "null", '""', '"A B"']),
    "type": st.sampled_from(['"trade"', '"quote"', '"quote"', '"order"', "null", '"trad\\u0065"']),
    "side": st.sampled_from(
        ["true", "false", "null", '"buy"', '"SELL"', '"Buy"', "1", "-1", "0", "2", '"b"', "1.0", "-0"]
    ),
    "seq": st.one_of(st.integers(0, 2**63).map(str), st.integers(0, 99).map('"{}"'.format), odd),
}
extras = st.sampled_from(
    [
        '"x":1e999',
        '"x":1e5',
        '"y":[1,{"b":"2"}]',
        '"":0',
        '"z":"\\n"',
        '"w":{"T":1,"s":[]}',
        '"v":[1 2]',
        '"u":-0.5E+1',
        '"é":1',
    ]
)


@st.composite
def documents(draw: st.DrawFn, field_map: FieldMap) -> str:
    """Draw JSON that the map makes a tick of, or nearly one."""
    tree: dict = {}
    for name, path in field_map.model_dump(exclude_none=True).items():
        if path.startswith("$key") or draw(st.integers(0, 19)) == 0:
            continue
        steps = path.split(":")[0].split(".")[1:]
        node = tree
        for step in steps[:-1]:
            node = node.setdefault(step, {})
        if isinstance(node, dict):
            node[steps[-1]] = draw(values.get(name, numbers))
    return draw(written(tree))


@st.composite
def written(draw: st.DrawFn, node: dict | str) -> str:
    """Draw one of the ways in which JSON can be written."""
    if isinstance(node, str):
        return node
    parts = [f'"{key}"{draw(st.sampled_from([":", ":", ": "]))}{draw(written(value))}' for key, value in node.items()]
    parts += draw(st.lists(extras, max_size=1))
    if draw(st.integers(0, 2)) == 0:
        parts = draw(st.permutations(parts))
    return "{" + draw(st.sampled_from([",", ", ", " ,\n"])).join(parts) + "}"


@st.composite
def damaged(draw: st.DrawFn, text: bytes) -> bytes:
    """Draw ``text`` with a few bytes changed, dropped or put in."""
    changed = bytearray(text)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(changed) - 1))
        new = draw(st.one_of(st.sampled_from(b'{}[]",:\\0123456789.eE+-tfn \n\x00\x7f\xff'), st.integers(0, 255)))
        how = draw(st.integers(0, 2))
        changed[at : at + (how != 1)] = b"" if how == 2 else bytes([new])
        if not changed:
            break
    return bytes(changed)


@st.composite
def cases(draw: st.DrawFn) -> tuple[FieldMap, list[tuple[bytes | None, bytes]]]:
    """Draw a map and records for it, each followed by nearly the same ones."""
    field_map = draw(st.sampled_from(MAPS))
    records = []
    for _ in range(draw(st.integers(1, 4))):
        text = draw(documents(field_map)).encode()
        key = draw(st.sampled_from([b"A", b"A", b"BRK.B", b"NEW", b"", None, b"\xff"]))
        records += [(key, text), *((key, draw(damaged(text))) for _ in range(draw(st.integers(0, 3))))]
    return field_map, records


@settings(max_examples=300, deadline=None)
@given(case=cases())
def test_ticks_are_the_same_either_way(batches, case: tuple) -> None:
    field_map, records = case
    raw = batches.build([(key, text, []) for key, text in records])
    either_way.both(RawFetch(raw, 0, []), KNOWN, field_map)


@settings(max_examples=200, deadline=None)
@given(
    data=st.data(),
    seed=st.sampled_from([(TRADES, TRADE), (STREAMS, STREAMED), (STREAMS, QUOTED), (BY_KEY, ORDER), (TYPED, BOOK)]),
)
def test_damaged_ticks_are_the_same_either_way(batches, data: st.DataObject, seed: tuple) -> None:
    field_map, text = seed
    both(batches, field_map, text, *(data.draw(damaged(text)) for _ in range(6)), key=b"BRK.B")
