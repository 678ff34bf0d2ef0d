"""Where predictions of past ticks go: a Parquet file, or a topic."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from data_io.topics import admin
from data_io.topics.prediction_arrow import ArrowPredictionEncoder
from data_io.topics.predictions import PredictionBatch, PredictionEncoder
from data_io.topics.raw_records import RawFetch, unpack
from data_io.topics.record_batch import seal
from ml_core.errors import InputError, KafkaUnavailableError, SetupError

ANSWER_S = 30.0
ROW_GROUP = 65_536  # rows; the last one has fewer
PART = ".part"
_AT_ONCE = 1000  # records that wait for Kafka's answer together


class ParquetSink:
    """One Parquet file with the columns that predictions have as Arrow; it is there when all of it is.

    Equal predictions make equal files, in whatever batches they come.
    """

    def __init__(
        self, path: Path, *, topic_id: str, horizons_ns: Sequence[int], model: str, version: int, mark: str = ""
    ) -> None:
        """Write to ``path``, before it is whole under a name with ``mark``; the others are of ``PredictionEncoder``.

        Raises:
            SetupError: The folder cannot be written to.
        """
        self._path, self._part = path, path.with_name(f".{path.name}{mark and '.'}{mark}{PART}")
        self._about = {"topic_id": topic_id, "horizons_ns": horizons_ns, "model": model, "version": version}
        self._encoders: dict[int, ArrowPredictionEncoder] = {}
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []  # less than a row group
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._part.touch()
        except OSError as error:
            raise SetupError(f"cannot write {path}: {error.strerror or error}") from error

    async def add(self, partition: int, made: PredictionBatch) -> None:
        """Append ``made``."""
        await asyncio.to_thread(self._write, partition, made)

    async def close(self) -> None:
        """Give the file its name."""
        await asyncio.to_thread(self._finish)

    def _write(self, partition: int, made: PredictionBatch) -> None:
        if partition not in self._encoders:
            self._encoders[partition] = ArrowPredictionEncoder(partition=partition, **self._about)  # type: ignore[arg-type]
        for batch in self._encoders[partition].record_batches(made):
            seal(batch, producer_id=-1, epoch=-1, sequence=-1, transactional=False)
            records, _ = unpack(RawFetch(batch.data.tobytes(), 0, []))
            for value in records.value:
                with pa.ipc.open_stream(pa.py_buffer(value)) as stream:
                    self._waiting.append(stream.read_all())
        while sum(map(len, self._waiting)) >= ROW_GROUP:
            self._write_group()

    def _write_group(self) -> None:
        table = pa.concat_tables(self._waiting)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._part, table.schema, compression="zstd")
        group, rest = table[:ROW_GROUP].combine_chunks(), table[ROW_GROUP:]
        self._writer.write_table(group, row_group_size=ROW_GROUP)
        self._waiting = [rest] if len(rest) else []

    def _finish(self) -> None:
        if self._waiting:
            self._write_group()
        if self._writer is None:
            self._part.unlink()
            raise InputError(f"no tick made a row, so {self._path} was not written")
        self._writer.close()
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        self._part.replace(self._path)


class TopicSink:
    """A topic of JSON predictions, each in the partition of its tick; their ids tell repeats."""

    def __init__(
        self,
        producer: AIOKafkaProducer,
        topic: str,
        *,
        topic_id: str,
        horizons_ns: Sequence[int],
        model: str,
        version: int,
    ) -> None:
        """Write to the existing ``topic``; the other arguments are those of ``PredictionEncoder``."""
        self._producer, self._topic = producer, topic
        self._about = {"topic_id": topic_id, "horizons_ns": horizons_ns, "model": model, "version": version}
        self._encoders: dict[int, PredictionEncoder] = {}

    async def add(self, partition: int, made: PredictionBatch) -> None:
        """Send ``made`` and wait until Kafka has it.

        Raises:
            KafkaUnavailableError: It did not say so in ANSWER_S. What was sent may be there.
        """
        if partition not in self._encoders:
            self._encoders[partition] = PredictionEncoder(partition=partition, **self._about)  # type: ignore[arg-type]
        values = self._encoders[partition].values(made)
        try:
            for start in range(0, len(values), _AT_ONCE):
                async with asyncio.timeout(ANSWER_S):
                    sent = [
                        await self._producer.send(self._topic, value, key=key, partition=partition)
                        for key, value in values[start : start + _AT_ONCE]
                    ]
                    await asyncio.gather(*sent)
        except (KafkaError, TimeoutError) as error:
            raise KafkaUnavailableError(f"predictions for {self._topic!r} were not taken: {error!r}") from error

    async def close(self) -> None:
        """All is there already."""


async def must_take(bootstrap: str, topic: str, partitions: Sequence[int]) -> None:
    """Raise where ``topic`` has no place for predictions of ``partitions``.

    Raises:
        NotFoundError: It is not there.
        InputError: It has too few partitions.
    """
    info = await admin.describe(bootstrap, topic)
    if max(partitions, default=0) >= info.partitions:
        raise InputError(
            f"topic {topic!r} has {info.partitions} partitions, and ticks of partition {max(partitions)} are asked for"
        )
