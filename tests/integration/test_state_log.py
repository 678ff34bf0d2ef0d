"""The state log on a Kafka with default limits."""

from aiokafka import TopicPartition

from data_io.topics import admin
from data_io.topics.admin import TopicSpec
from streams.transport import state_log
from streams.transport.state_log import Manifest, StateLog


async def test_a_block_larger_than_any_record_comes_back_as_it_was_and_can_be_deleted(kafka, unique) -> None:
    ticks = TopicPartition(f"ticks-{unique}", 0)
    await admin.ensure_topics(kafka, [TopicSpec(ticks.topic, 1, {}), state_log.topic_spec(unique, 1)])
    manifest = Manifest(topic=ticks.topic, topic_id="id", partitions=1, position=7, kernels={}, models={})
    block, key = bytes(range(256)) * 12_000, b"demo/window-1024/0"
    assert len(block) > 2 * 1_048_588
    small = {b"demo/features/0": b"small"}

    async def after(changes) -> tuple[Manifest | None, dict[bytes, bytes]]:
        log = StateLog(kafka, unique, ticks)
        try:
            found = await log.claim()
            await log.commit(manifest, changes)
            return found
        finally:
            await log.close()

    assert await after([(key, block), *small.items()]) == (None, {})
    assert await after([(key, None)]) == (manifest, {key: block, **small})
    assert await after([]) == (manifest, small)
