"""bytewax: its Kafka connectors, a tick at a time; and a source and a sink of our own, a batch at a time.

bytewax commits no offsets to a consumer group: its recovery store holds positions and state together, here every 5 s.
GROUP names that store, in `.bench`.

usage: python -m tests.benchmarks.contenders.bytewax \
    BOOTSTRAP TICKS_TOPIC TOPIC_ID OUT_TOPIC GROUP MODEL_ONNX PARTITIONS [idiomatic|best [throughput|latency]]
"""

import json
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from bytewax import operators as op
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSourceMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, FixedPartitionedSink, StatefulSinkPartition, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, Producer, TopicPartition

from tests.benchmarks.contenders.confluent import BATCH, CONSUMER, Outbox, producer_settings
from tests.benchmarks.contenders.steps import (
    COMMIT_S,
    ManyTicks,
    Model,
    OneDict,
    Partition,
    Predictions,
    Task,
    tune_collector,
    warm_up,
)

COMMIT = timedelta(seconds=COMMIT_S)
STORES = Path(__file__).parents[3] / ".bench" / "bytewax-stores"


def idiomatic(given: Task) -> Dataflow:
    """Kafka in, ``stateful_map``, Kafka out, as the documentation writes it.

    State is keyed by the partition of Kafka, because bytewax keeps the order of a key only.
    """
    step = OneDict(given.topic_id, Model(given.model))

    def predict(partition: Partition | None, record: KafkaSourceMessage) -> tuple[Partition, KafkaSinkMessage]:
        partition = partition or Partition(record.partition)
        prediction = step(partition, record.offset, json.loads(record.value))
        return partition, KafkaSinkMessage(record.key, json.dumps(prediction).encode(), partition=record.partition)

    flow = Dataflow("bench")
    ticks = kop.input("ticks", flow, brokers=[given.bootstrap], topics=[given.ticks_topic])
    keyed = op.key_on("partition", ticks.oks, lambda record: str(record.partition))
    predictions = op.key_rm("predictions", op.stateful_map("predict", keyed, predict))
    op.output("out", predictions, PlacedSink(given))
    return flow


class Placed(StatelessSinkPartition[KafkaSinkMessage]):
    """What `KafkaSink` writes, and where its messages say: it passes their partition over."""

    def __init__(self, given: Task) -> None:
        config = {"bootstrap.servers": given.bootstrap, "acks": "all", "enable.idempotence": True}
        self._producer, self._topic = Producer(config), given.out_topic

    def write_batch(self, items: list[KafkaSinkMessage]) -> None:
        for item in items:
            self._producer.produce(self._topic, item.value, item.key, item.partition)
            self._producer.poll(0)
        self._producer.flush()


class PlacedSink(DynamicSink[KafkaSinkMessage]):
    """`KafkaSink` with the partition of the tick."""

    def __init__(self, given: Task) -> None:
        self._given = given

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Placed:
        return Placed(self._given)


class Batch(NamedTuple):
    """Records of one partition."""

    partition: int
    offsets: list[int]
    values: list[bytes]


class Ticks(StatefulSourcePartition[tuple[str, Batch], int]):
    """One partition of ticks; an item is a batch of it, keyed by its number."""

    def __init__(self, given: Task, number: int, offset: int) -> None:
        config = {
            "bootstrap.servers": given.bootstrap,
            "group.id": given.group,
            "enable.auto.commit": False,
            **CONSUMER,
        }
        self._consumer = Consumer(config)
        self._consumer.assign([TopicPartition(given.ticks_topic, number, offset)])
        self._number, self._next = number, offset

    def next_batch(self) -> list[tuple[str, Batch]]:
        records = self._consumer.consume(BATCH, 0)
        if not records:
            return []
        for error in filter(None, map(Message.error, records)):
            raise KafkaException(error)
        offsets = list(map(Message.offset, records))
        self._next = offsets[-1] + 1
        return [(str(self._number), Batch(self._number, offsets, list(map(Message.value, records))))]

    def snapshot(self) -> int:
        return self._next

    def close(self) -> None:
        self._consumer.close()


class TicksSource(FixedPartitionedSource[tuple[str, Batch], int]):
    """The topic of ticks from its beginning, or from where the recovery store says."""

    def __init__(self, given: Task) -> None:
        self._given = given

    def list_parts(self) -> list[str]:
        return [str(number) for number in range(int(self._given.partitions))]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Ticks:
        return Ticks(self._given, int(for_part), OFFSET_BEGINNING if resume_state is None else resume_state)


class Out(StatefulSinkPartition[Predictions, None]):
    """The topic of predictions; an epoch ends when all of its records are acknowledged."""

    def __init__(self, given: Task) -> None:
        self._outbox = Outbox(
            Producer({"bootstrap.servers": given.bootstrap, **producer_settings(given)}), given.out_topic
        )

    def write_batch(self, values: list[Predictions]) -> None:
        for predictions in values:
            self._outbox.send(predictions)

    def snapshot(self) -> None:
        self._outbox.settle()


class OutSink(FixedPartitionedSink[Predictions, None]):
    """One sink for all partitions of Kafka; it is no `DynamicSink`, because only a sink with state hears of epochs."""

    def __init__(self, given: Task) -> None:
        self._given = given

    def list_parts(self) -> list[str]:
        return ["all"]

    def part_fn(self, item_key: str) -> int:
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> Out:
        return Out(self._given)


def best(given: Task) -> Dataflow:
    """Batches as items: what bytewax does for an item it does once for thousands of ticks."""
    step = ManyTicks(given.topic_id, Model(given.model))

    def predict(partition: Partition | None, batch: Batch) -> tuple[Partition, Predictions]:
        partition = partition or Partition(batch.partition)
        return partition, step(partition, batch.offsets, batch.values)

    flow = Dataflow("bench")
    ticks = op.input("ticks", flow, TicksSource(given))
    op.output("out", op.stateful_map("predict", ticks, predict), OutSink(given))
    tune_collector()
    return flow


def run(flow: Dataflow, store: Path) -> None:
    """Run until SIGTERM; bytewax wraps whatever interrupts it, and goes on from its store the next time."""
    if not store.exists():
        store.mkdir(parents=True)
        init_db_dir(store, 1)
    stopping = threading.Event()

    def stop(*_: object) -> None:
        stopping.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        cli_main(flow, epoch_interval=COMMIT, recovery_config=RecoveryConfig(str(store)))
    except (BytewaxRuntimeError, KeyboardInterrupt):
        if not stopping.is_set():
            raise


if __name__ == "__main__":
    task = Task(*sys.argv[1:])
    warm_up()
    form = {"idiomatic": idiomatic, "best": best}[task.form]
    run(form(task), STORES / task.group)
