"""Which offsets a stretch of time stands for."""

from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition

from data_io import log_reader
from ml_core.types import OffsetRange

ONE, TWO = (TopicPartition("ticks", number) for number in (0, 1))
TIMES_MS = {ONE: [100, 200, 200, 300], TWO: [150, 250]}  # of the records from offset 10 on


class Stamped:
    async def offsets_for_times(self, asked):
        return {tp: first_from(TIMES_MS[tp], time_ms) for tp, time_ms in asked.items()}


def first_from(times_ms: list[int], time_ms: int):
    return next((SimpleNamespace(offset=10 + n) for n, each in enumerate(times_ms) if each >= time_ms), None)


@pytest.mark.parametrize(
    ("since_ms", "until_ms", "expected"),
    [
        (None, None, {ONE: (10, 14), TWO: (10, 12)}),
        (200, 300, {ONE: (11, 13), TWO: (11, 12)}),  # from the first of that time on, and before the other
        (200, None, {ONE: (11, 14), TWO: (11, 12)}),
        (None, 150, {ONE: (10, 11)}),
        (260, 10**6, {ONE: (13, 14)}),
        (10**6, None, {}),
    ],
)
async def test_a_time_of_arrival_is_the_first_record_that_is_not_older(since_ms, until_ms, expected):
    held = {tp: OffsetRange(partition=tp.partition, start=10, end=10 + len(times)) for tp, times in TIMES_MS.items()}
    found = await log_reader.arrived(Stamped(), held, since_ms, until_ms)
    assert {tp: (each.start, each.end) for tp, each in found.items()} == expected


async def test_what_is_in_an_open_transaction_has_not_arrived_yet():
    held = {ONE: OffsetRange(partition=0, start=10, end=12)}
    found = await log_reader.arrived(Stamped(), held, 200, 300)
    assert found == {ONE: OffsetRange(partition=0, start=11, end=12)}
