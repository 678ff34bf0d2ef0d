import asyncio
import socket

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from data_io.topics.admin import DAY_MS, compacted_topic, create_missing, describe, ensure_topics, log_topic
from ml_core.errors import InputError, KafkaUnavailableError, NotFoundError, SetupError
from streams.local_kafka.node import free_ports

pytestmark = pytest.mark.integration


async def config_of(kafka: str, topic: str) -> dict[str, str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    finally:
        await admin.close()
    ((_, _, _, _, entries),) = answer.resources
    return {name: value for name, value, *_ in entries}


async def test_topics_are_created_with_their_partitions_and_settings(kafka: str, unique: str) -> None:
    ticks, state = f"ticks-{unique}", f"state-{unique}"

    await ensure_topics(kafka, [log_topic(ticks, 4, retention_ms=3 * DAY_MS), compacted_topic(state, 2)])

    assert (await describe(kafka, ticks)).partitions == 4
    assert (await describe(kafka, state)).partitions == 2
    found = await config_of(kafka, ticks)
    assert (found["message.timestamp.type"], found["retention.ms"]) == ("LogAppendTime", str(3 * DAY_MS))
    found = await config_of(kafka, state)
    assert (found["cleanup.policy"], found["min.cleanable.dirty.ratio"]) == ("compact", "0.2")


async def test_a_topic_can_be_written_to_as_soon_as_it_is_ensured(kafka: str, unique: str) -> None:
    await ensure_topics(kafka, [log_topic(unique, 1)])

    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        sent = await producer.send_and_wait(unique, b"tick", timestamp_ms=1_376_000_000_000)

    assert sent.offset == 0
    assert sent.timestamp > 1_376_000_000_000  # stamped by the broker, so that a tick of 2013 is kept


async def test_ensuring_twice_changes_nothing(kafka: str, unique: str) -> None:
    await ensure_topics(kafka, [log_topic(unique, 2)])
    first = await describe(kafka, unique)

    await ensure_topics(kafka, [log_topic(unique, 2)])

    assert await describe(kafka, unique) == first


async def test_a_missing_topic_is_created_and_one_that_is_there_keeps_its_partitions(kafka: str, unique: str) -> None:
    there, missing = log_topic(f"there-{unique}", 3), log_topic(f"missing-{unique}", 2)
    await ensure_topics(kafka, [there])

    await create_missing(kafka, [there._replace(partitions=1), missing])

    assert [(await describe(kafka, spec.name)).partitions for spec in (there, missing)] == [3, 2]


async def test_many_may_ensure_the_same_topic_at_once(kafka: str, unique: str) -> None:
    await asyncio.gather(*(ensure_topics(kafka, [log_topic(unique, 2)]) for _ in range(5)))

    assert (await describe(kafka, unique)).partitions == 2


async def test_the_topic_id_is_kafkas_and_a_topic_made_anew_has_another(kafka: str, unique: str) -> None:
    await ensure_topics(kafka, [log_topic(unique, 1)])
    first = (await describe(kafka, unique)).topic_id
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.delete_topics([unique])
    await admin.close()

    async with asyncio.timeout(20):
        while not await gone(kafka, unique):  # noqa: ASYNC110  # Kafka gives no sign
            await asyncio.sleep(0.05)
    await ensure_topics(kafka, [log_topic(unique, 1)])

    second = (await describe(kafka, unique)).topic_id
    assert len(first) == len(second) == 22
    assert first != second


async def gone(kafka: str, topic: str) -> bool:
    try:
        await describe(kafka, topic)
    except NotFoundError:
        return True
    return False


async def test_another_partition_count_is_refused_and_nothing_changes(kafka: str, unique: str) -> None:
    await ensure_topics(kafka, [log_topic(unique, 2)])

    with pytest.raises(SetupError, match=f"{unique}' has 2 partitions instead of 3"):
        await ensure_topics(kafka, [log_topic(unique, 3)])

    assert (await describe(kafka, unique)).partitions == 2


async def test_a_topic_that_follows_another_is_widened_by_many_at_once_and_never_narrowed(kafka, unique) -> None:
    await ensure_topics(kafka, [log_topic(unique, 2)])

    wider = [log_topic(unique, 3), log_topic(f"new-{unique}", 3)]
    await asyncio.gather(*(ensure_topics(kafka, wider, widen=True) for _ in range(3)))
    assert [(await describe(kafka, spec.name)).partitions for spec in wider] == [3, 3]

    with pytest.raises(SetupError, match=f"{unique}' has 3 partitions instead of 2, and Kafka takes none away"):
        await ensure_topics(kafka, [log_topic(unique, 2)], widen=True)


async def test_a_setting_kafka_refuses_is_named(kafka: str, unique: str) -> None:
    with pytest.raises(SetupError, match=r"retention\.ms"):
        await ensure_topics(kafka, [log_topic(unique, 1, **{"retention.ms": "soon"})])


async def test_a_missing_topic_is_not_found(kafka: str, unique: str) -> None:
    with pytest.raises(NotFoundError, match=unique):
        await describe(kafka, unique)


@pytest.mark.parametrize("name", ["no spaces", "a/b", "x" * 300, ".."])
async def test_a_name_kafka_does_not_allow_is_bad_input(kafka: str, name: str) -> None:
    with pytest.raises(InputError):
        await describe(kafka, name)
    with pytest.raises(SetupError):
        await ensure_topics(kafka, [log_topic(name, 1)])


async def test_nobody_listening_is_told_within_the_bound() -> None:
    (port,) = free_ports(1)

    with pytest.raises(KafkaUnavailableError, match=str(port)) as refused:
        await describe(f"127.0.0.1:{port}", "ticks", timeout_s=30)
    assert "within" not in str(refused.value), "it was told at once"


async def test_somebody_who_never_answers_is_told_within_the_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with asyncio.timeout(5):
            with pytest.raises(KafkaUnavailableError, match=f"{port} .* within 0.3 s"):
                await describe(f"127.0.0.1:{port}", "ticks", timeout_s=0.3)
