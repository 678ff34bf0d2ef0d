"""Faults of workers: killed, stopped, restarted, paused past their session; each with what must hold."""

import asyncio
import random
import signal
import time
from collections import Counter

from tests.faults import group, repeats
from tests.faults.bench import Bench, Result
from tests.faults.scene import BACK_S, CHECKPOINT_S, START_S, Scene
from tests.faults.waiting import FellShortError, until

SESSION_S = 6.0
RESTORE_S = 1.0
MEMBERS = tuple(f"w{k}" for k in range(5))
STEP_S = 3.0


async def kills(bench: Bench, **settings: str) -> Result:
    """SIGKILL one of two workers again and again: while it works, anew each time, and close together."""
    rng = bench.random
    spread, close = (1, 2) if bench.is_short else (20, 30)
    async with Scene.opened(bench.kafka, bench.folder, bench.model, **settings) as scene:
        for name in ("a", "b"):
            scene.start(name)
        async with scene.load():
            ends = []
            for number in range(spread + close):
                victim = rng.choice(list(scene.workers))
                if number < spread:
                    await scene.at_work(victim)
                await asyncio.sleep(rng.uniform(0.0, CHECKPOINT_S))
                await scene.kill(victim)
                ends.append(await repeats.row_ends(scene))
                scene.start(victim)
        await scene.caught_up()
        for name in scene.workers:
            await scene.terminate(name)
        counts = await scene.judged(repeats=not settings)
        of_kill = repeats.of_kills(await repeats.jumps(scene), ends)
        # Those close together may meet a worker before it has kept pace: how much it owes then is open.
        longest = await repeats.must_be_tails(scene, [jump for of_it in of_kill[:spread] for jump in of_it])
        hit = sum(map(bool, of_kill[:spread]))
        if 2 * hit < spread - 1:  # one may come right behind a checkpoint
            raise FellShortError(f"only {hit} of {spread} kills met a worker at work")
        return {
            **counts,
            "kills": len(of_kill),
            "hit_at_work": hit,
            "longest_tail": longest,
            "restore_s": max(scene.restores_s()),
        }


async def kills_exactly_once(bench: Bench) -> Result:
    """The same, read committed: nothing may repeat, though what was aborted does."""
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
    """SIGSTOP a worker past its session, let another take over, and let it go on: it writes nothing of what it held."""
    async with Scene.opened(bench.kafka, bench.folder, bench.model, session_timeout_s=str(SESSION_S)) as scene:
        scene.start("a")
        async with scene.load():
            await scene.at_work("a")
            ends = [await repeats.row_ends(scene)]
            scene.start("b")
            scene.workers["a"].send_signal(signal.SIGSTOP)
            try:
                taken_s = await scene.consumes(START_S)
                ends.append(await repeats.row_ends(scene))
            finally:
                scene.workers["a"].send_signal(signal.SIGCONT)
            await until(lambda: _has_settled(scene, "a"), BACK_S, "the stopped worker neither ended nor became ready")
            await scene.consumes(START_S)
        await scene.caught_up()
        for name, process in scene.workers.items():
            if process.poll() is None:
                await scene.terminate(name)
        counts = await scene.judged()
        taken, written = repeats.of_kills(await repeats.jumps(scene), ends)
        # Whoever goes on from where it was stopped stands far behind what the other one has written since.
        if written:
            raise FellShortError(f"something was written anew after the stopped worker went on: {written}")
        return {**counts, "taken_over_s": taken_s, "longest_tail": await repeats.must_be_tails(scene, taken)}


async def _has_settled(scene: Scene, name: str) -> bool:
    return scene.workers[name].poll() is not None or await scene.problems(name) == ""


async def members_come_and_go(bench: Bench) -> Result:
    """Workers join or leave every 3 s for two minutes, most of the time more of them than partitions.

    One that joins is a process of its own, which takes some seconds to come so far; one that leaves drains. Nobody
    waits for either.
    """
    async with Scene.opened(bench.kafka, bench.folder, bench.model, session_timeout_s=str(SESSION_S)) as scene:
        for name in MEMBERS[:2]:
            scene.start(name)
        async with scene.load():
            for name in MEMBERS[:2]:
                await scene.at_work(name)
            async with group.watched(scene) as seen:
                took_s = await _come_and_go(scene, 8 if bench.is_short else 40, bench.random)
                await group.owned_once(scene, BACK_S)
        await scene.caught_up()
        for name, process in scene.workers.items():
            if process.poll() is None:
                await scene.terminate(name)
        counts = await scene.judged()
        if seen.most_members <= scene.lab.partitions:
            raise FellShortError(f"never more members than partitions: {seen}")
        if seen.longest_pause_s > BACK_S or not seen.settled:
            raise FellShortError(f"a partition stood still: {seen}")
        return {**counts, **vars(seen), "steps_took_s": took_s}


async def _come_and_go(scene: Scene, steps: int, rng: random.Random) -> float:
    """Return how long ``steps`` took.

    Raises:
        FellShortError: One that left did not drain in time, or one ended by itself.
    """
    leaving: dict[str, asyncio.Task[float]] = {}
    began = time.monotonic()
    for number in range(steps):
        await asyncio.sleep(max(began + number * STEP_S - time.monotonic(), 0.0))
        gone = {name for name, task in leaving.items() if task.done() and task.result()}
        free = [name for name in MEMBERS if name not in scene.workers or name in gone]
        there = [name for name in scene.workers if name not in leaving and "worker started" in scene.log_of(name)]
        # The last two never leave: for seconds nobody else may have come so far.
        if len(there) > 2 and (not free or rng.random() < 0.5):
            name = rng.choice(there)
            leaving[name] = asyncio.create_task(scene.terminate(name), name=f"leave-{name}")
        elif free:
            name = rng.choice(free)
            leaving.pop(name, None)
            scene.start(name)
    took_s = time.monotonic() - began
    await asyncio.gather(*leaving.values())
    return took_s


async def partitions_and_workers(bench: Bench) -> Result:
    """The same log with one and four partitions, one and two workers: the same rows and scores of each symbol."""
    found, counts = [], Counter[str]()
    for partitions, workers in ((1, 1), (4, 1), (4, 2)):
        async with Scene.opened(bench.kafka, bench.folder, bench.model, partitions=partitions) as scene:
            for k in range(workers):
                scene.start(f"w{k}")
            await group.owned_once(scene, START_S)
            await until(lambda scene=scene: _all_have_work(scene), START_S, "a worker has no partition")
            await scene.lab.publish("synthetic:symbols=12,ticks=8000,rate=50,seed=3")
            await scene.lab.until_rows(scene.spec, 8_000)
            made = [await scene.metric("tickwise_rows_total", worker=name) for name in scene.workers]
            if not all(made):
                raise FellShortError(f"a worker had no work: rows by worker {made}")
            for name in scene.workers:
                await scene.terminate(name)
            counts.update(await scene.judged(repeats=False))
            found.append(await scene.by_symbol())
    if not found[0] == found[1] == found[2]:
        raise FellShortError("rows or scores differ", counts)
    return {**counts, "symbols": len(found[0])}


async def _all_have_work(scene: Scene) -> bool:
    return all([await scene.samples("tickwise_consumer_lag_ticks", name) for name in scene.workers])


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
