"""The port of sinks, and which one a target names."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import pandas as pd

from data_io.sinks.files import CsvSink, ParquetSink
from data_io.sinks.lake import LakeSink
from ml_core.errors import InputError

TOPIC = "topic:"
UNDERSTOOD = "a file that ends in .parquet, .csv or .csv.gz, a folder (it ends in / or is there), or topic:NAME"


class Sink(Protocol):
    """A place for past ticks or bars."""

    def write(self, chunks: Iterable[pd.DataFrame], ts_source: str) -> int:
        """Write the rows of ``chunks``, ticks frames or bar frames with equal columns, and return how many these are.

        Files and folders are there as a whole or not at all; of a topic, what is out is a prefix. Memory is bounded.

        Args:
            chunks: The rows, in order.
            ts_source: The clock of their times, noted where the format has a place for it.

        Raises:
            NotEnoughDataError: There is no row.
            SchemaMismatchError: The columns of the chunks differ. A retry will not help.
            DependencyError: The disk, or Kafka, did not take it. A retry is safe.
        """
        ...


def open_sink(target: str, bootstrap: str) -> Sink:
    """Return the sink that ``target`` names; ``bootstrap`` is the Kafka of topics.

    Raises:
        InputError: It names none. A retry will not help.
    """
    if target.startswith(TOPIC):
        from data_io.sinks.topic import TopicSink  # Kafka's client, which files do without

        return TopicSink(bootstrap, target.removeprefix(TOPIC))
    path = Path(target)
    if target.endswith("/") or path.is_dir():
        return LakeSink(path)
    if path.suffix == ".parquet":
        return ParquetSink(path)
    if path.name.endswith((".csv", ".csv.gz")):
        return CsvSink(path)
    raise InputError(f"{target!r} is no target; a target is {UNDERSTOOD}")
