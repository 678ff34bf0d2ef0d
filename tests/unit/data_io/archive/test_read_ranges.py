"""A range that archive and Kafka share is the frame of Kafka alone."""

import json
from contextlib import asynccontextmanager

import pandas as pd
import pytest
from aiokafka import TopicPartition

from data_io.data_fetcher import kafka_range
from data_io.data_fetcher.kafka_range import fetch_ranges
from data_io.topics.admin import TopicInfo
from data_io.topics.ticks import TickDecoder
from ml_core.errors import ArchiveUnavailableError
from ml_core.types import OffsetRange, SymbolTable
from tests.unit.data_io.archive.archive_lab import PLACE, record, writer, written

TP = TopicPartition(PLACE.topic, PLACE.partition)
WHOLE = [OffsetRange(partition=PLACE.partition, start=0, end=6)]


def tick(offset: int, symbol: str):
    value = {"type": "trade", "symbol": symbol, "ts": 10**18 + offset, "price": 1.0, "size": 1.0}
    return record(offset, json.dumps(value).encode())


LOG = [tick(offset, symbol) for offset, symbol in enumerate("ABACBD")]


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """The first half of the log, in the archive; Kafka has all of it."""

    async def describe(*_):
        return TopicInfo(PLACE.topic_id, PLACE.partition + 1)

    async def bounds(*_):
        return {TP: 0}, {TP: len(LOG)}

    @asynccontextmanager
    async def consumer(_):
        yield

    async def read(_, wanted):
        for tp, each in wanted.items():
            yield tp, LOG[each.start : each.end]

    monkeypatch.setattr(kafka_range.admin, "describe", describe)
    for name, made in (("bounds", bounds), ("consumer", consumer), ("read", read)):
        monkeypatch.setattr(kafka_range.log_reader, name, made)
    made = writer(tmp_path)
    made.begin(0)
    made.add(LOG[:3], 3)
    written(made)
    made.close()
    return tmp_path


@pytest.mark.parametrize("limit", [3, 4])
async def test_symbols_that_have_no_place_are_those_that_come_last_wherever_they_were_read(archive, monkeypatch, limit):
    monkeypatch.setitem(SymbolTable.__init__.__kwdefaults__, "limit", limit)
    alone = await fetch_ranges("kafka", PLACE.topic, WHOLE, TickDecoder())
    shared = await fetch_ranges("kafka", PLACE.topic, WHOLE, TickDecoder(), archive=archive)

    pd.testing.assert_frame_equal(shared.frame, alone.frame, check_exact=True)
    assert list(shared.frame["symbol"].cat.categories) == list("ABCD"[:limit])
    assert shared.frame["offset"].tolist() == [0, 1, 2, 3, 4, 5][: limit + 2]
    assert shared.rejected == alone.rejected == ({} if limit == 4 else {"symbols_full": 1})


async def test_a_file_that_is_deleted_while_a_range_is_read_is_looked_for_again(archive, monkeypatch):
    known = kafka_range.layout.listed
    found = known(PLACE.folder(archive))
    found[0].path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(kafka_range.layout, "listed", lambda _: found)
        with pytest.raises(ArchiveUnavailableError, match="was deleted"):
            await fetch_ranges("kafka", PLACE.topic, WHOLE, TickDecoder(), archive=archive)
    again = await fetch_ranges("kafka", PLACE.topic, WHOLE, TickDecoder(), archive=archive)
    assert len(again.frame) == len(LOG)
