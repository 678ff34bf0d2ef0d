"""Ticks at a given rate, whether or not the contender keeps up: how old a prediction is when it can be read, and lag.

Latency counts from the moment a tick was meant to be sent, so a stalled contender cannot hide behind a sender that
waits for it. Shapes: N predictions, J slots, P partitions.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from aiokafka import AIOKafkaConsumer

from ml_core.types import Float64
from tests.benchmarks.arena import Arena, Run, Ticks
from tests.benchmarks.processes import OTHERS_CORE, Contender
from tests.benchmarks.slots import Slots, pack
from tests.benchmarks.workload import PARTITIONS, Workload

START_S = 120.0
WARM_S, WARM_EVENT_S = 300.0, 35  # the slowest take minutes over what fills the longest feature, 30 s of the market
SETTLE_S = 1.0  # at the start of the schedule, left out
CATCH_UP_S = 10.0  # how long predictions may stay away before the reader gives up
LAG_EVERY_S = 0.1
# As long as Kafka's own producers wait for more by default; shorter ones keep its core busy with nothing but requests.
SLOT_S, BUSY_SLOT_S = 0.005, 0.01
BUSY_RATE = 100_000
# Lag that grows by less than this share of what is offered does not grow: it moves with the contender's batches.
GROWTH = 0.01


class Latency(NamedTuple):
    """What a reader saw at one rate, in ms from the intended time of a tick to its prediction."""

    rate: float
    p50: float
    p99: float
    p999: float
    max: float
    late_ms_max: float  # how late the sender itself was at worst


class Load(NamedTuple):
    """What happened to lag at one rate."""

    rate: float  # as offered
    sent_rate: float  # as it was really sent
    lag_growth: float  # ticks a second by which lag grew, over what was offered a second
    lag_max: int

    @property
    def is_sustained(self) -> bool:
        """True where lag did not grow and the sender kept to its schedule."""
        return self.lag_growth < GROWTH and self.sent_rate > 0.98 * self.rate


class Schedule(NamedTuple):
    slots: Slots
    path: Path
    warm: int  # slots sent before, at full speed
    count: int
    slot_s: float

    def ticks(self, first: int, count: int) -> int:
        return int(_counts(self.slots, first, count).sum())


def schedule(arena: Arena, work: Workload, rate: float, seconds: float) -> Schedule:
    """Return how to send ``rate`` ticks a second for ``seconds``, after what fills the state of the symbols."""
    ticks_a_slot = max(1, round(rate * (SLOT_S if rate <= BUSY_RATE else BUSY_SLOT_S)))
    slots = pack(work, ticks_a_slot)
    path = arena.folder / f"slots-{ticks_a_slot}.npz"
    if not path.is_file():
        slots.save(path)
    warm_ticks = int(np.searchsorted(work.ticks.ts_ns_N, work.ticks.ts_ns_N[0] + WARM_EVENT_S * 10**9))
    slot_s = ticks_a_slot / rate
    return Schedule(slots, path, -(-warm_ticks // ticks_a_slot), round(seconds / slot_s), slot_s)


async def latency(
    arena: Arena, name: str, form: str, work: Workload, *, rate: float, seconds: float, exactly_once: bool = False
) -> Latency:
    """Return how old predictions are when they can be read.

    Raises:
        MissingContenderError: The contender cannot be run here.
        WrongOutputError: Its output is not what it must be.
        RuntimeError: Predictions did not come in time: without them, percentiles would say nothing.
    """
    plan = schedule(arena, work, rate, seconds)
    given = await arena.create(work, 1 + (plan.warm + plan.count) // len(plan.slots))
    result = arena.folder / f"read-{given.topic}.npz"
    async with arena.run(name, form, given, exactly_once=exactly_once, aim="latency") as run:
        await _warm(arena, run, given, plan)
        isolation = "read_committed" if exactly_once else "read_uncommitted"
        ticks = plan.ticks(plan.warm, plan.count)
        reader = _start(
            arena, "reader", arena.bootstrap, run.out_topic, given.topic_id, PARTITIONS, ticks, isolation,
            CATCH_UP_S, result,
        )  # fmt: skip
        try:
            await _until("the reader", lambda: "ready" in reader.tail(), reader)
            report = await driven(arena, given, plan, plan.warm, plan.count, plan.slot_s)
            await _until("the predictions", result.is_file, reader, timeout_s=seconds + 2 * CATCH_UP_S)
        finally:
            await asyncio.to_thread(reader.stop)
        await arena.judged(run, given)
    await arena.delete(given.topic)
    with np.load(result) as found:
        age_ms_N, missing = _ages(plan, report["began_ns"], found)
    if missing:
        raise RuntimeError(f"{missing} predictions were not read within {CATCH_UP_S:.0f} s of the last that was")
    p50, p99, p999 = np.percentile(age_ms_N, [50, 99, 99.9])
    return Latency(rate, p50, p99, p999, float(age_ms_N.max()), report["late_ms_max"])


async def load(arena: Arena, name: str, form: str, work: Workload, *, rate: float, seconds: float) -> Load:
    """Return what lag does at ``rate``; raises as ``latency``."""
    plan = schedule(arena, work, rate, seconds)
    given = await arena.create(work, 1 + (plan.warm + plan.count) // len(plan.slots))
    async with arena.run(name, form, given) as run:
        await _warm(arena, run, given, plan)
        driving = asyncio.create_task(driven(arena, given, plan, plan.warm, plan.count, plan.slot_s), name="drive")
        at_s, lags = await _lags(arena, run, given, driving)
        report = await driving
        await arena.judged(run, given)
    await arena.delete(given.topic)
    plan.path.unlink()  # each rate has slots of its own, 150 MB
    half = len(lags) // 2
    growth = float(np.polyfit(at_s[half:], lags[half:], 1)[0])
    span_s = (report["ended_ns"] - report["began_ns"]) / 1e9
    return Load(rate, plan.ticks(plan.warm, plan.count) / span_s, growth / rate, int(max(lags[half:])))


async def _warm(arena: Arena, run: Run, given: Ticks, plan: Schedule) -> None:
    """Fill the state of the symbols and wait until the contender is through."""
    await driven(arena, given, plan, 0, plan.warm, 0.0)
    wanted = plan.ticks(0, plan.warm)
    committed, all_there = (
        AIOKafkaConsumer(bootstrap_servers=arena.bootstrap, isolation_level=f"read_{level}")
        for level in ("committed", "uncommitted")
    )
    await asyncio.gather(committed.start(), all_there.start())
    try:
        deadline = time.monotonic() + WARM_S
        # offsets count the marks of transactions too: it is through when enough is there and none is open
        while not wanted <= await arena.ends(committed, run.out_topic) == await arena.ends(all_there, run.out_topic):
            run.process.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"not through {wanted} ticks in {WARM_S:.0f} s:\n{run.process.tail()}")
            await asyncio.sleep(LAG_EVERY_S)
    finally:
        await asyncio.gather(committed.stop(), all_there.stop())


async def _lags(
    arena: Arena, run: Run, given: Ticks, driving: "asyncio.Task[dict[str, Any]]"
) -> tuple[list[float], list[int]]:
    """Return when lag was looked at while the driver sends, and what it was."""
    consumer = AIOKafkaConsumer(bootstrap_servers=arena.bootstrap)
    await consumer.start()
    at_s, lags = [], []
    try:
        while not driving.done():
            run.process.check()
            # predictions first: a tick that comes in between counts as lag
            done = await arena.ends(consumer, run.out_topic)
            sent = await arena.ends(consumer, given.topic)
            at_s.append(time.monotonic())
            lags.append(sent - done)
            await asyncio.sleep(LAG_EVERY_S)
    finally:
        await consumer.stop()
    return at_s, lags


async def driven(arena: Arena, given: Ticks, plan: Schedule, first: int, count: int, slot_s: float) -> dict[str, Any]:
    """Send slots by a process of its own and return its report."""
    report = arena.folder / f"sent-{given.topic}-{first}.json"
    driver = _start(arena, "driver", plan.path, arena.bootstrap, given.topic, first, count, slot_s, report)
    try:
        await _until("the sender", lambda: driver.has_ended, driver, timeout_s=START_S + 3 * count * slot_s)
    finally:
        await asyncio.to_thread(driver.stop)
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    if "ended_ns" not in found:
        raise RuntimeError(f"the sender failed:\n{driver.tail()}")
    return found


def _start(arena: Arena, module: str, *arguments: object) -> Contender:
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)]
    return Contender(command, {}, arena.folder / f"{module}-{time.monotonic_ns()}.log", core=OTHERS_CORE)


async def _until(what: str, condition: Callable[[], bool], process: Contender, *, timeout_s: float = START_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if process.has_ended and not condition():
            raise RuntimeError(f"{what} ended early:\n{process.tail()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} took more than {timeout_s:.0f} s:\n{process.tail()}")
        await asyncio.sleep(0.05)


def _ages(plan: Schedule, began_ns: int, found: Any) -> tuple[Float64, int]:
    """Return the age of each prediction when it was read, ms, and how many did not come."""
    before_P = _counts(plan.slots, 0, plan.warm).sum(axis=0)
    counts_JP = _counts(plan.slots, plan.warm, plan.count)
    settled = int(SETTLE_S / plan.slot_s)
    ages, missing = [], 0
    for partition in range(PARTITIONS):
        mine_N = found["partition_N"] == partition
        tick_N = found["offset_N"][mine_N] - before_P[partition]
        slot_of_tick = np.repeat(np.arange(plan.count), counts_JP[:, partition])
        ours_N = (tick_N >= 0) & (tick_N < len(slot_of_tick))
        slot_N = slot_of_tick[tick_N[ours_N]]
        due_ns_N = began_ns + (slot_N * plan.slot_s * 1e9).astype(np.int64)
        age_ns_N = found["read_ns_N"][mine_N][ours_N] - due_ns_N
        ages.append(age_ns_N[slot_N >= settled] / 1e6)
        missing += len(slot_of_tick) - len(np.unique(tick_N[ours_N]))
    return np.concatenate(ages), missing


def _counts(slots: Slots, first: int, count: int) -> Any:
    """Return how many ticks slots ``first`` to ``first + count - 1`` hold for each partition."""
    whole_JP = np.zeros((len(slots), PARTITIONS), np.int64)
    slot_B = np.repeat(np.arange(len(slots)), np.diff(slots.first_B_of_J))
    whole_JP[slot_B, slots.partition_B] = slots.count_B
    return whole_JP[np.arange(first, first + count) % len(slots)]
