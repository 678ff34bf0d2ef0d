"""How fast tickwise works off ticks that come as Arrow batches, with predictions as JSON or as Arrow."""

import asyncio
import io
import time
from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
import pyarrow as pa
from aiokafka import AIOKafkaConsumer

from data_io.topics import record_batch
from data_io.topics.tick_arrow import CONTENT_TYPE
from ml_core.types import Int64, TickKind
from tests.benchmarks.arena import Arena, Run, Ticks
from tests.benchmarks.drain import POLL_S, START_S, Drain, Sample, Skip, cpu_s_per_million, rss_mb, steady
from tests.benchmarks.fetching import Stamp, fetches
from tests.benchmarks.oracle import Judge
from tests.benchmarks.raw_producer import RawProducer
from tests.benchmarks.workload import PARTITIONS, Workload

ROWS = 4000  # a record: about 350 kB
QUIET_S = 3.0  # no new predictions for so long: it is through
_HEADERS = [("content-type", CONTENT_TYPE.encode())]


async def filled(arena: Arena, work: Workload, passes: int) -> Ticks:
    """Make a topic with ``passes`` passes in it, as Arrow batches."""
    made = await arena.create(work, passes, ROWS)
    await asyncio.to_thread(_fill, arena.bootstrap, made.topic, work, passes)
    return made


async def drain(arena: Arena, given: Ticks, predictions_as: str) -> Drain:
    """Run the worker on ``given`` until it is through; raises as ``tests.benchmarks.drain.drain``."""
    async with arena.run("tickwise", "", given, predictions_as=predictions_as) as run:
        samples, start_s = await _watched(arena, run)
        if (code := await asyncio.to_thread(run.process.stop)) != 0:
            raise RuntimeError(f"asked to stop, the worker ended with {code}:\n{run.process.tail()}")
        stamps = await _judged(arena, run, given, predictions_as)
    first_ms, last_ms = steady(stamps, Skip())
    total = sum(stamp.records for stamp in stamps)
    if total != given.count:
        raise RuntimeError(f"{total} predictions came of {given.count} ticks")
    counted = sum(stamp.records for stamp in stamps if first_ms < stamp.time_ms <= last_ms)
    return Drain(
        ticks_per_s=counted / (last_ms - first_ms) * 1e3,
        # samples count records, which hold many predictions each where they are Arrow
        cpu_s_per_million=cpu_s_per_million(samples, Skip()) * samples[-1].count / total,
        rss_mb=rss_mb(samples),
        predictions=total,
        start_s=start_s,
    )


async def _watched(arena: Arena, run: Run) -> tuple[list[Sample], float]:
    consumer = AIOKafkaConsumer(bootstrap_servers=arena.bootstrap)
    await consumer.start()
    began = time.monotonic()
    samples: list[Sample] = []
    grown = began + START_S - QUIET_S
    try:
        while time.monotonic() - grown < QUIET_S:
            run.process.check()
            count, usage = await arena.ends(consumer, run.out_topic), run.process.usage()
            if count and (not samples or count > samples[-1].count):
                grown = time.monotonic()
                samples.append(Sample(grown, count, usage.cpu_s, usage.rss_bytes))
            await asyncio.sleep(POLL_S)
    finally:
        await consumer.stop()
    if not samples:
        raise RuntimeError(f"no prediction came in {START_S:.0f} s:\n{run.process.tail()}")
    return samples, samples[0].at_s - began


async def _judged(arena: Arena, run: Run, given: Ticks, predictions_as: str) -> list[Stamp]:
    """Check all that was written and return the stamps of its batches, counting predictions."""
    stamps: list[Stamp] = []
    for partition, expected in enumerate(given.expected):
        judge = Judge(expected, topic_id=given.topic_id, partition=partition, spec=arena.spec)
        async for records, batches in fetches(arena.bootstrap, run.out_topic, partition):
            if predictions_as == "json":
                await asyncio.to_thread(judge.take, records)
                stamps += batches
                continue
            counts = iter(await asyncio.to_thread(judge.take_arrow, records))
            stamps += [Stamp(time_ms, sum(next(counts) for _ in range(held))) for time_ms, held in batches]
    return sorted(stamps)


def _fill(bootstrap: str, topic: str, work: Workload, passes: int) -> None:
    with RawProducer(bootstrap, topic) as producer:
        for k in range(passes):
            values = [_values(work, work.of_partition(p), k * work.span_ns) for p in range(PARTITIONS)]
            for together in zip_longest(*values):
                parts = []
                for partition, value in enumerate(together):
                    if value is None:
                        continue
                    [batch] = record_batch.pack([(None, value, _HEADERS)])
                    record_batch.seal(batch, producer_id=-1, epoch=-1, sequence=-1, transactional=False)
                    parts.append((partition, memoryview(batch.data)))
                producer.send(parts, window=4)
        producer.settle()


def _values(work: Workload, number_N: Int64, shift_ns: int) -> Iterator[bytes]:
    ticks = work.ticks
    names, kinds, sides = pa.array(ticks.symbols), pa.array(["trade", "quote"]), pa.array(["sell", None, "buy"])
    for at in range(0, len(number_N), ROWS):
        part = number_N[at : at + ROWS]
        is_quote_N, side_N = ticks.kind_N[part] == TickKind.QUOTE, ticks.side_N[part] + 1
        columns = {
            "type": kinds.take(pa.array(is_quote_N.astype(np.int8))),
            "symbol": names.take(pa.array(ticks.symbol_N[part])),
            "ts": pa.array(ticks.ts_ns_N[part] + shift_ns),
            "side": sides.take(pa.array(side_N)),
        }
        for name in ("price", "size", "bid", "ask", "bid_size", "ask_size"):
            columns[name] = pa.array(getattr(ticks, f"{name}_N")[part], from_pandas=True)  # NaN: null
        sink = io.BytesIO()
        batch = pa.RecordBatch.from_pydict(columns)
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        yield sink.getvalue()
