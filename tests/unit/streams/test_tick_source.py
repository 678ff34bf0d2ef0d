"""When partitions are waited for, and handed out together."""

from collections import deque
from types import SimpleNamespace

import pytest

from data_io.topics.raw_records import RawFetch
from streams.transport import tick_source
from streams.transport.tick_source import POLL_S, ROUND_BYTES


def partition(*sizes: int, takes: bool = True, lingers_s: float = 0.0):
    fetched = deque(RawFetch(b"x" * size, 0, []) for size in sizes)
    return SimpleNamespace(fetched=fetched, takes_batches=takes, lingers_s=lingers_s)


def test_small_batches_make_a_round_and_large_ones_stand_alone() -> None:
    partitions = [partition(size) for size in (1_000, 1_000, ROUND_BYTES, 1_000, 1_000)]
    assert [len(each) for each in tick_source._rounds(partitions)] == [2, 1, 2]
    assert list(tick_source._rounds([])) == []


@pytest.mark.parametrize(
    ("partitions", "expected_s"),
    [
        ([], POLL_S),
        ([partition()], POLL_S),
        ([partition(10, takes=False), partition()], POLL_S),
        ([partition(10), partition()], 0.0),
        ([partition(lingers_s=0.004), partition(lingers_s=9.0)], 0.004),
        ([partition(lingers_s=9.0)], POLL_S),
    ],
)
def test_new_ticks_are_waited_for_only_while_there_is_nothing_to_do(partitions, expected_s) -> None:
    assert tick_source._patience_s(partitions) == expected_s
