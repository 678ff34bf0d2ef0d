"""The work: ticks of the seeded synthetic market, made once and repeated with later times.

Pass k of the market is the same ticks, ``span_ns`` later each time: state runs on, prices jump back between passes.
Shapes: N ticks of one pass, P partitions, S symbols.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from aiokafka.partitioner import DefaultPartitioner

from data_io.data_fetcher.sources import open_source
from data_io.topics import ticks
from ml_core import frames
from ml_core.types import Int32, Int64, TickBatch

PIPELINE = Path(__file__).with_name("pipeline.toml")
PARTITIONS = 4
SEED = 11
# Event time: the 30 s of warm-up are a small part of a pass, and a rare symbol still ticks within the gap of 60 s.
RATE_OF = {1: 2_000, 100: 2_000, 10_000: 50_000}


class Workload(NamedTuple):
    """One pass in arrival order, and how it is repeated."""

    ticks: TickBatch
    partition_N: Int32
    records: list[tuple[bytes, bytes]]  # key and JSON of each tick of the first pass
    span_ns: int

    def of_partition(self, partition: int) -> Int64:
        """Return the numbers of the ticks that go to ``partition``, in order."""
        return np.flatnonzero(self.partition_N == partition)


def make(count: int, *, symbols: int = 100) -> Workload:
    """Return a pass of ``count`` ticks, symbol k with a share of 1/k (Zipf), no sequence numbers."""
    rate = RATE_OF[symbols]
    source = open_source(f"synthetic:symbols={symbols},ticks={count},rate={rate},seed={SEED}")
    batch = frames.to_batch(source.fetch().assign(seq=np.int64(-1)))
    partition_S = _balanced(np.bincount(batch.symbol_N, minlength=len(batch.symbols)))
    names = [_name_for(name, partition) for name, partition in zip(batch.symbols, partition_S.tolist(), strict=True)]
    *columns, _ = batch
    batch = TickBatch(*columns, names)
    span_ns = int(batch.ts_ns_N[-1] - batch.ts_ns_N[0]) + 10**9 // rate
    return Workload(batch, partition_S[batch.symbol_N], ticks.encode(batch), span_ns)


def _balanced(ticks_S: Int64) -> Int32:
    """Return a partition for each symbol, the busiest first to the emptiest, so that all partitions end together."""
    load_P = np.zeros(PARTITIONS, np.int64)
    partition_S = np.zeros(len(ticks_S), np.int32)
    for symbol in np.argsort(-ticks_S, kind="stable"):
        partition_S[symbol] = np.argmin(load_P)
        load_P[partition_S[symbol]] += ticks_S[symbol]
    return partition_S


def _name_for(symbol: str, partition: int) -> str:
    """Return ``symbol`` with a number behind it that makes Kafka's own partitioner choose ``partition``."""
    choose, partitions = DefaultPartitioner(), list(range(PARTITIONS))
    names = (f"{symbol}.{number}" for number in itertools.count())
    return next(name for name in names if choose(name.encode(), partitions, partitions) == partition)
