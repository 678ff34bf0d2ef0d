"""Ticks onto a topic, as `tickwise publish` puts them there."""

import asyncio
from collections.abc import Iterable, Iterator

import pandas as pd

from data_io.data_fetcher.port import BATCH_SIZE, batches
from data_io.publisher import publish
from data_io.topics import admin, ticks
from ml_core.types import TickBatch


class TopicSink:
    """A topic of ticks; created where it is missing. A retry after an error writes what was out once more."""

    def __init__(self, bootstrap: str, topic: str, partitions: int = 4) -> None:
        """Write to ``topic`` of the Kafka at ``bootstrap``."""
        self._bootstrap, self._topic, self._partitions = bootstrap, topic, partitions

    def write(self, chunks: Iterable[pd.DataFrame], ts_source: str) -> int:  # records carry times alone
        """Publish all ticks; bars cannot be, make ticks of them first. See `Sink.write`.

        Raises:
            KafkaUnavailableError: Kafka did not take all of them. A prefix of each partition is out.
            SetupError: Kafka refuses them. A retry will not help.
        """
        return asyncio.run(self._publish(chunks))

    async def _publish(self, chunks: Iterable[pd.DataFrame]) -> int:
        await admin.create_missing(self._bootstrap, [ticks.topic_spec(self._topic, self._partitions)])
        return (await publish(_Stream(chunks), bootstrap=self._bootstrap, topic=self._topic)).ticks


class _Stream:
    """Chunks as a `TickStream`; it can be read once."""

    def __init__(self, chunks: Iterable[pd.DataFrame]) -> None:
        self._chunks = chunks

    def stream(self, batch_size: int = BATCH_SIZE) -> Iterator[TickBatch]:
        return batches(self._chunks, batch_size)
