"""When a worker counts as stuck: ticks wait, nothing moves, for long, and told once."""

import time
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition

from streams.transport import tick_source
from streams.transport.tick_source import TickSource
from streams.watchdog import Watchdog


class Worker:
    """What a watchdog sees, and the clock it goes by."""

    def __init__(self) -> None:
        self.waiting, self.progress, self.now_s, self.told = 0.0, 0, 1000.0, []
        self.other = (0.0, 0)
        self.watchdog = Watchdog(
            work=lambda: {0: (self.waiting, self.progress), 1: self.other},
            limit_s=30.0,
            on_stuck=self.told.append,
            clock_s=lambda: self.now_s,
        )

    def after(self, seconds: float) -> float:
        """Let time pass, look, and return for how long nothing has moved."""
        self.now_s += seconds
        self.watchdog.look()
        return self.watchdog.stalled_s


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_a_worker_without_ticks_is_never_stuck_and_the_first_tick_after_a_quiet_hour_is_no_alarm(worker) -> None:
    assert worker.after(3600) == 0
    worker.waiting = 1
    assert worker.after(1) == 0
    assert worker.after(2) == 2


def test_a_worker_that_moves_is_not_stuck_however_much_waits(worker) -> None:
    worker.waiting = 10**6
    for worker.progress in range(100):
        assert worker.after(1) == 0
    assert worker.after(5) == 5


def test_one_that_does_not_move_is_told_of_once(worker) -> None:
    worker.waiting = 7
    worker.after(1)
    worker.after(30)
    assert not worker.told
    worker.after(1)
    worker.after(100)
    assert worker.told == ["ticks of partition 0 wait and have not moved for 31 s"]


def test_it_looks_by_itself_while_the_event_loop_stands_still(monkeypatch) -> None:
    monkeypatch.setattr("streams.watchdog.EVERY_S", 0.005)
    told = []
    with Watchdog(work=lambda: {0: (1, 0)}, limit_s=0.01, on_stuck=told.append):
        deadline = time.monotonic() + 10
        while not told and time.monotonic() < deadline:
            time.sleep(0.005)
    assert told


def test_one_partition_that_does_not_move_is_seen_beside_another_that_does(worker) -> None:
    worker.waiting = 1
    for k in range(5):
        worker.other = (9.0, k)
        worker.after(10)
    assert worker.told == ["ticks of partition 0 wait and have not moved for 40 s"]


async def test_ticks_do_not_wait_while_kafka_is_silent_unless_it_is_the_pump_that_stands_still() -> None:
    source = TickSource(SimpleNamespace(topic="ticks"), SimpleNamespace(), tick_source.Membership())
    silent, answered = (TopicPartition("ticks", number) for number in (3, 4))
    source.fetcher = SimpleNamespace(waits={}, readable={silent: 15, answered: 16})
    for tp in (silent, answered):
        source.partitions[tp.partition] = SimpleNamespace(
            number=tp.partition, tp=tp, position=10, phase=tick_source.Phase.OPEN
        )
    assert source.work() == {3: (5, 10), 4: (6, 10)}
    source.fetcher.waits = {silent: time.monotonic() - 60, answered: time.monotonic()}
    assert source.work() == {4: (6, 10)}
    source.fetcher.waits = {silent: time.monotonic() - 60}  # the other one has ticks enough, and no way to write
    assert source.work() == {}
    source.pumped_s -= 60
    assert source.work() == {3: (5, 10), 4: (6, 10)}


async def test_silence_is_told_of_the_partition_it_is_about() -> None:
    source = TickSource(SimpleNamespace(topic="ticks"), SimpleNamespace(), tick_source.Membership())
    now_s = time.monotonic()
    source.fetcher = SimpleNamespace(waits={TopicPartition("ticks", 0): now_s, TopicPartition("ticks", 3): now_s - 60})
    [(partition, silent_s)] = source.silent.items()
    assert (partition, round(silent_s)) == (3, 60)
