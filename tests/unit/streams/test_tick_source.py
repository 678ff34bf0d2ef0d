"""When partitions are fetched for, waited for, and handed out together."""

from collections import deque
from types import SimpleNamespace

import pytest

from data_io.topics.raw_records import RawFetch
from streams.transport import tick_source
from streams.transport.tick_source import POLL_S, ROUND_BYTES, TickSource


def partition(*sizes: int, takes: bool = True, lingers_s: float = 0.0, fetching: bool = True, tp: str = "ticks-0"):
    fetched = deque(RawFetch(b"x" * size, 0, []) for size in sizes)
    return SimpleNamespace(fetched=fetched, takes_batches=takes, lingers_s=lingers_s, is_fetching=fetching, tp=tp)


class Consumer:
    def __init__(self, *assigned: str) -> None:
        self.assigned, self.calls = set(assigned), []

    def assignment(self):
        return self.assigned

    def pause(self, tp: str) -> None:
        self.calls.append(("pause", tp))

    def resume(self, tp: str) -> None:
        self.calls.append(("resume", tp))


def fetch_for(consumer: Consumer, *partitions) -> list[tuple[str, str]]:
    consumer.calls.clear()
    TickSource._fetch_for(SimpleNamespace(consumer=consumer), partitions)
    return list(consumer.calls)


def test_small_batches_make_a_round_and_large_ones_stand_alone() -> None:
    partitions = [partition(size) for size in (1_000, 1_000, ROUND_BYTES, 1_000, 1_000)]
    assert [len(each) for each in tick_source._rounds(partitions)] == [2, 1, 2]
    assert list(tick_source._rounds([])) == []


def test_a_partition_that_cannot_take_what_came_is_paused_until_it_has_and_the_others_are_not() -> None:
    consumer = Consumer("ticks-0", "ticks-1")
    full, other = partition(10, takes=False, tp="ticks-0"), partition(tp="ticks-1")

    assert fetch_for(consumer, full, other) == [("pause", "ticks-0")]
    assert fetch_for(consumer, full, other) == []

    full.fetched.clear()
    assert fetch_for(consumer, full, other) == [("resume", "ticks-0")]


def test_a_partition_that_lingers_is_not_fetched_for() -> None:
    consumer = Consumer("ticks-0")
    lingering = partition(lingers_s=0.02)
    assert fetch_for(consumer, lingering) == [("pause", "ticks-0")]
    lingering.lingers_s = -0.001
    assert fetch_for(consumer, lingering) == [("resume", "ticks-0")]


def test_a_partition_that_was_taken_away_is_left_alone() -> None:
    assert fetch_for(Consumer(), partition(10)) == []


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
