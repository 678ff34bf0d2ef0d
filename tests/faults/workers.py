"""Faults of workers: killed, stopped, restarted, paused past their session; each with what must hold."""

import asyncio
import signal

from tests.faults.bench import Bench, Result
from tests.faults.scene import BACK_S, CHECKPOINT_S, RATE, START_S, Scene
from tests.faults.waiting import FellShortError

SESSION_S = 6.0
RESTORE_S = 1.0


async def kills(bench: Bench, **settings: str) -> Result:
    """SIGKILL one of two workers again and again, close together and spread."""
    rng = bench.random
    close, spread = (2, 1) if bench.is_short else (30, 20)
    pauses = [rng.uniform(0.0, 1.5) for _ in range(close)] + [rng.uniform(3.0, 6.0) for _ in range(spread)]
    async with Scene.opened(bench.kafka, bench.folder, bench.model, **settings) as scene:
        for name in ("a", "b"):
            scene.start(name)
        async with scene.load():
            await scene.consumes(START_S)
            for pause_s in pauses:
                await asyncio.sleep(pause_s)
                victim = rng.choice(list(scene.workers))
                await scene.kill(victim)
                scene.start(victim)
        await scene.caught_up()
        for name in scene.workers:
            await scene.terminate(name)
        counts = await scene.judged(repeats=not settings)
        bound = 2 * len(pauses) * (CHECKPOINT_S + 1.0) * RATE  # rows and predictions of a checkpoint, a kill
        if counts["repeats"] > bound and not bench.is_short:  # how often a starved machine gets to a checkpoint is open
            raise FellShortError(f"{counts['repeats']} repeats of {len(pauses)} kills are more than {bound:.0f}")
        return {**counts, "kills": len(pauses), "restore_s": max(scene.restores_s())}


async def kills_exactly_once(bench: Bench) -> Result:
    """The same, read committed: nothing may repeat."""
    return await kills(bench, delivery="exactly_once", checkpoint_s="0.2")


async def rolling_restart(bench: Bench) -> Result:
    """SIGTERM one worker after the other under load."""
    async with Scene.opened(bench.kafka, bench.folder, bench.model) as scene:
        for name in ("a", "b"):
            scene.start(name)
        stops_s = []
        async with scene.load():
            await scene.consumes(START_S)
            for name in ("a", "b"):
                stops_s.append(await scene.terminate(name))
                scene.start(name)
                await scene.consumes(START_S)
        await scene.caught_up()
        stops_s += [await scene.terminate(name) for name in scene.workers]
        return {**await scene.judged(repeats=False), "longest_stop_s": max(stops_s)}


async def zombie(bench: Bench) -> Result:
    """SIGSTOP a worker past its session, let another take over, and let it go on."""
    async with Scene.opened(bench.kafka, bench.folder, bench.model, session_timeout_s=str(SESSION_S)) as scene:
        scene.start("a")
        async with scene.load():
            await scene.consumes(START_S)
            scene.start("b")
            scene.workers["a"].send_signal(signal.SIGSTOP)
            try:
                taken_s = await scene.consumes(START_S)
            finally:
                scene.workers["a"].send_signal(signal.SIGCONT)
            await asyncio.sleep(2 * CHECKPOINT_S)
            await scene.consumes(START_S)
        await scene.caught_up()
        for name, process in scene.workers.items():
            if process.poll() is None:
                await scene.terminate(name)
        return {**await scene.judged(), "taken_over_s": taken_s}


async def members_come_and_go(bench: Bench) -> Result:
    """Workers join and leave every 3 s for two minutes, more of them than partitions."""
    rng = bench.random
    async with Scene.opened(bench.kafka, bench.folder, bench.model, session_timeout_s=str(SESSION_S)) as scene:
        names = [f"w{k}" for k in range(4)]
        scene.start(names[0])
        pauses_s = []
        async with scene.load():
            await scene.consumes(START_S)
            for _ in range(40):
                await asyncio.sleep(3.0)
                name = rng.choice(names)
                running = [each for each in scene.workers if scene.workers[each].poll() is None]
                if name in running and len(running) > 1:
                    await scene.terminate(name)
                elif name not in running:
                    scene.start(name)
                pauses_s.append(await scene.consumes(BACK_S))
        await scene.caught_up()
        for name, process in scene.workers.items():
            if process.poll() is None:
                await scene.terminate(name)
        return {**await scene.judged(), "longest_pause_s": max(pauses_s)}


async def partitions_and_workers(bench: Bench) -> Result:
    """The same log with one and four partitions, one and two workers: the same rows and scores of each symbol."""
    found = []
    for partitions, workers in ((1, 1), (4, 1), (4, 2)):
        async with Scene.opened(bench.kafka, bench.folder, bench.model, partitions=partitions) as scene:
            for k in range(workers):
                scene.start(f"w{k}")
            await scene.lab.publish("synthetic:symbols=12,ticks=8000,rate=50,seed=3")
            await scene.lab.until_rows(scene.spec, 8_000)
            for name in scene.workers:
                await scene.terminate(name)
            found.append(await scene.by_symbol())
    if not found[0] == found[1] == found[2]:
        raise FellShortError("rows or scores differ")
    return {"compared": 3 * sum(map(len, found[0].values())), "lost": 0, "conflicting": 0, "repeats": 0}


async def restore(bench: Bench) -> Result:
    """10,000 symbols are taken over again."""
    async with Scene.opened(bench.kafka, bench.folder, bench.model, partitions=1) as scene:
        scene.start("a")
        await scene.lab.publish("synthetic:symbols=10000,ticks=40000,rate=5000,seed=3")
        await scene.lab.until_rows(scene.spec, 40_000)
        await scene.terminate("a")
        before = len(scene.restores_s())
        scene.start("a")
        [restored_s] = (await scene.lab.until(lambda: scene.restores_s()[before:]))[:1]
        await scene.terminate("a")
        if restored_s > RESTORE_S:
            raise FellShortError(f"took {restored_s:.2f} s")
        return {**await scene.judged(), "restore_s": restored_s}
