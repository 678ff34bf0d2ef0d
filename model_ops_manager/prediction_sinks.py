"""Where predictions of past ticks go: a Parquet file, or a topic."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from data_io import disk
from data_io.topics import admin
from data_io.topics.prediction_arrow import ArrowPredictionEncoder
from data_io.topics.predictions import PredictionBatch, PredictionEncoder
from data_io.topics.raw_records import RawFetch, unpack
from data_io.topics.record_batch import seal
from ml_core.errors import InputError, KafkaUnavailableError, SetupError

ANSWER_S = 30.0
GROUP_ROWS = 131_072  # of a Parquet file
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
        self._held: list[pa.Table] = []  # rows of the next row group
        self._held_rows = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._part.touch()
        except OSError as error:
            raise SetupError(f"cannot write {path}: {error.strerror or error}") from error

    async def add(self, partition: int, made: PredictionBatch) -> None:
        """Append ``made``."""
        await asyncio.to_thread(self.write, partition, made)

    async def close(self) -> None:
        """Give the file its name."""
        await asyncio.to_thread(self.finish)

    def serve(self, version: int) -> None:
        """Take what is written from here on for predictions of ``version``."""
        self._about["version"] = version
        self._encoders.clear()

    def write(self, partition: int, made: PredictionBatch) -> None:
        """Append ``made``."""
        if partition not in self._encoders:
            self._encoders[partition] = ArrowPredictionEncoder(partition=partition, **self._about)  # type: ignore[arg-type]  # mixed values
        for batch in self._encoders[partition].record_batches(made):
            seal(batch, producer_id=-1, epoch=-1, sequence=-1, transactional=False)
            records, _ = unpack(RawFetch(batch.data.tobytes(), 0, []))
            for value in records.value:
                with pa.ipc.open_stream(pa.py_buffer(value)) as stream:
                    self._held.append(stream.read_all())
                self._held_rows += self._held[-1].num_rows
        while self._held_rows >= GROUP_ROWS:
            self._write_group(GROUP_ROWS)

    def finish(self) -> None:
        """Give the file its name.

        Raises:
            InputError: There is no prediction.
        """
        if self._held_rows:
            self._write_group(self._held_rows)
        if self._writer is None:
            self._part.unlink()
            raise InputError(f"no tick made a row, so {self._path} was not written")
        self._writer.close()
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        self._part.replace(self._path)
        disk.sync(self._path.parent)

    def discard(self) -> None:
        """Leave no file."""
        with suppress(OSError):  # no room for its end
            if self._writer is not None:
                self._writer.close()
        self._part.unlink(missing_ok=True)

    def _write_group(self, rows: int) -> None:
        table = pa.concat_tables(self._held)
        group, left = table.slice(0, rows).combine_chunks(), table.slice(rows)
        self._held, self._held_rows = [left] if left.num_rows else [], left.num_rows
        if self._writer is None:
            named = [each.name for each in group.schema if each.name == "symbol" or pa.types.is_dictionary(each.type)]
            rising = dict.fromkeys(("offset", "ts"), "DELTA_BINARY_PACKED")
            self._writer = pq.ParquetWriter(
                self._part, group.schema, compression="zstd", use_dictionary=named, column_encoding=rising
            )
        self._writer.write_table(group, row_group_size=rows)


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
            self._encoders[partition] = PredictionEncoder(partition=partition, **self._about)  # type: ignore[arg-type]  # mixed values
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
