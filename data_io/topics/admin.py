"""Create topics, and learn what a topic is: its id and how many partitions it has."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import structlog
from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreatePartitionsRequest, CreateTopicsRequest

from data_io.topics.metadata import MetadataRequestWithIds
from ml_core.errors import InputError, KafkaUnavailableError, NotFoundError, SetupError

log = structlog.get_logger()

DAY_MS = 86_400_000
_RETRY_S = 0.1
_UNKNOWN = errors.UnknownTopicOrPartitionError
_BROKER_DEFAULT = -1  # replication: as many copies as the operator of the cluster has set


class TopicSpec(NamedTuple):
    """How a topic is created; ``config`` holds Kafka's own names and values."""

    name: str
    partitions: int
    config: dict[str, str]


class TopicInfo(NamedTuple):
    """What a topic is: Kafka's id (22 characters of base64url; a topic made anew has a new one) and its partitions."""

    topic_id: str
    partitions: int


class _Found(NamedTuple):
    """One topic of a metadata answer; ``led`` says that every partition has a leader."""

    error: type[errors.KafkaError]
    info: TopicInfo
    led: bool


def log_topic(name: str, partitions: int, *, retention_ms: int = 7 * DAY_MS, **config: str) -> TopicSpec:
    """Return a topic that keeps its records for ``retention_ms`` since the broker took them (-1: for ever).

    Stamped on arrival, because event time lives in the value: with the producer's stamps, recorded ticks of past years
    would be deleted at once and one record ahead of the clock would have its whole batch refused.

    >>> log_topic("market.ticks.v1", 4).config["message.timestamp.type"]
    'LogAppendTime'
    """
    own = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime", "retention.ms": str(retention_ms)}
    return TopicSpec(name, partitions, own | config)


def compacted_topic(name: str, partitions: int, **config: str) -> TopicSpec:
    """Return a topic that keeps the last record of every key, cleaned often enough to be read back in seconds."""
    own = {
        "cleanup.policy": "compact",
        "message.timestamp.type": "LogAppendTime",
        "segment.bytes": str(64 << 20),
        "min.cleanable.dirty.ratio": "0.2",
    }
    return TopicSpec(name, partitions, own | config)


async def ensure_topics(
    bootstrap: str, specs: Iterable[TopicSpec], timeout_s: float = 30, *, widen: bool = False
) -> None:
    """Create what is missing and return once every partition of ``specs`` has a leader.

    What exists is left as it is; with ``widen``, a topic of too few partitions is given more. That is for topics whose
    records go to the partition of their ticks: where a key would choose it, symbols would move.

    Raises:
        SetupError: A topic has another number of partitions, or Kafka refuses to create any. A retry will not help.
        KafkaUnavailableError: Kafka did not answer within ``timeout_s``. A retry is safe.
    """
    wanted = {spec.name: spec for spec in specs}
    if not wanted:
        return
    async with _client(bootstrap, timeout_s, f"create {', '.join(wanted)}") as client:
        asked = False
        while True:
            found = await _metadata(client, list(wanted))
            for name, topic in found.items():
                _check(wanted[name], topic, widen=widen)
            missing = [wanted[name] for name, topic in found.items() if topic.error is _UNKNOWN]
            narrow = [wanted[name] for name, topic in found.items() if _is_narrow(wanted[name], topic)]
            if not (missing or narrow) and all(topic.error is errors.NoError and topic.led for topic in found.values()):
                return
            if asked:  # the broker asked may hear of it a moment after the controller
                await asyncio.sleep(_RETRY_S)
            if missing:
                await _create(client, missing)
            if narrow:
                await _widen(client, narrow)
            asked = True


async def create_missing(bootstrap: str, specs: Iterable[TopicSpec]) -> None:
    """Create those of ``specs`` that are missing; one that exists keeps its partitions. Raises as ``ensure_topics``."""
    for spec in specs:
        try:
            await describe(bootstrap, spec.name)
        except NotFoundError:
            await ensure_topics(bootstrap, [spec])


async def describe(bootstrap: str, topic: str, timeout_s: float = 30) -> TopicInfo:
    """Return id and partitions of ``topic``.

    Raises:
        NotFoundError: There is no such topic.
        InputError: Kafka does not allow such a name, or does not let us see the topic.
        KafkaUnavailableError: Kafka did not answer within ``timeout_s``. A retry is safe.
    """
    async with _client(bootstrap, timeout_s, f"describe {topic!r}") as client:
        while True:
            found = (await _metadata(client, [topic]))[topic]
            if found.error is errors.NoError:
                return found.info
            if found.error is _UNKNOWN:
                raise NotFoundError(f"Kafka at {bootstrap} has no topic {topic!r}; create it, or correct the name")
            if not found.error.retriable:
                raise InputError(f"Kafka at {bootstrap} does not describe topic {topic!r}: {found.error.__name__}")
            await asyncio.sleep(_RETRY_S)


def _is_narrow(spec: TopicSpec, found: _Found) -> bool:
    return found.error is errors.NoError and found.info.partitions < spec.partitions


def _check(spec: TopicSpec, found: _Found, *, widen: bool) -> None:
    has = found.info.partitions
    if found.error is errors.NoError and has != spec.partitions and not widen:
        raise SetupError(
            f"topic {spec.name!r} has {has} partitions instead of {spec.partitions}: "
            "another number would send symbols elsewhere; use a topic of another name, or this number"
        )
    if found.error is errors.NoError and has > spec.partitions:
        raise SetupError(
            f"topic {spec.name!r} has {has} partitions instead of {spec.partitions}, and Kafka takes none away: "
            f"delete it, or give the topic of ticks {has} partitions"
        )
    if found.error not in (errors.NoError, _UNKNOWN) and not found.error.retriable:
        raise SetupError(f"Kafka does not give topic {spec.name!r}: {found.error.__name__}")


def _controller(client: AIOKafkaClient) -> Any:
    known = client.cluster.controller
    return client.get_random_node() if known is None else known.nodeId


async def _create(client: AIOKafkaClient, specs: Sequence[TopicSpec]) -> None:
    topics: list[Any] = [(spec.name, spec.partitions, _BROKER_DEFAULT, [], list(spec.config.items())) for spec in specs]
    request = CreateTopicsRequest(topics, timeout=10_000, validate_only=False)
    answer = await _answer(client, lambda: _controller(client), request)
    for name, code, message in answer.topic_errors:
        error = errors.for_code(code)
        # existing: another process was faster; the next look checks its partitions
        if error not in (errors.NoError, errors.TopicAlreadyExistsError) and not error.retriable:
            raise SetupError(f"Kafka refuses to create topic {name!r}: {message or error.__name__}")


async def _widen(client: AIOKafkaClient, specs: Sequence[TopicSpec]) -> None:
    topics: list[Any] = [(spec.name, (spec.partitions, None)) for spec in specs]  # None: on brokers of Kafka's choice
    request = CreatePartitionsRequest(topics, timeout=10_000, validate_only=False)
    answer = await _answer(client, lambda: _controller(client), request)
    partitions = {spec.name: spec.partitions for spec in specs}
    for name, code, message in answer.topic_errors:
        error = errors.for_code(code)
        if error is errors.NoError:
            log.info("a topic was widened", action="topics", topic=name, partitions=partitions[name])
        # invalid number: another process was faster; the next look checks it
        elif error is not errors.InvalidPartitionsError and not error.retriable:
            raise SetupError(f"Kafka refuses to widen topic {name!r}: {message or error.__name__}")


async def _metadata(client: AIOKafkaClient, topics: Sequence[str]) -> dict[str, _Found]:
    answer = await _answer(client, client.get_random_node, MetadataRequestWithIds(topics))
    found = {}
    for code, name, topic_id, _, partitions, *_ in answer.topics:
        led = all(leader >= 0 for _, _, leader, *_ in partitions)
        found[name] = _Found(errors.for_code(code), TopicInfo(topic_id, len(partitions)), led)
    return found


async def _answer(client: AIOKafkaClient, node: Callable[[], Any], request: Any) -> Any:
    """Ask ``node``, again where it is away: a broker that has just started knows of none, not even of itself."""
    while True:
        try:
            number = node()
            if number is not None:
                return await client.send(number, request)
        except errors.KafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(_RETRY_S)
        await client.force_metadata_update()


@asynccontextmanager
async def _client(bootstrap: str, timeout_s: float, purpose: str) -> AsyncIterator[AIOKafkaClient]:
    client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=int(timeout_s * 1000))
    try:
        async with asyncio.timeout(timeout_s):
            await client.bootstrap()
            yield client
    except (TimeoutError, OSError, errors.KafkaError) as error:
        # `asyncio.timeout` says nothing; others, as a refused connection, may have come at once.
        why = f" within {timeout_s:g} s" if type(error) is TimeoutError else f": {error!r}"
        raise KafkaUnavailableError(f"Kafka at {bootstrap} did not let us {purpose}{why}") from error
    finally:
        await client.close()
