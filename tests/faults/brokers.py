"""Faults of brokers: paused, killed, killed for good; each with what must hold."""

import asyncio
import signal
import time

from tests.faults.bench import Bench, Result
from tests.faults.cluster import cluster
from tests.faults.scene import BACK_S, START_S, Scene

TOLD_S = 10.0


async def broker_paused(bench: Bench, seconds: float) -> Result:
    """SIGSTOP the broker, then let it go on: no worker is restarted."""
    with cluster() as [broker]:
        async with Scene.opened(broker.address, bench.folder, bench.model) as scene:
            scene.start("a")
            async with scene.load():
                await scene.consumes(START_S)
                broker.signal(signal.SIGSTOP)
                began, told_s = time.monotonic(), None
                try:
                    if seconds > TOLD_S:
                        told_s = await scene.told_of("Kafka has not answered", TOLD_S)
                    await asyncio.sleep(max(began + seconds - time.monotonic(), 0.0))
                finally:
                    broker.signal(signal.SIGCONT)
                back_s = await scene.consumes(BACK_S)
            return {**await scene.undisturbed(), "back_s": back_s, "told_s": told_s}


async def broker_killed(bench: Bench) -> Result:
    """SIGKILL the broker and start it again on the same data."""
    with cluster() as [broker]:
        async with Scene.opened(broker.address, bench.folder, bench.model) as scene:
            scene.start("a")
            async with scene.load():
                await scene.consumes(START_S)
                broker.kill()
                told_s = await scene.told_of("Kafka has not answered", TOLD_S)
                broker.start()
                await asyncio.to_thread(broker.await_answer)
                back_s = await scene.consumes(BACK_S)
            return {**await scene.undisturbed(), "back_s": back_s, "told_s": told_s}


async def one_of_three_killed(bench: Bench) -> Result:
    """SIGKILL one of three brokers, for good."""
    with cluster(3) as brokers:
        addresses = ",".join(broker.address for broker in brokers)
        async with Scene.opened(addresses, bench.folder, bench.model) as scene:
            scene.start("a")
            async with scene.load():
                await scene.consumes(START_S)
                brokers[bench.random.randrange(3)].kill()
                back_s = await scene.consumes(BACK_S)
            return {**await scene.undisturbed(), "back_s": back_s}
