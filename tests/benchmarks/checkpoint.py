"""What checkpoints cost a worker with 10,000 live symbols: CPU time of packing, encoding and committing all of them.

usage: taskset -c 1 python -m tests.benchmarks.checkpoint [BOOTSTRAP]

Builds the state of each partition from ticks as the worker does, and writes it through the worker's own state log into
a real Kafka (one that is started where no BOOTSTRAP is given). Prints a JSON object.
"""

import asyncio
import json
import secrets
import statistics
import sys
import time
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import uvloop
from aiokafka import TopicPartition

from data_io.topics import admin, ticks
from ml_core.data_processor import features
from ml_core.data_processor.blocks import BLOCK
from ml_core.spec import load
from ml_core.types import TickBatch
from streams.local_kafka import broker
from streams.partition_state import PartitionState
from streams.transport import connection, packed_batch, state_log
from streams.transport.state_log import Manifest, StateLog
from streams.worker import feature_sets
from tests.benchmarks import workload
from tests.benchmarks.workload import PARTITIONS, Workload

SYMBOLS, TICKS, ROUNDS = 10_000, 1_000_000, 5
EVERY_S = 5.0  # the worker's default


class Part(NamedTuple):
    """One partition: its ticks, its state, and where the state goes."""

    ticks: TickBatch
    state: PartitionState
    log: StateLog


def of_partition(work: Workload, partition: int, state: PartitionState) -> TickBatch:
    """Return the ticks of ``partition``; their symbols are those of ``state``, which learns them."""
    *columns, names = work.ticks
    mine = work.of_partition(partition)
    numbers, symbol_N = np.unique(work.ticks.symbol_N[mine], return_inverse=True)
    for number in numbers.tolist():
        state.symbols.add(names[number])
    of_mine = [column[mine] for column in columns]
    of_mine[TickBatch._fields.index("symbol_N")] = symbol_N.astype(np.int32)
    return TickBatch(*of_mine, state.symbols.names)


def later(batch: TickBatch, by_ns: int) -> TickBatch:
    """Return the same ticks ``by_ns`` later."""
    columns: list[Any] = [*batch]
    columns[TickBatch._fields.index("ts_ns_N")] = batch.ts_ns_N + by_ns
    return TickBatch(*columns)


async def measure(bootstrap: str) -> dict[str, Any]:
    """Return CPU seconds of each checkpoint of all partitions; the first fills state and caches and does not count.

    Raises:
        RuntimeError: A part of the state was not written, so the time says nothing.
    """
    packed_batch.install()
    connection.install()
    spec, work = load(workload.PIPELINE), workload.make(TICKS, symbols=SYMBOLS)
    sets = feature_sets([spec])
    topic, group = (f"bench-checkpoint-{secrets.token_hex(3)}" for _ in range(2))
    await admin.ensure_topics(bootstrap, [ticks.topic_spec(topic, PARTITIONS), state_log.topic_spec(group, PARTITIONS)])
    about = {"topic": topic, "topic_id": (await admin.describe(bootstrap, topic)).topic_id, "partitions": PARTITIONS}
    parts = []
    for number in range(PARTITIONS):
        state, log = PartitionState(sets, {}), StateLog(bootstrap, group, TopicPartition(topic, number))
        await log.claim()
        parts.append(Part(of_partition(work, number, state), state, log))
    spent, size, blocks = [], 0, 0
    for k in range(ROUNDS + 1):
        for part in parts:
            features.step(later(part.ticks, k * work.span_ns), part.state.sets[spec.feature_set].features)
        began, size, blocks = time.process_time(), 0, 0
        for part in parts:
            dumped = part.state.dump()
            position = (k + 1) * len(part.ticks)
            models = {spec.name: 1}
            await part.log.commit(
                Manifest(**about, position=position, kernels=part.state.kernels, models=models), list(dumped)
            )
            size, blocks = size + sum(len(data) for _, data in dumped), blocks + len(dumped)
        spent.append(time.process_time() - began)
        if blocks != (wanted := sum(-(-len(part.state.symbols) // BLOCK) for part in parts)):
            raise RuntimeError(f"{blocks} blocks of {wanted} have changed: not all symbols are live")
    await asyncio.gather(*(part.log.close() for part in parts))
    return {
        "symbols": sum(len(part.state.symbols) for part in parts),
        "blocks": blocks,
        "bytes": size,
        "cpu_s": spent[1:],
        "share_of_core": [each / EVERY_S for each in spent[1:]],
        "share_of_core_median": statistics.median(spent[1:]) / EVERY_S,
    }


def main() -> None:
    """Measure and print."""
    features.warm_up()
    given = nullcontext(sys.argv[1]) if sys.argv[1:] else broker()
    with given as bootstrap, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(bootstrap))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
