"""A stock Faust app that does the windowing work: one event a tick, the same decoder, kernel and output topic.

usage: python -m tests.benchmarks.contenders.stock_faust BOOTSTRAP TICKS_TOPIC GROUP FEATURE_SET PARTITIONS
"""

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import faust
import numpy as np

from data_io.topics import rows as rows_topic
from data_io.topics.tick_json import read_native
from ml_core.data_processor import features, kernels
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.spec import PipelineSpec
from ml_core.types import RowBatch, SymbolTable

# Rows are written as Arrow batches of this many, as the worker does it: a record a row would cost stock Faust far more.
ROWS_A_RECORD = 512
ROW_DTYPES = (np.int64, np.int32, np.int32, np.int64, np.float64, np.float64, np.float32, np.uint8)


class Partition:
    """Feature state and unwritten rows of one partition; a tick costs one call of the kernel and no allocation."""

    def __init__(self, number: int, plan: FeaturePlan) -> None:
        self.number, self.plan = number, plan
        self.state = FeatureState(plan, SymbolTable())
        self.tick = kernels.Ticks(*(np.zeros(1, dtype) for _, dtype in kernels.TICK_DTYPES))
        rates = len(plan.compiled.program.rate_D)
        self.scratch = kernels.Scratch(np.empty(rates), np.empty(kernels.IMPULSES))
        self.row = kernels.Rows(
            x_NF=np.empty((1, len(plan.names)), np.float32),
            mid_N=np.empty(1),
            spread_N=np.empty(1),
            flags_N=np.empty(1, np.uint8),
            tick_N=np.empty(1, np.int64),
            accepted_N=np.zeros(1, np.bool_),
        )
        self.rows: list[tuple] = []

    def step(self, offset: int, value: bytes) -> None:
        """Decode one record and keep its row."""
        tick = read_native(value)
        symbol = self.state.symbols.add(tick.symbol)
        fields = (tick.kind, symbol, tick.ts_ns, *tick[3:])
        for column, field in zip(self.tick, fields, strict=True):
            column[0] = field
        row = self.row
        if kernels.run(self.tick, self.plan.compiled.program, self.state.memory(), row, self.scratch):
            about = (offset, 0, symbol, tick.ts_ns, row.mid_N[0], row.spread_N[0])
            self.rows.append((*about, row.x_NF[0].copy(), row.flags_N[0]))

    def take(self) -> RowBatch:
        """Return the rows kept so far, as a batch, and forget them."""
        by_column = zip(zip(*self.rows, strict=True), ROW_DTYPES, strict=True)
        columns = [np.array(column, dtype) for column, dtype in by_column]
        self.rows.clear()
        return RowBatch(*columns, symbols=self.state.symbols.names)


async def main(bootstrap: str, topic: str, group: str, feature_set: str, partitions: int) -> None:
    plan = FeaturePlan.from_spec(PipelineSpec(name=feature_set))
    features.warm_up()
    owned = {p: Partition(p, plan) for p in range(partitions)}
    app = faust.App(
        group,
        broker=f"kafka://{bootstrap}",
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        datadir=Path(tempfile.mkdtemp()),
        consumer_auto_offset_reset="earliest",
        loop=asyncio.get_running_loop(),
    )
    ticks = app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    out = app.topic(rows_topic.name(feature_set), key_serializer="raw", value_serializer="raw")

    async def publish(partition: Partition) -> None:
        encoded = rows_topic.encode(partition.take(), plan.names, plan.hash, features.KERNEL_VERSION)
        for key, value, headers in encoded:
            await out.send(key=key, value=value, headers=dict(headers), partition=partition.number)

    async def windowing(stream) -> None:
        async for event in stream.events():
            partition = owned[event.message.partition]
            partition.step(event.message.offset, event.value)
            if len(partition.rows) >= ROWS_A_RECORD:
                await publish(partition)

    app.agent(ticks, name="windowing")(windowing)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await app.start()
    await stop.wait()
    await app.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5], int(sys.argv[5])))
