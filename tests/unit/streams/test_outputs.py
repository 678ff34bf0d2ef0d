"""How many hand-outs may be under way, and what a failed one does; aiokafka's own accumulator, no broker behind it."""

from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import ProducerFenced
from aiokafka.producer.message_accumulator import MessageAccumulator

from data_io.topics.record_batch import pack
from ml_core.errors import KafkaUnavailableError
from streams.transport.outputs import Outputs


@pytest.fixture
async def accumulator() -> MessageAccumulator:
    return MessageAccumulator(SimpleNamespace(), 1 << 20, 0, 30)


@pytest.fixture
def outputs(accumulator) -> Outputs:
    return Outputs(SimpleNamespace(_message_accumulator=accumulator), 3)


def hand_out(outputs: Outputs) -> None:
    outputs.begin()
    for topic in ("rows", "scores"):
        outputs.send(topic, pack([(b"k", b"v", [])]))


def oldest(accumulator, topic: str):
    return accumulator._batches[TopicPartition(topic, 3)].popleft()


async def test_a_third_batch_of_ticks_waits_until_all_outputs_of_the_first_are_acknowledged(
    outputs, accumulator
) -> None:
    hand_out(outputs)
    assert outputs.has_room
    hand_out(outputs)
    assert not outputs.has_room

    oldest(accumulator, "rows").done(base_offset=0)
    assert not outputs.has_room
    oldest(accumulator, "scores").done(base_offset=0)
    assert outputs.has_room


async def test_after_a_failed_output_nothing_more_is_taken(outputs, accumulator) -> None:
    hand_out(outputs)
    oldest(accumulator, "rows").failure(ProducerFenced())

    with pytest.raises(KafkaUnavailableError, match="partition 3"):
        hand_out(outputs)
