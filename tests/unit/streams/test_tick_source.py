"""When partitions are waited for, and handed out together."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError

from data_io.topics.raw_records import RawFetch
from ml_core.errors import KafkaUnavailableError, ModelStoreUnavailableError, SetupError
from streams.transport import tick_source
from streams.transport.attempts import AWAY_S, MAX_ATTEMPTS, Attempts, is_away
from streams.transport.batch_channel import Batch
from streams.transport.partition import Phase
from streams.transport.tick_fetcher import TickFetcher
from streams.transport.tick_source import POLL_S, ROUND_BYTES, TickSource
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


class Claims:
    """A source whose takeovers end as ``end`` says, and what it made of them; a pause takes no time."""

    def __init__(self, monkeypatch, end: Callable[[], Awaitable[None]]) -> None:
        self.pauses, self.closed, self.tries, self.now_s = [], [], [], 0.0
        tp, lab = TopicPartition("ticks", 0), self

        class Claimed:
            """Knows its position from the checkpoint."""

            def __init__(self, *_) -> None:
                self.number, self.tp, self.position, self.phase = 0, tp, 0, Phase.CLAIMING

            async def open(self, _first_offset) -> None:
                lab.tries.append(dict(lab.source.troubles))
                self.position = 500
                await end()

            async def close(self, *, checkpoint: bool) -> None:
                self.phase = Phase.CLOSED
                lab.closed.append(checkpoint)

        async def first_offset(_tp):
            return 0

        async def pause(seconds: float) -> None:
            self.pauses.append(seconds)
            self.now_s += seconds

        self.source = TickSource(SimpleNamespace(topic="ticks"), SimpleNamespace(), tick_source.Membership())
        self.source.consumer = SimpleNamespace(assignment=lambda: {tp})
        self.source.fetcher = TickFetcher(SimpleNamespace())
        self.source.sender, self.source._first_offset = None, first_offset
        monkeypatch.setattr(tick_source, "Partition", Claimed)
        monkeypatch.setattr(tick_source.asyncio, "sleep", pause)
        monkeypatch.setattr(tick_source, "Attempts", lambda: Attempts(lambda: self.now_s))
        self.source._claim(0)


async def test_a_worker_that_starts_while_the_model_store_is_away_tries_for_a_while_and_ends_with_its_error(
    monkeypatch,
) -> None:
    async def end() -> None:
        raise ModelStoreUnavailableError("the model store is away")

    claims = Claims(monkeypatch, end)
    async with asyncio.timeout(5):
        error = await claims.source.fatal

    assert isinstance(error, ModelStoreUnavailableError)
    assert claims.tries == [{}, *[{0: "the model store is away"}] * (MAX_ATTEMPTS - 1)]
    assert claims.closed == [False] * MAX_ATTEMPTS
    assert 20 < sum(claims.pauses) < 30


def refused() -> KafkaUnavailableError:
    error = KafkaUnavailableError("no way to Kafka")
    error.__cause__ = KafkaConnectionError("connection refused")
    return error


async def test_a_worker_outlasts_a_broker_that_refuses_connections_for_minutes_and_says_why_it_is_not_ready(
    monkeypatch,
) -> None:
    is_back = asyncio.get_running_loop().create_future()

    async def end() -> None:
        if claims.now_s < AWAY_S - 60:
            raise refused()
        is_back.set_result(None)

    claims = Claims(monkeypatch, end)
    async with asyncio.timeout(5):
        await is_back
        await claims.source._claims[0]

    assert len(claims.tries) > 3 * MAX_ATTEMPTS
    assert claims.tries[1:] == [{0: "no way to Kafka"}] * (len(claims.tries) - 1)
    assert (max(claims.pauses), claims.source.troubles, claims.source.fatal.done()) == (8.0, {}, False)
    assert claims.source._attempts[0]._away_s is None, "when Kafka goes away again, it counts from then"


async def test_a_worker_does_not_wait_for_a_broker_for_ever(monkeypatch) -> None:
    async def end() -> None:
        raise refused()

    claims = Claims(monkeypatch, end)
    async with asyncio.timeout(5):
        assert isinstance(await claims.source.fatal, KafkaUnavailableError)
    assert AWAY_S <= claims.now_s < AWAY_S + 10


async def test_attempts_are_forgotten_once_the_partition_is_further_on_than_where_it_failed(monkeypatch) -> None:
    async def end() -> None:
        pass

    source = Claims(monkeypatch, end).source
    await asyncio.gather(*source._claims.values())
    opened = source.partitions[0]
    opened.advance = lambda next_offset, _: setattr(opened, "position", next_offset)
    attempts = source._attempts[0] = Attempts()
    attempts.failed(600, away=False)

    async def advanced_to(offset: int) -> None:
        ended = asyncio.get_running_loop().create_future()
        ended.set_result((offset, 1))
        fetch = SimpleNamespace(raw=memoryview(b""))
        await source._ended(SimpleNamespace(partition=opened, ended=ended, fetch=fetch))

    await advanced_to(600)
    assert source._attempts == {0: attempts}, "the batch that failed has not been processed"
    await advanced_to(601)
    assert source._attempts == {}


async def test_attempts_of_a_partition_are_forgotten_when_the_group_deals_partitions_anew(monkeypatch) -> None:
    rebalances, done = 0, asyncio.get_running_loop().create_future()

    async def end() -> None:
        nonlocal rebalances
        if len(claims.tries) % 2:
            raise ValueError("once in each")
        rebalances += 1
        if rebalances > MAX_ATTEMPTS:
            done.set_result(None)
        else:
            again.append(asyncio.create_task(deal()))

    async def deal() -> None:
        await claims.source._close_all(checkpoint=True)
        claims.source._claim(0)

    again: list[asyncio.Task[None]] = []
    claims = Claims(monkeypatch, end)
    async with asyncio.timeout(5):
        await done
    assert not claims.source.fatal.done()


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


async def test_a_takeover_does_not_wait_for_a_kafka_that_is_silent_and_says_who_was(monkeypatch) -> None:
    shared = SimpleNamespace(topic="ticks", bootstrap="kafka:9092")
    source = TickSource(shared, SimpleNamespace(), tick_source.Membership())
    monkeypatch.setattr(tick_source, "ASKED_S", 0.01)
    source._check_topic = asyncio.Event().wait

    with pytest.raises(KafkaUnavailableError, match="kafka:9092 did not answer") as raised:
        await source._first_offset(TopicPartition("ticks", 0))
    assert is_away(raised.value)


async def test_kafka_is_called_silent_where_it_owes_an_answer_to_a_fetch_an_output_or_a_checkpoint() -> None:
    source = TickSource(SimpleNamespace(topic="ticks"), SimpleNamespace(), tick_source.Membership())
    source.has_joined, now_s = True, time.monotonic()
    source.fetcher = SimpleNamespace(waits={TopicPartition("ticks", 0): now_s - 9, TopicPartition("ticks", 1): now_s})
    for number, unanswered_s in enumerate((0.0, 1.0, 7.0)):
        source.partitions[number] = SimpleNamespace(number=number, works=True, unanswered_s=unanswered_s)

    assert {number: round(wait_s) for number, wait_s in source.unanswered.items()} == {0: 9, 2: 7}


async def test_a_source_that_has_not_begun_owes_nothing_and_stops() -> None:
    source = TickSource(SimpleNamespace(topic="ticks"), SimpleNamespace(), tick_source.Membership())
    assert source.unanswered == {}
    await source.stop()


async def test_a_pump_that_is_cancelled_while_nobody_stops_the_source_ends_the_worker() -> None:
    """A cancelled coordinator cancels whoever asks how it does; without a pump the worker is dead and says nothing."""
    channel = SimpleNamespace(has_subscriber=True)
    source = TickSource(SimpleNamespace(topic="ticks"), channel, tick_source.Membership())

    def cancelled() -> None:
        raise asyncio.CancelledError

    source.fetcher = SimpleNamespace(ask=list)
    source.consumer = SimpleNamespace(_coordinator=SimpleNamespace(check_errors=cancelled))
    pump = asyncio.create_task(TickSource._pump.fun(source))
    await asyncio.gather(pump, return_exceptions=True)

    assert isinstance(source.fatal.result(), KafkaUnavailableError)
