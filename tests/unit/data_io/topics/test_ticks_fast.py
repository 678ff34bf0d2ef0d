"""The kernel and the exact decoder give the same columns, bit by bit, and the same rejects."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_io.topics.raw_records import RawFetch
from data_io.topics.symbol_index import SymbolIndex
from data_io.topics.tick_kernel import LAYOUTS, MAX_PROBES
from data_io.topics.ticks import Decoded, TickDecoder, warm_up
from ml_core.types import MAX_TS_NS, SymbolTable
from tests.unit.data_io.topics import either_way

TRADE = b'{"type":"trade","symbol":"ACME","ts":1723075200000000000,"price":61000.1,"size":0.25,"side":"buy"}'
QUOTE = (
    b'{"type":"quote","symbol":"ACME","ts":1723075200000000001,"bid":1.5,"ask":1.5,"bid_size":2,"ask_size":3,"seq":9}'
)
KNOWN = ["ACME", "BRK.B", "BTC-USDT", "S" * 64]


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_up()


def both(batches, texts: list[bytes | None], known: list[str]) -> Decoded:
    return either_way.both(RawFetch(batches.build(batches.values(*texts)), 0, []), known)


def left_over(batches, text: bytes) -> int:
    """Return how many of one record the kernel leaves to the exact decoder: 0 or 1."""
    return len(both(batches, [text], KNOWN).reject_records.offset)


@pytest.mark.parametrize(
    "text",
    [
        TRADE,
        QUOTE,
        TRADE.replace(b",", b", ").replace(b":", b" : "),
        b" \t\r\n" + QUOTE + b"\n",
        TRADE.replace(b'"buy"', b'"sell"'),
        TRADE.replace(b'"buy"', b"-1"),
        TRADE.replace(b'"buy"', b"0"),
        TRADE.replace(b'"buy"', b"null"),
        TRADE.replace(b"}", b',"seq":null}'),
        TRADE.replace(b"61000.1", b"99.92725625262298"),
        TRADE.replace(b"0.25", b"1e-05"),
        TRADE.replace(b"0.25", b"1.5E+3"),
        TRADE.replace(b"0.25", b"0.00100000"),
        TRADE.replace(b"}", b',"venue":"XNYS","exchange_ts":-12.50,"live":true,"note":null,"a_long_name":1}'),
        TRADE.replace(b"}", b',"bid":0}'),
        TRADE.replace(b"}", b',"deep":{"a":[1,{"b":[]},"x, ]"],"c":{}},"list":[ ]}'),
        TRADE.replace(b"0.25", b"0.00012345678901234567"),
        QUOTE.replace(b"}", b',"side":"sell"}'),
        TRADE.replace(b"ACME", b"S" * 64),
    ],
)
def test_plain_ticks_are_taken_by_the_kernel(batches, text: bytes) -> None:
    assert left_over(batches, text) == 0


@pytest.mark.parametrize(
    "text",
    [
        TRADE.replace(b"ACME", b"AC\\u004dE"),
        TRADE.replace(b"type", b"t\\u0079pe"),
        TRADE.replace(b"ACME", "ÄCME".encode()),
        TRADE.replace(b"ACME", b"UNSEEN"),
        TRADE.replace(b"ACME", b"ACM"),
        TRADE.replace(b"ACME", b"ACME2"),
        TRADE.replace(b"61000.1", b"12345678901234567890.5"),
        TRADE.replace(b"61000.1", b"1e300"),
        TRADE.replace(b"61000.1", b"-1"),
        TRADE.replace(b"61000.1", b"0.0"),
        TRADE.replace(b"61000.1", b"01.5"),
        TRADE.replace(b"61000.1", b"1."),
        TRADE.replace(b"61000.1", b".5"),
        TRADE.replace(b"61000.1", b"1e"),
        TRADE.replace(b"61000.1", b'"1"'),
        TRADE.replace(b"61000.1", b"NaN"),
        TRADE.replace(b"1723075200000000000", b"4102444800000000001"),
        TRADE.replace(b"1723075200000000000", b"9223372036854775808"),
        TRADE.replace(b"1723075200000000000", b"0"),
        TRADE.replace(b"1723075200000000000", b"1.0"),
        TRADE.replace(b"1723075200000000000", b"true"),
        TRADE.replace(b"}", b',"price":2}'),
        TRADE.replace(b"}", b',"list":[1,]}'),
        TRADE.replace(b"}", b',"seq":-1}'),
        TRADE.replace(b"}", b",}"),
        TRADE.replace(b"trade", b"order"),
        QUOTE.replace(b'"ask":1.5', b'"ask":1.4'),
        QUOTE.replace(b',"bid_size":2', b""),
        TRADE + b"x",
        TRADE[:-1],
        b"{}",
        b"[]",
        b"",
    ],
)
def test_everything_else_is_left_to_the_exact_decoder(batches, text: bytes) -> None:
    assert left_over(batches, text) == 1


plain_symbols = st.sampled_from([*KNOWN, "NEW", "Ä1", 'Q"', "a\\b", "with space", "", "S" * 65])
decimals = st.one_of(
    st.floats(min_value=5e-324, max_value=1.7e308).map(repr),
    st.floats(min_value=1e-9, max_value=1e9).map(repr),
    st.decimals(min_value="1e-12", max_value="1e12", places=8).map(lambda d: f"{d:f}"),
    st.tuples(st.integers(1, 10**20), st.integers(-70, 70)).map(lambda pair: f"{pair[0]}e{pair[1]}"),
    st.tuples(st.integers(0, 10**9), st.text("0123456789", min_size=1, max_size=24)).map(lambda p: f"{p[0]}.{p[1]}"),
    st.sampled_from(["0", "-1", "1e999", "1e-999", "-0.0", "null", "true", '"1"', "[1]", "9007199254740993", "1e23"]),
)
times = st.one_of(
    st.integers(1, MAX_TS_NS).map(str),
    st.integers(MAX_TS_NS - 1, MAX_TS_NS + 2).map(str),
    st.sampled_from(["0", "-5", "9223372036854775808", "1.0", "1e18", "null", "false"]),
)
sides = st.sampled_from(['"buy"', '"sell"', "1", "-1", "0", "null", '"b"', "2", "true", "1.0", '"bu\\u0079"', "-0"])
extras = st.sampled_from(
    [("venue", '"X"'), ("conditions", '["@"]'), ("x", "1e999"), ("seq", "7"), ("seq", "-7"), ("bid", "0")]
)


@st.composite
def tick_texts(draw: st.DrawFn) -> bytes:
    """Draw JSON that is a tick, or nearly one."""
    kind = draw(st.sampled_from(["trade", "quote"]))
    numbers = ("price", "size") if kind == "trade" else ("bid", "ask", "bid_size", "ask_size")
    fields = [("type", f'"{kind}"'), ("symbol", json.dumps(draw(plain_symbols), ensure_ascii=draw(st.booleans())))]
    fields += [("ts", draw(times)), *((name, draw(decimals)) for name in numbers)]
    fields += [("side", draw(sides))] * draw(st.integers(0, 1)) + draw(st.lists(extras, max_size=2))
    if draw(st.booleans()):
        fields = draw(st.permutations(fields))
    if draw(st.integers(0, 9)) == 0:
        fields.pop(draw(st.integers(0, len(fields) - 1)))
    comma, colon = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:")]))
    return ("{" + comma.join(f'"{name}"{colon}{text}' for name, text in fields) + "}").encode()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a tick with a few bytes changed, dropped or put in."""
    text = bytearray(draw(st.one_of(tick_texts(), st.sampled_from([TRADE, QUOTE]))))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text) - 1))
        new = draw(st.one_of(st.sampled_from(b'{}[]",:\\0123456789.eE+-tfn \n\x00\x7f\xff'), st.integers(0, 255)))
        how = draw(st.integers(0, 2))
        text[at : at + (how != 1)] = b"" if how == 2 else bytes([new])
        if not text:
            break
    return bytes(text)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.one_of(tick_texts(), st.sampled_from([TRADE, QUOTE]), st.none()), max_size=8))
def test_ticks_are_the_same_either_way(batches, texts: list[bytes | None]) -> None:
    both(batches, texts, KNOWN)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(mutated(), min_size=1, max_size=8))
def test_damaged_ticks_are_the_same_either_way(batches, texts: list[bytes]) -> None:
    # Behind whole ones, so that a damaged tick meets the layout that it nearly has.
    both(batches, [TRADE, QUOTE, *texts], KNOWN)


@settings(max_examples=200, deadline=None)
@given(text=decimals)
@example("9007199254740993")  # halfway between two floats
@example("9007199254740993.0000")
@example("1.7976931348623157e308")
@example("8.5e-5")
@example("0.000000000000000000000000000000000000000000000000000001")
def test_a_number_becomes_the_nearest_float(batches, text: str) -> None:
    ticks = both(batches, [TRADE.replace(b"61000.1", text.encode())], KNOWN).ticks
    try:
        expected = float(text)
    except ValueError:
        expected = 0.0
    assert ticks.price_N.tolist() == ([expected] if 0 < expected < float("inf") else [])


def test_a_hundred_thousand_numbers_become_their_nearest_floats(batches) -> None:
    # Enough for the carry out of the second product, which one number in a few thousand needs.
    rng = np.random.default_rng(5)
    digits = rng.integers(1, 10 ** rng.integers(1, 19, 100_000, dtype=np.int64))
    numbers = [f"{m}e{p}" for m, p in zip(digits.tolist(), rng.integers(-60, 60, 100_000).tolist(), strict=True)]
    head, tail = TRADE.split(b"61000.1")
    fetch = RawFetch(batches.build(batches.values(*(head + text.encode() + tail for text in numbers))), 0, [])
    decoded = TickDecoder().decode_fetch(fetch, SymbolTable(KNOWN))
    assert len(decoded.reject_records.offset) == 0
    assert decoded.ticks.price_N.tolist() == [float(text) for text in numbers]


def test_a_new_symbol_gets_its_place_in_the_order_of_the_log(batches) -> None:
    texts = [TRADE.replace(b"ACME", name) for name in (b"ACME", b"N1", b"BAD ONE", b"N2", b"ACME", b"N1")]
    decoded = both(batches, texts, ["ACME"])
    assert decoded.ticks.symbols == ["ACME", "N1", "N2"]
    assert decoded.ticks.symbol_N.tolist() == [0, 1, 2, 0, 1]
    assert decoded.ticks.offset_N.tolist() == [0, 1, 3, 4, 5]


def test_a_symbol_seen_once_is_known_from_the_next_fetch_on(batches) -> None:
    decoder, symbols = TickDecoder(), SymbolTable()
    fetch = RawFetch(batches.build(batches.values(TRADE, QUOTE)), 0, [])
    assert len(decoder.decode_fetch(fetch, symbols).reject_records.offset) == 2
    assert len(decoder.decode_fetch(fetch, symbols).reject_records.offset) == 0


def test_two_tables_do_not_mix_their_symbols(batches) -> None:
    decoder, a, b = TickDecoder(), SymbolTable(["X", "ACME"]), SymbolTable(["ACME"])
    fetch = RawFetch(batches.build(batches.values(TRADE)), 0, [])
    assert [decoder.decode_fetch(fetch, table).ticks.symbol_N.tolist() for table in (a, b, a)] == [[1], [0], [1]]


def test_fetches_of_many_layouts_are_read_as_by_a_decoder_that_has_met_none(batches) -> None:
    texts = [TRADE, QUOTE]
    texts += [text.replace(b"}", b',"x%d":1}' % i) for i in range(2 * LAYOUTS) for text in (TRADE, QUOTE)]
    texts += [TRADE[:-9], TRADE.replace(b"price", b"prise"), QUOTE, TRADE]
    decoder, symbols = TickDecoder(), SymbolTable(KNOWN)
    for text in texts * 2:
        fetch = RawFetch(batches.build(batches.values(text, TRADE)), 0, [])
        kept, fresh = decoder.decode_fetch(fetch, symbols), TickDecoder().decode_fetch(fetch, SymbolTable(KNOWN))
        assert [c.tobytes() for c in kept.ticks[:-1]] == [c.tobytes() for c in fresh.ticks[:-1]]
        assert (kept.rejects, kept.reject_records) == (fresh.rejects, fresh.reject_records)


def test_records_that_cannot_be_read_push_no_layout_out(batches) -> None:
    bad = [TRADE.replace(b"0.25,", b'0,"x%d":1,' % i) for i in range(2 * LAYOUTS)]  # written like ticks
    bad = [text for each in bad for text in (each, TRADE[:-9])]
    decoder, symbols = TickDecoder(), SymbolTable(KNOWN)

    def decode(*texts: bytes) -> None:
        decoder.decode_fetch(RawFetch(batches.build(batches.values(*texts)), 0, []), symbols)

    decode(TRADE, QUOTE)
    kept, turn = decoder._layouts.text_LC[:2].copy(), decoder._layouts.turn_3[:2].copy()
    decode(*bad, TRADE, QUOTE, *bad)

    assert (decoder._layouts.count_L[:2] > 0).all()
    assert (decoder._layouts.text_LC[:2] == kept).all()
    assert (decoder._layouts.turn_3[:2] == turn).all()  # what is tried first


def test_a_full_table_rejects_new_symbols_and_keeps_the_old(batches) -> None:
    symbols = SymbolTable(["ACME"], limit=1)
    fetch = RawFetch(batches.build(batches.values(TRADE.replace(b"ACME", b"NEW"), TRADE)), 0, [])
    decoded = TickDecoder().decode_fetch(fetch, symbols)
    assert [(r.position, r.reason) for r in decoded.rejects] == [(0, "symbols_full")]
    assert decoded.ticks.offset_N.tolist() == [1]


def test_thousands_of_symbols_keep_their_own_index(batches) -> None:
    names = [f"SYM{i}" for i in range(5000)] + ["Ä", "SYM1 ", *(f"X{i}" for i in range(100))]
    symbols, decoder = SymbolTable(), TickDecoder()
    for upto in (1, 700, 3000, len(names)):
        for name in names[len(symbols) : upto]:
            symbols.add(name)
        plain = [i for i in range(0, upto, 7) if names[i].isascii() and " " not in names[i]]
        texts = [TRADE.replace(b"ACME", names[i].encode()) for i in plain]
        decoded = decoder.decode_fetch(RawFetch(batches.build(batches.values(*texts)), 0, []), symbols)
        assert len(decoded.reject_records.offset) == 0
        assert decoded.ticks.symbol_N.tolist() == plain


def test_symbols_that_fall_into_one_slot_are_told_apart(batches) -> None:
    arrays = SymbolIndex().follow(SymbolTable([f"C{i}" for i in range(300)]))
    slots = len(arrays.slot_S)
    assert slots >= 600
    # Names whose hashes share their low bits, found by asking the index where it put them.
    alone = {
        name: int(np.flatnonzero(SymbolIndex().follow(SymbolTable([name])).slot_S == 0)[0]) for name in _names(20_000)
    }
    slot = max(set(alone.values()), key=list(alone.values()).count)
    colliding = [name for name, place in alone.items() if place == slot]
    assert len(colliding) > 5
    texts = [TRADE.replace(b"ACME", name.encode()) for name in reversed(colliding)]
    decoded = both(batches, texts, colliding)
    assert decoded.ticks.symbol_N.tolist() == list(reversed(range(len(colliding))))
    assert len(colliding) < MAX_PROBES
    assert not decoded.reject_records.offset


def _names(count: int) -> list[str]:
    return [f"N{i}" for i in range(count)]
