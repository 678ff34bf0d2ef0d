"""Faults of the network between a worker and its broker; each with what must hold."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from tests.faults.bench import Bench, Result
from tests.faults.cluster import cluster
from tests.faults.proxy import END_TXN, Proxy
from tests.faults.scene import BACK_S, START_S, Scene
from tests.faults.waiting import until


async def proxied(bench: Bench, fault: Callable[[Proxy, Scene], Awaitable[None]]) -> Result:
    """Do ``fault`` to the connections between worker and broker."""
    async with AsyncExitStack() as stack:
        [broker] = stack.enter_context(cluster(proxied=True))
        proxy = await stack.enter_async_context(Proxy(broker.advertised, broker.port))
        scene = await stack.enter_async_context(Scene.opened(broker.address, bench.folder, bench.model))
        scene.start("a")
        async with scene.load():
            await scene.consumes(START_S)
            before_mb = scene.rss_mb()
            await fault(proxy, scene)
            back_s = await scene.consumes(BACK_S)
            after_mb = scene.rss_mb()
        counts = await scene.undisturbed()
        scene.must_be_bounded(before_mb, after_mb)
        return {**counts, "back_s": back_s, "rss_mb": [before_mb, after_mb]}


async def slow(proxy: Proxy, _scene: Scene) -> None:
    """200 ms each way for a while."""
    proxy.delay_s = 0.2
    await asyncio.sleep(10.0)
    proxy.delay_s = 0.0


async def resets(proxy: Proxy, _scene: Scene) -> None:
    """All connections are reset, ten times."""
    for _ in range(10):
        await asyncio.sleep(0.5)
        proxy.reset()


async def half_open(proxy: Proxy, _scene: Scene) -> None:
    """Nothing gets through for 15 s, and nobody is told."""
    proxy.is_cut = True
    await asyncio.sleep(15.0)
    proxy.is_cut = False
    proxy.reset()


async def cut(proxy: Proxy, _scene: Scene) -> None:
    """Nothing gets through for a minute."""
    proxy.is_cut = True
    await asyncio.sleep(60.0)
    proxy.is_cut = False
    proxy.reset()


async def lost_commit(proxy: Proxy, scene: Scene) -> None:
    """A checkpoint is committed and its answer lost, three times."""
    for _ in range(3):
        lost = proxy.lost
        proxy.lose_answer_to = END_TXN
        await until(lambda lost=lost: proxy.lost > lost, 10.0, "no checkpoint was committed in 10 s", pause_s=0.1)
        await scene.consumes(BACK_S)
