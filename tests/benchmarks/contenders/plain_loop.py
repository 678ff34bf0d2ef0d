"""No engine at all: aiokafka's `getmany`, msgspec, the feature kernel, ONNX in batches, aiokafka's own batches out.

usage: python -m tests.benchmarks.contenders.plain_loop \
    BOOTSTRAP TICKS_TOPIC TOPIC_ID OUT_TOPIC GROUP MODEL_ONNX PARTITIONS best [throughput|latency]

What a good engineer writes by hand in a day. It keeps no state across restarts and logs no rows. Nothing in it
waits for more than has arrived, so it does the same for either aim.
"""

import asyncio
import signal
import sys
import time

import uvloop
from aiokafka import AIOKafkaConsumer

from tests.benchmarks.contenders.bulk_output import BulkOutput
from tests.benchmarks.contenders.steps import COMMIT_S, ManyTicks, Model, Partition, Task, tune_collector, warm_up

MAX_RECORDS = 5_000
FETCH_BYTES = 1 << 20
WAIT_MS = 50


async def main(task: Task) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    step = ManyTicks(task.topic_id, Model(task.model))
    partitions = [Partition(number) for number in range(int(task.partitions))]
    consumer = AIOKafkaConsumer(
        task.ticks_topic,
        bootstrap_servers=task.bootstrap,
        group_id=task.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=FETCH_BYTES,
        fetch_max_wait_ms=WAIT_MS,
    )
    output = BulkOutput(task.bootstrap, task.out_topic)
    await consumer.start()
    await output.start()
    try:
        due = time.monotonic() + COMMIT_S
        while not stop.is_set():
            found = await consumer.getmany(timeout_ms=WAIT_MS, max_records=MAX_RECORDS)
            for tp, records in found.items():
                offsets, values = [r.offset for r in records], [r.value for r in records]
                await output.send(step(partitions[tp.partition], offsets, values))
            if time.monotonic() >= due:
                await output.settle()
                await consumer.commit()
                due = time.monotonic() + COMMIT_S
        await output.settle()
        await consumer.commit()
    finally:
        await output.stop()
        await consumer.stop()


if __name__ == "__main__":
    warm_up()
    tune_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Task(*sys.argv[1:])))
