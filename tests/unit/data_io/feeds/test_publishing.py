import json

import numpy as np
import pytest
from msgspec import DecodeError

from data_io.feeds import gaps
from data_io.feeds.gaps import Gap
from data_io.feeds.live import LiveBatch
from data_io.feeds.publishing import encode
from data_io.topics import ticks
from data_io.topics.records import Records
from ml_core.types import SymbolTable, TickBatch


def batch() -> LiveBatch:
    return LiveBatch(
        TickBatch(
            offset_N=np.arange(2),
            index_N=np.zeros(2, np.int32),
            kind_N=np.array([0, 1], np.int8),
            symbol_N=np.zeros(2, np.int32),
            ts_ns_N=np.array([1_700_000_000_000_000_001, 1_700_000_000_000_000_002]),
            price_N=np.array([100.5, np.nan]),
            size_N=np.array([0.1, np.nan]),
            side_N=np.array([-1, 0], np.int8),
            bid_N=np.array([np.nan, 100.0]),
            ask_N=np.array([np.nan, 101.0]),
            bid_size_N=np.array([np.nan, 1.0]),
            ask_size_N=np.array([np.nan, 2.0]),
            seq_N=np.array([7, -1]),
            symbols=["BTCUSDT"],
        ),
        np.array([1_699_999_999_000_000_000, -1]),
        np.array([True, False]),
        [],
    )


def test_a_record_keeps_the_venue_time_and_says_what_was_asked_for_afterwards() -> None:
    (key, trade), (_, quote) = encode(batch())

    assert key == b"BTCUSDT"
    assert json.loads(trade)["exchange_ts"] == 1_699_999_999_000_000_000
    assert json.loads(trade)["backfilled"] is True
    assert not {"exchange_ts", "backfilled"} & set(json.loads(quote))


def test_decoders_of_ticks_read_it_as_any_other_tick() -> None:
    given = batch()
    records = encode(given)
    found, rejects = ticks.TickDecoder().decode(
        Records([0, 1], [key for key, _ in records], [value for _, value in records], [(), ()]), SymbolTable()
    )
    assert not rejects
    for name in ("kind_N", "ts_ns_N", "price_N", "size_N", "side_N", "bid_N", "ask_N", "seq_N"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given.ticks, name))


def test_a_gap_is_one_json_object_under_its_symbol() -> None:
    gap = Gap("BTCUSDT", "trade", 5, 9, "not_given", 100, 104)
    key, value = gaps.encode(gap)
    assert key == b"BTCUSDT"
    assert json.loads(value) == {
        "symbol": "BTCUSDT",
        "kind": "trade",
        "from_ns": 5,
        "to_ns": 9,
        "reason": "not_given",
        "first_seq": 100,
        "last_seq": 104,
    }
    assert gaps.decode(value) == gap
    assert gap.trades == 5


def test_gaps_of_quotes_have_no_ids() -> None:
    gap = Gap("A", "quote", 1, 2, "disconnected")
    assert "first_seq" not in json.loads(gaps.encode(gap)[1])
    assert gaps.decode(gaps.encode(gap)[1]) == gap
    assert gap.trades == 0


def test_what_is_no_gap_is_refused() -> None:
    with pytest.raises(DecodeError):
        gaps.decode(b'{"symbol":"A","kind":"trade","from_ns":1,"to_ns":2,"reason":"bored"}')
