"""How fast a contender works off a topic that is there already: ticks a second, CPU, memory.

Rates come from the broker's own stamps of the predictions, in the steady part of the run.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer

from tests.benchmarks.arena import Arena, Run, Ticks
from tests.benchmarks.contenders.registry import CONTENDERS
from tests.benchmarks.fetching import Stamp

START_S = 120.0  # to import, compile, join the group and write a first prediction
POLL_S = 0.1
STALL_S = 30.0  # no new predictions for so long, and not done: it hangs
# The steady part: without caches and compilers warming up, and without the last partition's end.
KEPT = 0.95


class Skip(NamedTuple):
    """What of a run does not count at its start: at most this share of its predictions, at most so many seconds."""

    share: float = 0.2
    longest_s: float = 4.0


class Drain(NamedTuple):
    """One run."""

    ticks_per_s: float
    cpu_s_per_million: float
    rss_mb: float  # children included, the largest in the last quarter of the run
    predictions: int  # all of them checked
    start_s: float  # from the start of the process to its first prediction


class Sample(NamedTuple):
    """What a contender has done and used so far."""

    at_s: float
    count: int
    cpu_s: float
    rss_bytes: int


async def drain(arena: Arena, name: str, form: str, given: Ticks, *, longest_s: float) -> Drain:
    """Run a contender on ``given`` for at most ``longest_s`` from its first prediction on, and check its output.

    Raises:
        MissingContenderError: It cannot be run here.
        WrongOutputError: Its output is not what it must be.
        RuntimeError: It ended by itself, or stopped writing.
    """
    warm_s = CONTENDERS[name].warm_s
    skip = Skip(0.6, warm_s) if warm_s else Skip()
    async with arena.run(name, form, given) as run:
        samples, start_s = await watched(arena, run, given.count, longest_s + warm_s)
        stamps = await arena.judged(run, given)
    first_ms, last_ms = steady(stamps, skip)
    counted = sum(stamp.records for stamp in stamps if first_ms < stamp.time_ms <= last_ms)
    return Drain(
        ticks_per_s=counted / (last_ms - first_ms) * 1e3,
        cpu_s_per_million=cpu_s_per_million(samples, skip),
        rss_mb=rss_mb(samples),
        predictions=sum(stamp.records for stamp in stamps),
        start_s=start_s,
    )


async def watched(arena: Arena, run: Run, total: int, longest_s: float) -> tuple[list[Sample], float]:
    """Wait until a contender is through, or ``longest_s`` from its first prediction on.

    Returns:
        Samples of its progress, seconds to its first prediction.
    """
    consumer = AIOKafkaConsumer(bootstrap_servers=arena.bootstrap)
    await consumer.start()
    began = time.monotonic()
    samples: list[Sample] = []
    grown = began + START_S - STALL_S
    try:
        while True:
            run.process.check()
            count = await arena.ends(consumer, run.out_topic)
            usage, now = run.process.usage(), time.monotonic()
            if count and (not samples or count > samples[-1].count):
                grown = now
                samples.append(Sample(now, count, usage.cpu_s, usage.rss_bytes))
            if samples and (count >= total or now - samples[0].at_s > longest_s):
                return samples, samples[0].at_s - began
            if now - grown > STALL_S:
                raise RuntimeError(f"no more than {count} of {total} predictions came:\n{run.process.tail()}")
            await asyncio.sleep(POLL_S)
    finally:
        await consumer.stop()


def steady(stamps: Sequence[Stamp], skip: Skip) -> tuple[int, int]:
    """Return the times, ms, between which the contender works evenly."""
    total, seen = sum(stamp.records for stamp in stamps), 0
    if not total:
        raise RuntimeError("no prediction came")
    first_ms = last_ms = stamps[0].time_ms
    for stamp in stamps:
        seen += stamp.records
        if seen <= skip.share * total and stamp.time_ms - stamps[0].time_ms <= skip.longest_s * 1000:
            first_ms = stamp.time_ms
        last_ms = stamp.time_ms
        if seen >= KEPT * total:
            break
    if last_ms <= first_ms:
        raise RuntimeError(f"{total} predictions in {len(stamps)} batches are too few to measure a rate")
    return first_ms, last_ms


def rss_mb(samples: Sequence[Sample]) -> float:
    """Return the most memory in the last quarter of a run, when what helped a contender to start has ended."""
    return max(sample.rss_bytes for sample in samples[-(len(samples) // 4 + 1) :]) / 1e6


def cpu_s_per_million(samples: Sequence[Sample], skip: Skip) -> float:
    """Return the CPU time, children included, of a million predictions in the steady part of a run.

    Raises:
        RuntimeError: The samples show no such part.
    """
    first, last = samples[0], samples[-1]
    until = first.at_s + skip.longest_s
    begin = next(s for s in samples if s.count >= skip.share * last.count or s.at_s >= until)
    end = next(s for s in samples if s.count >= KEPT * last.count)
    if end.count <= begin.count:
        begin, end = first, last
    if end.count <= begin.count:
        raise RuntimeError(f"all {last.count} predictions came at once: too few to measure what one costs")
    return (end.cpu_s - begin.cpu_s) / (end.count - begin.count) * 1e6
