import json

import pytest

from data_io.topics import bars
from ml_core.data_processor.bars import step
from ml_core.errors import SchemaMismatchError
from tests.unit.ml_core.data_processor.bar_lab import pipeline, state_of
from tests.unit.ml_core.data_processor.market import START_NS, batch, trade

NUMBER = START_NS // 10**10


def records(ticks, *by: str):
    state = state_of(pipeline(*by))
    return bars.encode(step(batch(ticks, state.symbols), state), topic_id="Topic-id", partition=3)


def test_a_record_is_a_bar_under_its_symbol() -> None:
    ticks = [trade(1, 0.1, 3, symbol="BTC-USDT"), trade(2, 0.3, 7, -1, symbol="BTC-USDT")]

    [(key, value, headers)] = records([*ticks, trade(10, 1, symbol="BTC-USDT")], "time:10s")

    assert (key, headers) == (b"BTC-USDT", [])
    assert json.loads(value) == {
        "id": f"Topic-id-3-BTC-USDT-time:10s-{NUMBER}-0",
        "symbol": "BTC-USDT",
        "kind": "time:10s",
        "number": NUMBER,
        "start_ns": START_NS,
        "end_ns": START_NS + 10**10,
        "open": 0.1,
        "high": 0.3,
        "low": 0.1,
        "close": 0.3,
        "volume": 10.0,
        "value": 2.4,
        "vwap": 0.24,
        "buy_volume": 3.0,
        "ticks": 2,
        "revision": 0,
        "status": "final",
        "complete": False,
        "offset": 2,
        "index": 0,
    }


def test_numbers_are_read_as_they_were_written_and_a_bar_without_volume_has_no_vwap() -> None:
    ticks = [trade(1, 1 / 3, 1e-9 / 7), trade(2, 5, float("nan"))]

    found = [bars.decode(value) for _, value, _ in records(ticks, "ticks:1")]

    assert [(bar.open, bar.volume) for bar in found] == [(1 / 3, 1e-9 / 7), (5, 0)]
    assert [bar.vwap for bar in found] == [pytest.approx(1 / 3), None]
    assert [bar.number for bar in found] == [0, 1]


@pytest.mark.parametrize("value", [None, b"", b"{}", b'{"symbol": 3}'])
def test_what_is_no_bar_is_told(value) -> None:
    with pytest.raises(SchemaMismatchError, match="holds no bar"):
        bars.decode(value)
