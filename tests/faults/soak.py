"""Faults at random for half an hour, and a worker in the middle of it that is left alone: what of it grows?"""

import asyncio
import itertools
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from data_io.topics import dead_letters
from ml_core.model.export import restated
from model_ops_manager.registration import register
from tests.faults import poison
from tests.faults.bench import Bench, Result
from tests.faults.cluster import Broker, cluster
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene
from tests.faults.waiting import FellShortError, until
from tests.faults.workers import SESSION_S

RATE = 500.0  # half an hour of it is judged in a minute or two
BACK_S, CALM_S = 120.0, 60.0  # on a machine that does other things too; how long it took is told
SAMPLES, SAMPLE_S = 3, 1.0  # at each calm moment
WARM = 0.2  # of the samples, at the beginning: what is made once is made there
RSS_GROWTH, SETTLED_MINUTES = 1.10, 10.0  # a shorter soak sees memory that is taken once: it is told and not judged
MORE = {"fds": 4, "threads": 2, "tasks": 4}  # a connection or a checkpoint may be under way
STEADY, OTHER = "steady", "other"


class Sample(NamedTuple):
    """What the steady worker holds."""

    rss_mb: float
    fds: float
    threads: float
    tasks: float


class Stage(NamedTuple):
    """What faults are done to."""

    scene: Scene
    broker: Broker
    proxy: Proxy
    rng: random.Random
    bad: dict[tuple[int, int], tuple[bytes, str]]  # partition and offset of poison: value and reason
    champions: Iterator[int]


async def soak(bench: Bench) -> Result:
    """Every fault again and again, in an order drawn from the seed; everything equals the oracle, nothing grows."""
    async with AsyncExitStack() as stack:
        [broker] = stack.enter_context(cluster(proxied=True))
        proxy = await stack.enter_async_context(Proxy(broker.advertised, broker.port))
        opened = Scene.opened(broker.address, bench.folder, bench.model, session_timeout_s=str(SESSION_S))
        scene = await stack.enter_async_context(opened)
        second = register(scene.store, restated(bench.model, pipeline=scene.spec.name), params={}, tags={})
        stage = Stage(scene, broker, proxy, bench.random, {}, itertools.cycle((second.version, 1)))
        for name in (STEADY, OTHER):
            scene.start(name)
        async with scene.load(RATE):
            await scene.consumes(BACK_S)
            done, pauses_s, samples = await _suffer(stage, 60.0 * bench.soak_minutes)
        await scene.caught_up()
        for name in (STEADY, OTHER):
            await scene.terminate(name)
        counts = await scene.judged(rowless=_rowless(stage))
        letters = await _must_be_letters(stage)
    found = {
        **counts,
        "minutes": bench.soak_minutes,
        "faults": dict(done),
        "dead_letters": letters,
        "longest_pause_s": max(pauses_s),
        "median_pause_s": statistics.median(pauses_s),
        "samples": len(samples),
        **_thirds(samples),
    }
    growth = {name: found[name] for name in _grown(found) if name != "rss_mb" or bench.soak_minutes >= SETTLED_MINUTES}
    if growth:
        raise FellShortError(f"the steady worker has grown: {growth}, in {found}")
    return found


async def _suffer(stage: Stage, seconds: float) -> tuple[Counter[str], list[float], list[Sample]]:
    """Return the faults done, how long each kept ticks waiting, and samples of calm moments."""
    done: Counter[str] = Counter()
    pauses_s: list[float] = []
    samples: list[Sample] = []
    bag: list[Callable[[Stage], Awaitable[None]]] = []
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        bag = bag or stage.rng.sample(FAULTS, len(FAULTS))
        fault = bag.pop()
        await fault(stage)
        done[fault.__name__.strip("_")] += 1
        pauses_s.append(await stage.scene.consumes(BACK_S))
        stage.scene.must_run()
        seen: list[object] = []
        await until(
            lambda seen=seen: _is_calm(stage.scene, seen),
            CALM_S,
            lambda seen=seen, fault=fault: f"no calm after {fault.__name__}: problems of workers, partitions: {seen}",
        )
        for _ in range(SAMPLES):
            await asyncio.sleep(SAMPLE_S)
            samples.append(await _sample(stage.scene))
    return done, pauses_s, samples


async def _is_calm(scene: Scene, seen: list[object]) -> bool:
    """Return whether all workers are ready and each has its share; ``seen`` is what there was instead."""
    problems = {name: await scene.problems(name) for name in scene.workers}
    seen[:] = [problems]
    if any(said != "" for said in problems.values()):  # one that has just been started may not answer yet
        return False
    owned = {name: len(await scene.samples("tickwise_consumer_lag_ticks", name)) for name in scene.workers}
    seen.append(owned)
    return owned[STEADY] == scene.lab.partitions / 2


async def _sample(scene: Scene) -> Sample:
    folder = Path(f"/proc/{scene.workers[STEADY].pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text(encoding="ascii").splitlines())
    return Sample(
        rss_mb=scene.rss_mb(STEADY),
        fds=sum(1 for _ in (folder / "fd").iterdir()),
        threads=int(status["Threads"]),
        tasks=await scene.metric("tickwise_event_loop_tasks", worker=STEADY),
    )


def _thirds(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Return medians of the first and the last third, without the first samples of all."""
    kept = samples[int(len(samples) * WARM) :]
    third = len(kept) // 3
    if third < SAMPLES:
        raise FellShortError(f"only {len(samples)} samples were taken")
    return {
        name: [statistics.median(values[:third]), statistics.median(values[-third:])]
        for name, values in zip(Sample._fields, zip(*kept, strict=True), strict=True)
    }


def _grown(found: Result) -> list[str]:
    """Return of what there is more in the end than there may be."""
    most = {"rss_mb": found["rss_mb"][0] * RSS_GROWTH, **{name: found[name][0] + more for name, more in MORE.items()}}
    return [name for name, bound in most.items() if found[name][1] > bound]


def _rowless(stage: Stage) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for partition, offset in sorted(stage.bad):
        found.setdefault(partition, []).append(offset)
    return found


async def _must_be_letters(stage: Stage) -> int:
    """Return how many dead letters there are; after a kill one may be there again, with the same name and value."""
    letters = [dead_letters.decode(each.key, each.value, each.headers) for each in await stage.scene.lab.dead_letters()]
    found = {(each.source[1], each.source[2]): (each.value, each.reason) for each in letters}
    if found != stage.bad:
        raise FellShortError(f"dead letters of {len(found)} records, of {len(stage.bad)} bad ones, or others")
    return len(letters)


async def _kill(stage: Stage) -> None:
    await stage.scene.kill(OTHER)
    stage.scene.start(OTHER)


async def _restart(stage: Stage) -> None:
    await stage.scene.terminate(OTHER)
    stage.scene.start(OTHER)


async def _pause_worker(stage: Stage) -> None:
    process = stage.scene.workers[OTHER]
    process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(SESSION_S + stage.rng.uniform(1.0, 4.0))
    finally:
        process.send_signal(signal.SIGCONT)


async def _reset_connections(stage: Stage) -> None:
    for _ in range(3):
        stage.proxy.reset()
        await asyncio.sleep(stage.rng.uniform(0.2, 1.0))


async def _delay(stage: Stage) -> None:
    stage.proxy.delay_s = 0.2
    await asyncio.sleep(stage.rng.uniform(2.0, 6.0))
    stage.proxy.delay_s = 0.0


async def _cut(stage: Stage) -> None:
    stage.proxy.is_cut = True
    await asyncio.sleep(stage.rng.uniform(1.0, 5.0))
    stage.proxy.is_cut = False
    stage.proxy.reset()


async def _pause_broker(stage: Stage) -> None:
    stage.broker.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(stage.rng.uniform(2.0, 6.0))
    finally:
        stage.broker.signal(signal.SIGCONT)


async def _kill_broker(stage: Stage) -> None:
    stage.broker.kill()
    await asyncio.sleep(stage.rng.uniform(0.0, 2.0))
    stage.broker.start()
    await asyncio.to_thread(stage.broker.await_answer)


async def _poison(stage: Stage) -> None:
    partition = stage.rng.randrange(stage.scene.lab.partitions)
    now_ns = time.time_ns()
    made = [(poison.filled(text, "SYN00", now_ns + n), reason) for n, (text, reason) in enumerate(poison.KINDS)]
    offsets = await stage.scene.lab.send(*((b"SYN00", value) for value, _ in made), partition=partition)
    stage.bad.update({(partition, offset): each for offset, each in zip(offsets, made, strict=True)})


async def _swap(stage: Stage) -> None:
    scene = stage.scene
    before = await scene.metric("tickwise_model_swaps_total", worker=STEADY)
    scene.store.set_champion(scene.spec.name, next(stage.champions), reason="the bench swaps")

    async def is_swapped() -> bool:
        return await scene.metric("tickwise_model_swaps_total", worker=STEADY) > before

    await until(is_swapped, CALM_S, "a champion was not swapped in")


FAULTS = (
    _kill, _restart, _pause_worker, _reset_connections, _delay, _cut, _pause_broker, _kill_broker, _poison, _swap,
)  # fmt: skip
