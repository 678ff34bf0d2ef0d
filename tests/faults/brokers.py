"""Faults of brokers: paused, killed, killed for good; each with what must hold."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence

from aiokafka.admin import AIOKafkaAdminClient

from tests.faults.bench import Bench, Result
from tests.faults.cluster import Broker, cluster
from tests.faults.scene import BACK_S, SILENT, TOLD_S, Scene

DEAD_S = 60.0


async def broker_paused(bench: Bench, seconds: float) -> Result:
    """SIGSTOP the broker, then let it go on: no worker is restarted."""

    async def pause(scene: Scene, brokers: Sequence[Broker]) -> Result:
        [broker] = brokers
        began, told_s = time.monotonic(), None
        broker.signal(signal.SIGSTOP)
        try:
            if seconds > TOLD_S:
                told_s = await scene.told_of(SILENT, TOLD_S)
            await asyncio.sleep(max(began + seconds - time.monotonic(), 0.0))
        finally:
            broker.signal(signal.SIGCONT)
        return {"told_s": told_s}

    return await _survived(bench, pause)


async def broker_killed(bench: Bench) -> Result:
    """SIGKILL the broker and start it again, a minute later, on the same data."""

    async def kill(scene: Scene, brokers: Sequence[Broker]) -> Result:
        [broker] = brokers
        began = time.monotonic()
        broker.kill()
        told_s = await scene.told_of(SILENT, TOLD_S)
        await asyncio.sleep(max(began + DEAD_S - time.monotonic(), 0.0))
        scene.must_run()
        broker.start()
        await asyncio.to_thread(broker.await_answer)
        return {"told_s": told_s}

    return await _survived(bench, kill)


async def one_of_three_killed(bench: Bench) -> Result:
    """SIGKILL the one of three brokers that leads a partition of the ticks, for good."""

    async def kill(scene: Scene, brokers: Sequence[Broker]) -> Result:
        brokers[await _leader(scene) - 1].kill()
        told_s, back_s = await asyncio.gather(
            scene.told_of(SILENT, TOLD_S), scene.consumes(BACK_S), return_exceptions=True
        )
        if isinstance(back_s, BaseException):
            raise back_s
        if isinstance(told_s, BaseException):
            if back_s > TOLD_S:  # who consumes by then has nothing to tell
                raise told_s
            told_s = None
        return {"told_s": told_s, "back_s": back_s}

    return await _survived(bench, kill, count=3)


async def _survived(
    bench: Bench, fault: Callable[[Scene, Sequence[Broker]], Awaitable[Result]], count: int = 1
) -> Result:
    with cluster(count) as brokers:
        addresses = ",".join(broker.address for broker in brokers)
        async with Scene.opened(addresses, bench.folder, bench.model) as scene:
            scene.start("a")
            async with scene.load():
                await scene.at_work("a")
                scene.forget_peak()
                told = await fault(scene, brokers)
                back = await scene.back()
            return {**await scene.undisturbed(), **back, **told}


async def _leader(scene: Scene) -> int:
    """Return the number of the node that leads the first partition of the ticks."""
    client = AIOKafkaAdminClient(bootstrap_servers=scene.lab.kafka)
    await client.start()
    try:
        [topic] = await client.describe_topics([scene.lab.topic])
    finally:
        await client.close()
    return next(int(each["leader"]) for each in topic["partitions"] if each["partition"] == 0)
