"""When partitions are waited for, and handed out together."""

import asyncio
from collections import deque
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition

from data_io.topics.raw_records import RawFetch
from ml_core.errors import ModelStoreUnavailableError, SetupError
from streams.transport import tick_source
from streams.transport.batch_channel import Batch
from streams.transport.partition import Phase
from streams.transport.tick_fetcher import TickFetcher
from streams.transport.tick_source import MAX_ATTEMPTS, POLL_S, ROUND_BYTES, TickSource
from tests.agents.in_memory import fetch_of


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


async def test_a_partition_that_failed_gets_nothing_of_what_was_fetched_before_it() -> None:
    """What follows the offset it failed at is not what its next owner goes on from."""
    tp = TopicPartition("ticks", 0)
    source = TickSource(SimpleNamespace(topic="ticks"), SimpleNamespace(), tick_source.Membership())
    source.fetcher = TickFetcher(SimpleNamespace())
    source.fetcher.seek(tp, 100)
    source.fetcher._arrived.append((tp, RawFetch(b"x", 100, [])))

    async def close(*, checkpoint: bool) -> None:
        assert not checkpoint
        source.partitions.clear()  # taken away: it is not claimed again

    failed = source.partitions[0] = SimpleNamespace(number=0, tp=tp, phase=Phase.OPEN, close=close)
    source._fail(failed, ValueError("wrong"))
    await asyncio.gather(*source._claims.values())
    assert await source.fetcher.arrived(0) == []
    assert failed.phase is Phase.CLOSED


async def test_a_worker_that_starts_while_the_model_store_is_away_tries_for_a_while_and_ends_with_its_error(
    monkeypatch,
) -> None:
    tp, pauses, closed, tries = TopicPartition("ticks", 0), [], [], []

    class Claimed:
        """Knows its position from the checkpoint, and the version there cannot be loaded."""

        phase = Phase.CLAIMING

        def __init__(self, *_) -> None:
            self.number, self.tp, self.position = 0, tp, 0

        async def open(self, _first_offset) -> None:
            tries.append(dict(source.troubles))
            self.position = 500
            raise ModelStoreUnavailableError("the model store is away")

        async def close(self, *, checkpoint: bool) -> None:
            closed.append(checkpoint)

    async def beginning_offsets(tps):
        return dict.fromkeys(tps, 0)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async def is_there() -> None:
        pass

    source = TickSource(SimpleNamespace(topic="ticks"), SimpleNamespace(), tick_source.Membership())
    source.consumer = SimpleNamespace(beginning_offsets=beginning_offsets, assignment=lambda: {tp})
    source.sender, source._check_topic = None, is_there
    monkeypatch.setattr(tick_source, "Partition", Claimed)
    monkeypatch.setattr(tick_source.asyncio, "sleep", pause)
    source._claim(0)
    async with asyncio.timeout(5):
        error = await source.fatal

    assert isinstance(error, ModelStoreUnavailableError)
    assert tries == [{}, *[{0: "the model store is away"}] * (MAX_ATTEMPTS - 1)]
    assert closed == [False] * MAX_ATTEMPTS
    assert 20 < sum(pauses) < 30


async def test_a_batch_that_fails_while_its_partition_is_revoked_lets_no_checkpoint_trust_the_state() -> None:
    """The state has moved and the position has not: the next owner would take the same ticks twice."""
    source = TickSource(SimpleNamespace(topic="ticks"), SimpleNamespace(), tick_source.Membership())
    source.fetcher = TickFetcher(SimpleNamespace())
    closed_in = []

    async def close(*, checkpoint: bool) -> None:
        closed_in.append(revoked.phase)

    revoked = SimpleNamespace(number=0, tp=TopicPartition("ticks", 0), phase=Phase.OPEN, close=close)
    source.partitions[0] = revoked
    source._idle.clear()  # a batch is at the agents
    closing = asyncio.create_task(source._close_all(checkpoint=True))
    await asyncio.sleep(0)
    source._fail(revoked, ValueError("the scorer failed"))
    source._idle.set()
    await closing
    assert closed_in == [Phase.CLOSED]


async def test_what_was_left_of_a_fetch_is_handed_out_next() -> None:
    source = TickSource(SimpleNamespace(topic="ticks"), SimpleNamespace(), tick_source.Membership())
    next_fetch = fetch_of([b"d"], first_offset=3)
    taken = SimpleNamespace(number=0, position=0, fetched=deque([next_fetch]))
    taken.advance = lambda next_offset, _rows: setattr(taken, "position", next_offset)
    batch = Batch(taken, fetch_of([b"a", b"b", b"c"]))

    batch.done(2, 2)
    await source._ended(batch)

    assert list(taken.fetched) == [batch.fetch._replace(first_offset=2), next_fetch]

    batch = Batch(taken, taken.fetched.popleft())
    batch.done(3, 1)
    await source._ended(batch)

    assert list(taken.fetched) == [next_fetch]


async def test_an_error_that_a_person_has_to_decide_about_ends_the_worker_at_once() -> None:
    source = TickSource(SimpleNamespace(topic="ticks"), SimpleNamespace(), tick_source.Membership())
    source.fetcher = TickFetcher(SimpleNamespace())

    async def close(*, checkpoint: bool) -> None:
        assert not checkpoint

    tp = TopicPartition("ticks", 3)
    failed = source.partitions[3] = SimpleNamespace(number=3, tp=tp, phase=Phase.OPEN, position=700, close=close)
    source._fail(failed, SetupError("the record batch at offset 700 is too large"))
    async with asyncio.timeout(5):
        error = await source.fatal

    assert isinstance(error, SetupError)
    assert str(error) == "partition 3 of ticks: the record batch at offset 700 is too large"
