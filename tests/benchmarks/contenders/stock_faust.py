"""A stock Faust app: one event a tick as its documentation writes it, or many with `take_events` and bytes.

usage: python -m tests.benchmarks.contenders.stock_faust \
    BOOTSTRAP TICKS_TOPIC TOPIC_ID OUT_TOPIC GROUP MODEL_ONNX PARTITIONS [idiomatic|best [throughput|latency]]
"""

import asyncio
import signal
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import faust
import uvloop

from tests.benchmarks.contenders.bulk_output import BulkOutput
from tests.benchmarks.contenders.steps import (
    COMMIT_S,
    ManyTicks,
    Model,
    OneTick,
    Partition,
    Task,
    tune_collector,
    warm_up,
)

TAKE, WITHIN_S, QUICK_WITHIN_S = 2_000, 0.05, 0.002  # `take_events` waits for so many, or for so long
LINGER_S = 0.005  # as Kafka's own producers wait; with Faust's default of none every prediction is a request of its own
_NAN = float("nan")


class Tick(faust.Record, serializer="json"):
    """A trade or a quote."""

    type: str
    symbol: str
    ts: int
    price: float = _NAN
    size: float = _NAN
    side: str | None = None
    bid: float = _NAN
    ask: float = _NAN
    bid_size: float = _NAN
    ask_size: float = _NAN
    seq: int = -1


class Prediction(faust.Record, serializer="json", include_metadata=False):
    """What is written for a tick."""

    id: str
    symbol: str
    ts: int
    horizon: str
    score: float | None
    model: str
    version: int
    status: str
    reason: str | None


def idiomatic(app: faust.App, task: Task) -> None:
    """An agent that takes one event at a time, with models and JSON by Faust."""
    ticks = app.topic(task.ticks_topic, value_type=Tick)
    predictions = app.topic(task.out_topic, value_type=Prediction)
    step, partitions = OneTick(Model(task.model)), [Partition(number) for number in range(int(task.partitions))]

    async def predict(stream: Any) -> None:
        async for event in stream.events():
            message, tick = event.message, event.value
            score, reason = step(
                partitions[message.partition].features, tick.type, tick.symbol, tick.ts, tick.price, tick.size,
                tick.side, tick.bid, tick.ask, tick.bid_size, tick.ask_size, tick.seq,
            )  # fmt: skip
            made = Prediction(
                id=f"{task.topic_id}-{message.partition}-{message.offset}-0",
                symbol=tick.symbol,
                ts=tick.ts,
                horizon="10s",
                score=score,
                model="bench",
                version=1,
                status="abstained" if reason else "ok",
                reason=reason,
            )
            await predictions.send(key=tick.symbol, value=made, partition=message.partition)

    app.agent(ticks)(predict)


def best(app: faust.App, task: Task) -> None:
    """An agent that takes many events at a time as bytes, and writes whole batches past Faust's producer."""
    ticks = app.topic(task.ticks_topic, key_serializer="raw", value_serializer="raw", value_type=bytes)
    step, output = ManyTicks(task.topic_id, Model(task.model)), BulkOutput(task.bootstrap, task.out_topic)
    partitions = [Partition(number) for number in range(int(task.partitions))]
    within_s = QUICK_WITHIN_S if task.is_quick else WITHIN_S
    tune_collector()

    async def predict(stream: Any) -> None:
        await output.start()
        try:
            async for events in stream.take_events(TAKE, within=within_s):
                found: dict[int, tuple[list[int], list[bytes]]] = defaultdict(lambda: ([], []))
                for event in events:
                    offsets, values = found[event.message.partition]
                    offsets.append(event.message.offset)
                    values.append(event.value)
                for partition, (offsets, values) in found.items():
                    await output.send(step(partitions[partition], offsets, values))
                # Faust takes the events for done, and commits them, once the next ones are asked for
                await output.settle()
        finally:
            await output.stop()

    app.agent(ticks)(predict)


async def main(task: Task) -> None:
    app = faust.App(
        task.group,
        broker=f"kafka://{task.bootstrap}",
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        datadir=Path(tempfile.mkdtemp()),
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=COMMIT_S,
        producer_acks=-1,
        producer_linger=LINGER_S,
        cython_optimizations=task.form == "best",
        loop=asyncio.get_running_loop(),
    )
    {"idiomatic": idiomatic, "best": best}[task.form](app, task)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await app.start()
    await stop.wait()
    await app.stop()


if __name__ == "__main__":
    warm_up()
    given = Task(*sys.argv[1:])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if given.form == "best" else None) as runner:
        runner.run(main(given))
