"""How many hand-outs may be under way, and what a failed one does."""

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import InvalidProducerEpoch

from data_io.topics.record_batch import content, pack
from ml_core.errors import KafkaUnavailableError
from streams.transport import outputs as transport
from streams.transport.outputs import Outputs


class Channel:
    """Keeps what is queued until the test says what has become of it."""

    def __init__(self) -> None:
        self.queued: dict[TopicPartition, list[asyncio.Future]] = {}
        self.sizes: list[int] = []

    def queue(self, tp: TopicPartition, batch) -> asyncio.Future:
        self.sizes.append(batch.records)
        future = asyncio.get_running_loop().create_future()
        self.queued.setdefault(tp, []).append(future)
        return future

    def stop(self) -> None:
        pass

    def oldest(self, topic: str) -> asyncio.Future:
        return self.queued[TopicPartition(topic, 3)].pop(0)


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def outputs(channel) -> Outputs:
    return Outputs(channel, 3)


def hand_out(outputs: Outputs) -> None:
    outputs.begin()
    for topic in ("rows", "scores"):
        outputs.send(topic, pack([(b"k", b"v", [])]))


async def test_a_third_batch_of_ticks_waits_until_all_outputs_of_the_first_are_acknowledged(outputs, channel) -> None:
    hand_out(outputs)
    assert outputs.has_room
    hand_out(outputs)
    assert not outputs.has_room

    channel.oldest("rows").set_result(None)
    assert not outputs.has_room
    channel.oldest("scores").set_result(None)
    assert outputs.has_room


async def test_after_a_failed_output_nothing_more_is_taken(outputs, channel) -> None:
    hand_out(outputs)
    channel.oldest("rows").set_exception(InvalidProducerEpoch())

    for _ in range(2):
        with pytest.raises(KafkaUnavailableError, match="partition 3"):
            hand_out(outputs)


async def test_what_waits_to_settle_learns_of_a_failure_that_somebody_else_has_seen(outputs, channel) -> None:
    """A checkpoint behind an output that failed would lose it."""
    hand_out(outputs)
    settling = asyncio.create_task(outputs.settle())
    await asyncio.sleep(0)
    channel.oldest("rows").set_exception(InvalidProducerEpoch())
    with pytest.raises(KafkaUnavailableError):
        outputs.go_on()
    channel.oldest("scores").set_result(None)
    with pytest.raises(KafkaUnavailableError):
        await settling


async def test_what_was_stopped_before_it_was_acknowledged_is_not_settled(outputs) -> None:
    hand_out(outputs)
    settling = asyncio.create_task(outputs.settle())
    await asyncio.sleep(0)
    outputs.stop()
    with pytest.raises(KafkaUnavailableError, match="stopped"):
        await settling


LETTER = content(b"k", b"v" * 100, [])


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    clock = SimpleNamespace(now_s=100.0, monotonic=lambda: clock.now_s)
    monkeypatch.setattr(transport, "time", clock)
    return clock


async def test_what_is_held_goes_out_together_when_it_has_waited_long_enough(outputs, channel, clock) -> None:
    outputs.hold("letters", [LETTER])
    outputs.go_on()
    outputs.hold("letters", [LETTER, LETTER])
    outputs.go_on()
    assert channel.sizes == []

    clock.now_s += transport.HELD_S
    outputs.go_on()
    outputs.go_on()
    assert channel.sizes == [3]


async def test_outputs_tell_for_how_long_the_oldest_has_waited(outputs, channel, clock) -> None:
    assert outputs.waiting_s == 0
    hand_out(outputs)
    clock.now_s += 7
    hand_out(outputs)
    assert outputs.waiting_s == 7
    for topic in ("rows", "scores"):
        channel.oldest(topic).set_result(None)
    assert outputs.waiting_s == 0


async def test_what_is_held_is_bounded(outputs, channel) -> None:
    enough = transport.HELD_BYTES // len(LETTER) + 1
    outputs.hold("letters", [LETTER] * enough)
    outputs.go_on()
    assert channel.sizes == [enough]


async def test_nothing_settles_before_what_is_held_is_acknowledged(outputs, channel) -> None:
    """A checkpoint says that its ticks are done with, their dead letters too."""
    outputs.hold("letters", [LETTER])
    settling = asyncio.create_task(outputs.settle())
    await asyncio.sleep(0)
    assert channel.sizes == [1]
    assert not settling.done()
    channel.oldest("letters").set_result(None)
    await settling
