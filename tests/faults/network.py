"""Faults of the network between a worker and its broker; each with what must hold."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from tests.faults.bench import Bench, Result
from tests.faults.cluster import cluster
from tests.faults.proxy import END_TXN, Proxy
from tests.faults.scene import BACK_S, SILENT, TOLD_S, Scene
from tests.faults.waiting import FellShortError, until

MOST_GROWN = 1.5
SLOW_S = 10.0


async def proxied(bench: Bench, fault: Callable[[Proxy, Scene], Awaitable[float | None]]) -> Result:
    """Do ``fault`` to the connections between worker and broker; it returns when /readyz told of it, where it must."""
    async with AsyncExitStack() as stack:
        [broker] = stack.enter_context(cluster(proxied=True))
        proxy = await stack.enter_async_context(Proxy(broker.advertised, broker.port))
        scene = await stack.enter_async_context(Scene.opened(broker.address, bench.folder, bench.model))
        scene.start("a")
        async with scene.load():
            await scene.at_work("a")
            before_mb = scene.forget_peak()
            told_s = await fault(proxy, scene)
            back = await scene.back()
        counts = await scene.undisturbed()
        scene.must_be_bounded(before_mb, back["peak_mb"], most=MOST_GROWN)
        return {**counts, **back, "before_mb": before_mb, "told_s": told_s}


async def slow(proxy: Proxy, scene: Scene) -> None:
    """200 ms each way for a while; the worker is ready, and says so."""
    proxy.delay_s = 0.2
    ends_s = time.monotonic() + SLOW_S
    while time.monotonic() < ends_s:
        if (said := await scene.problems("a")) != "":
            raise FellShortError(f"a worker that is only slow said {said}")
        await asyncio.sleep(0.2)
    proxy.delay_s = 0.0


async def resets(proxy: Proxy, _scene: Scene) -> None:
    """All connections are reset, ten times."""
    for _ in range(10):
        await asyncio.sleep(0.5)
        proxy.reset()


async def half_open(proxy: Proxy, scene: Scene) -> float:
    """Nothing gets through for 15 s; the connections of that time stay half open."""
    return await _cut(proxy, scene, 15.0)


async def cut(proxy: Proxy, scene: Scene) -> float:
    """Nothing gets through for a minute, and the same."""
    return await _cut(proxy, scene, 60.0)


async def lost_commit(proxy: Proxy, scene: Scene) -> None:
    """A checkpoint is committed and its answer lost, three times."""
    for _ in range(3):
        lost = proxy.lost
        proxy.lose_answer_to = END_TXN
        await until(lambda lost=lost: proxy.lost > lost, 10.0, "no checkpoint was committed in 10 s", pause_s=0.1)
        await scene.consumes(BACK_S)


async def _cut(proxy: Proxy, scene: Scene, seconds: float) -> float:
    began = time.monotonic()
    proxy.is_cut = True
    told_s = await scene.told_of(SILENT, TOLD_S)
    await asyncio.sleep(max(began + seconds - time.monotonic(), 0.0))
    proxy.abandon()
    return told_s
