"""quixstreams: a StreamingDataFrame, a tick at a time; and its own consumer and producer, a batch at a time.

A StreamingDataFrame polls and dispatches every record by itself: with a sink that scores batches it takes about five
times the CPU of the best form here. Feature state is not kept over a restart.

usage: python -m tests.benchmarks.contenders.quixstreams \
    BOOTSTRAP TICKS_TOPIC TOPIC_ID OUT_TOPIC GROUP MODEL_ONNX PARTITIONS [idiomatic|best [throughput|latency]]
"""

import signal
import sys
import tempfile
import time
from itertools import groupby
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaException, Message, TopicPartition
from quixstreams import Application, message_context
from quixstreams.kafka import Consumer, Producer
from quixstreams.models import HeadersTuples, Row
from quixstreams.sinks.community.kafka import KafkaReplicatorSink

from tests.benchmarks.contenders.confluent import BATCH, CONSUMER, POLL_S, Outbox, producer_settings
from tests.benchmarks.contenders.steps import (
    COMMIT_S,
    ManyTicks,
    Model,
    OneDict,
    Partition,
    Task,
    tune_collector,
    warm_up,
)

QUICK_POLL_S = 0.001  # `consume` waits for a whole batch, or for so long


def idiomatic(given: Task) -> None:
    """A StreamingDataFrame as the documentation writes it: JSON in, ``apply``, a sink, checkpoints of the engine."""
    app = application(given, {})
    ticks = app.topic(given.ticks_topic, value_deserializer="json", key_deserializer="bytes")
    step = OneDict(given.topic_id, Model(given.model))
    partitions = {number: Partition(number) for number in range(int(given.partitions))}

    def predict(tick: dict[str, Any]) -> dict[str, Any]:
        context = message_context()
        return step(partitions[context.partition], context.offset, tick)

    settings = {"acks": "all", "enable.idempotence": True}
    sink = PlacedSink(given.bootstrap, given.out_topic, producer_extra_config=settings, auto_create_sink_topic=False)
    app.dataframe(ticks).apply(predict).sink(sink)
    app.run()


class PlacedSink(KafkaReplicatorSink):
    """The engine's sink for Kafka, with the partition of the tick; neither it nor ``to_topic`` takes one."""

    def add(
        self, value: Any, key: Any, timestamp: int, headers: HeadersTuples, topic: str, partition: int, offset: int
    ) -> None:
        row = Row(value, key, timestamp, message_context(), headers)
        self._producer.produce_row(row, self._topic, partition=partition)


class OpenProducer(Producer):
    """The producer of quixstreams with the client below it, whose batch call it does not pass on."""

    @property
    def client(self) -> confluent_kafka.Producer:
        return self._producer


class Loop:
    """Batches from the consumer to the producer, and offsets committed behind what is acknowledged."""

    def __init__(self, given: Task, consumer: Consumer) -> None:
        self._topic, self._consumer = given.ticks_topic, consumer
        self._outbox = Outbox(
            OpenProducer(given.bootstrap, extra_config=producer_settings(given)).client, given.out_topic
        )
        self._step = ManyTicks(given.topic_id, Model(given.model))
        self._partitions = {number: Partition(number) for number in range(int(given.partitions))}
        self._wait_s = QUICK_POLL_S if given.is_quick else POLL_S
        self._next: dict[int, int] = {}  # offsets to commit
        self.running = True

    def run(self) -> None:
        """Work until told to stop."""
        due = time.monotonic() + COMMIT_S
        while self.running:
            for number, records in groupby(self._consumer.consume(BATCH, self._wait_s), Message.partition):
                self._process(number, list(records))
            if time.monotonic() >= due:
                self.commit()
                due = time.monotonic() + COMMIT_S
        self.commit()

    def _process(self, number: int, records: list[Message]) -> None:
        for error in filter(None, map(Message.error, records)):
            raise KafkaException(error)
        offsets, values = list(map(Message.offset, records)), list(map(Message.value, records))
        self._outbox.send(self._step(self._partitions[number], offsets, values))
        self._next[number] = offsets[-1] + 1

    def commit(self, *_: object) -> None:
        """Commit what has been processed, once all of its predictions are acknowledged."""
        self._outbox.settle()
        if self._next:
            offsets = [TopicPartition(self._topic, number, offset) for number, offset in self._next.items()]
            self._consumer.commit(offsets=offsets, asynchronous=False)
            self._next.clear()


def best(given: Task) -> None:
    """The consumer and producer that an Application hands out, because a StreamingDataFrame takes records singly."""
    with application(given, CONSUMER).get_consumer(auto_commit_enable=False) as consumer:
        loop = Loop(given, consumer)
        tune_collector()
        signal.signal(signal.SIGTERM, lambda *_: setattr(loop, "running", False))
        consumer.subscribe([given.ticks_topic], on_revoke=loop.commit)
        loop.run()


def application(given: Task, consumer: dict[str, Any]) -> Application:
    """Return the application that both forms start from."""
    return Application(
        given.bootstrap,
        consumer_group=given.group,
        auto_offset_reset="earliest",
        commit_interval=COMMIT_S,
        auto_create_topics=False,
        state_dir=Path(tempfile.gettempdir()) / "quixstreams",  # nothing is kept there; it would be made here
        consumer_extra_config=consumer,
        loglevel="WARNING",
    )


if __name__ == "__main__":
    task = Task(*sys.argv[1:])
    warm_up()
    {"idiomatic": idiomatic, "best": best}[task.form](task)
