"""What quixstreams and bytewax share of librdkafka in their best form: settings, and batches on their way out."""

import time
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tests.benchmarks.contenders.steps import Predictions, Task

BATCH = 2000  # records a call of `consume`: larger batches leave the cache, smaller ones cost calls
POLL_S, SETTLE_S = 0.1, 15.0
BACKLOG = 50_000  # records under way before the outbox waits for the broker
CONSUMER = {
    # with the defaults the consumer stops fetching for up to a second at 100,000 records
    "queued.min.messages": 1_000_000,
    "queued.max.messages.kbytes": 16_384,
    "fetch.queue.backoff.ms": 1,
}
PRODUCER = {
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 5,
    "batch.size": 262_144,
    "queue.buffering.max.messages": 2 * BACKLOG,
    "queue.buffering.max.kbytes": 1_048_576,
    "delivery.report.only.error": True,
}


def producer_settings(task: Task) -> dict[str, Any]:
    """Return the settings of the producer; a quick one waits for nothing."""
    return {**PRODUCER, "linger.ms": 0} if task.is_quick else PRODUCER


class Outbox:
    """Batches of predictions on their way to the topic, by an idempotent producer with the settings ``PRODUCER``."""

    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer, self._topic = producer, topic
        self._failures: list[KafkaError] = []

    def send(self, predictions: Predictions) -> None:
        """Queue the records in order; the queue holds twice the backlog, so it takes all of them.

        Raises:
            KafkaException: Kafka has refused a record.
            TimeoutError: It takes none.
        """
        records = [{"key": k, "value": v} for k, v in zip(predictions.keys, predictions.values, strict=True)]
        self._producer.produce_batch(self._topic, records, predictions.partition, self._delivered)
        self._producer.poll(0)
        deadline = time.monotonic() + SETTLE_S
        while len(self._producer) > BACKLOG:
            self._producer.poll(POLL_S)
            self._check(overdue=time.monotonic() > deadline)

    def settle(self) -> None:
        """Wait until all records are acknowledged.

        Raises:
            KafkaException, TimeoutError: As ``send``.
        """
        self._check(overdue=self._producer.flush(SETTLE_S) > 0)

    def _delivered(self, error: KafkaError | None, _record: Message) -> None:
        if error is not None:
            self._failures.append(error)

    def _check(self, *, overdue: bool) -> None:
        if self._failures:
            raise KafkaException(self._failures[0])
        if overdue:
            raise TimeoutError(f"Kafka has taken no records for {SETTLE_S:g} s")
