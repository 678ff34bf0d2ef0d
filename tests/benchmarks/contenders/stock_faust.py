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
from data_io.topics.records import Records
from data_io.topics.ticks import TickDecoder
from ml_core.data_processor import features
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.spec import PipelineSpec
from ml_core.types import RowBatch, SymbolTable

# Rows are written as Arrow batches of this many, as the worker does it: a record a row would cost stock Faust far more.
ROWS_A_RECORD = 512


async def main(bootstrap: str, topic: str, group: str, feature_set: str, partitions: int) -> None:
    plan = FeaturePlan.from_spec(PipelineSpec(name=feature_set))
    features.warm_up()
    decoder = TickDecoder()
    states = {p: FeatureState(plan, SymbolTable()) for p in range(partitions)}
    made: dict[int, list[RowBatch]] = {p: [] for p in range(partitions)}
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

    async def publish(partition: int) -> None:
        batches = made[partition]
        columns = zip(*(batch[:-1] for batch in batches), strict=True)
        joined = RowBatch(*(np.concatenate(column) for column in columns), symbols=batches[-1].symbols)
        batches.clear()
        for key, value, headers in rows_topic.encode(joined, plan.names, plan.hash, features.KERNEL_VERSION):
            await out.send(key=key, value=value, headers=dict(headers), partition=partition)

    async def windowing(stream) -> None:
        async for event in stream.events():
            message = event.message
            state = states[message.partition]
            record = Records([message.offset], [event.key], [event.value], [()])
            tick, _rejects = decoder.decode(record, state.symbols)
            made[message.partition].append(features.step(tick, state))
            if len(made[message.partition]) >= ROWS_A_RECORD:
                await publish(message.partition)

    app.agent(ticks, name="windowing")(windowing)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await app.start()
    await stop.wait()
    await app.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5], int(sys.argv[5])))
