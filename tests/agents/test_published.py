"""Of which tick the last record of each output topic tells, read of what the agent writes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from data_io.topics.ticks import TickDecoder
from ml_core.errors import InputError
from ml_core.spec import parse
from streams.agents import windowing
from streams.transport.batch_channel import Batch
from streams.transport.published import of_bars, of_predictions, of_rows
from streams.transport.tails import Tails
from tests.agents.conftest import partition_of
from tests.agents.in_memory import ARROW, arrow, fetch_of, quote, quotes

PLACES = {
    "features.demo.v1": of_rows,
    "predictions.demo.v1": of_predictions,
    "bars.demo.v1": of_bars,
}


class Scorer:
    """A model whose score is 0."""

    contract = SimpleNamespace(horizons_ns=(10**9,))

    def scores(self, x_NTF):
        return np.zeros((len(x_NTF), 1), np.float32)


def record_of(key, value, headers) -> SimpleNamespace:
    return SimpleNamespace(key=key, value=value, headers=tuple(headers), partition=2)


@pytest.mark.parametrize("form", ["json", "arrow"])
async def test_each_topic_tells_how_far_it_reaches(form) -> None:
    bars = {"by": ["time:10s"], "price": "mid"}
    partition = partition_of(parse({"name": "demo", "predictions": {"format": form}, "bars": bars}))
    partition.serving = {"demo": SimpleNamespace(version=SimpleNamespace(version=1), scorer=Scorer())}
    late, bad = quote(1_700_000_012 * 10**9), quote(1, bid=-1.0)
    records = [arrow(*quotes(25)), arrow(*quotes(2, start_s=1_700_000_025), late), arrow(late, bad), b"x"]
    records.append(arrow(*quotes(2, start_s=1_700_000_027)))

    batch = Batch(partition, fetch_of(records, headers=[ARROW]))
    windowing.process([batch], TickDecoder())
    await batch.ended

    last = {topic: record_of(*partition.outputs.of(topic)[-1]) for topic in PLACES}
    assert [place_of(last[topic], "Topic") for topic, place_of in PLACES.items()] == [None] * 3
    assert {topic: place_of(last[topic], "Topic-id") for topic, place_of in PLACES.items()} == {
        "features.demo.v1": (4, 1),
        "predictions.demo.v1": (4, 1),
        "bars.demo.v1": (0, 20),
    }


FOREIGN = [None, b"", b"null", b"[]", b"{}", b'{"id":7}', b'{"id":"a"}', b'{"id":"a-0-b-c"}', b"\xff"]


@pytest.mark.parametrize("place_of", [of_rows, of_predictions, of_bars])
@pytest.mark.parametrize("value", FOREIGN)
def test_what_tells_of_no_tick_is_passed_over(place_of, value) -> None:
    record = record_of(None, value, [("tickwise.topic-id", b"a")])
    with pytest.raises(InputError):
        place_of(record, "a")


def test_a_provisional_bar_is_of_no_tick() -> None:
    columns = dict.fromkeys(("number", "start_ns", "end_ns", "open", "high", "low", "close", "volume", "value"), 0)
    shown = {**columns, "vwap": None, "buy_volume": 0, "ticks": 0, "revision": -1, "status": "provisional"}
    bar = {"id": None, "symbol": "A", "kind": "time:1s", **shown, "complete": True, "offset": None, "index": None}
    assert of_bars(record_of(None, json.dumps(bar).encode(), []), "Topic-id") is None


def test_a_tail_ends_inside_of_a_record_of_many_ticks() -> None:
    offset_N, index_N = np.array([4, 5, 5, 5, 6]), np.array([0, 0, 1, 2, 0], np.int32)
    tails = Tails(3, {"stays": (5, 1), "repeats": (5, 1)}, stays=["stays", "new"])

    assert [tails.first(topic, offset_N, index_N) for topic in ("stays", "repeats", "new")] == [3, 0, 0]
    assert tails.first("stays", offset_N[4:], index_N[4:]) == 0
    assert tails.first("stays", offset_N[:1], index_N[:1]) == 1
    assert (tails.reach(["stays", "new"]), tails.reach(["new"])) == (5, -1)
    assert (tails.behind(5), tails.behind(6)) == ({"stays": (5, 1), "repeats": (5, 1)}, {})
