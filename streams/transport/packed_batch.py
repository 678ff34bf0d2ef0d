"""Hands whole record batches to an aiokafka producer: no object a record, and one copy on the way to the socket."""

import asyncio
from typing import Any

import aiokafka.producer.sender as aiokafka_sender
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.types import Int16, Int32, String

from data_io.topics.record_batch import RecordBatch, seal

_STRING = String("utf-8")


class PackedBatch(BatchBuilder):  # type: ignore[misc]  # aiokafka ships no types for it
    """Stands in for aiokafka's builder and holds a batch of a transaction that is full already."""

    def __init__(self, batch: RecordBatch) -> None:
        """Take over ``batch``; the producer gives it its number when it is sent."""
        self._batch = batch
        self._relative_offset = batch.records
        self._closed = True
        self._buffer: memoryview | None = None
        self._producer_state = (-1, -1, -1)

    def queue(self, producer: AIOKafkaProducer, tp: TopicPartition) -> asyncio.Future[object]:
        """Put the batch behind those queued for ``tp``, without waiting for them as ``send_batch`` would.

        Returns:
            What the broker says of the batch, or an error; nobody has to look at it.
        """
        accumulator = producer._message_accumulator
        if accumulator._exception is not None or accumulator._closed:
            failed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            failed.set_exception(accumulator._exception or ConnectionError("the producer is closed"))
            return failed
        future: asyncio.Future[object] = accumulator._append_batch(self, tp).future
        return future

    def size(self) -> int:
        """Return the size of the batch in bytes."""
        return len(self._batch.data)

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer_state = (producer_id, producer_epoch, base_sequence)

    def _build(self) -> memoryview:
        if self._buffer is None:
            producer_id, epoch, sequence = self._producer_state
            seal(self._batch, producer_id=producer_id, epoch=epoch, sequence=sequence, transactional=True)
            self._buffer = memoryview(self._batch.data)  # type: ignore[arg-type]  # an array is a buffer
        return self._buffer


def install() -> None:
    """Let every producer of this process send its requests without copying batches from buffer to buffer."""
    aiokafka_sender.ProduceRequest = PartedProduceRequest


class PartedProduceRequest(ProduceRequest):  # type: ignore[misc]  # as above
    """Keeps its record batches apart; aiokafka joins a batch into a field, a partition, a topic and a request."""

    def build(self, request_struct_class: Any) -> Any:
        """Return the request as the broker takes it; ``parts`` is what ``encode`` joins, None in a format too old."""
        built = super().build(request_struct_class)
        built.parts = self._parts() if request_struct_class.API_VERSION >= 3 else None  # up to version 8
        return built

    def _parts(self) -> list[Any]:
        about = (Int16.encode(self._required_acks), Int32.encode(self._timeout), Int32.encode(len(self._topics)))
        parts: list[Any] = []
        front = b"".join((_STRING.encode(self._transactional_id), *about))
        for topic, partitions in self._topics:
            front += _STRING.encode(topic) + Int32.encode(len(partitions))
            for partition, data in partitions:
                parts += [front + Int32.encode(partition) + Int32.encode(len(data)), data]
                front = b""
        return parts
