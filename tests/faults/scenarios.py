"""The faults, each with what must hold; what falls short says so by a FellShortError."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

from data_io.data_fetcher.sources import open_source
from data_io.topics import late_ticks, ticks
from ml_core import fit as learning
from tests.faults import bar_oracle, storage
from tests.faults import disorder as disordered
from tests.faults.cluster import cluster
from tests.faults.proxy import END_TXN, Proxy
from tests.faults.scene import CHECKPOINT_S, RATE, FellShortError, Scene

SESSION_S = 6.0
BACK_S, TOLD_S, RESTORE_S = 30.0, 10.0, 1.0
BURST = 20  # times the usual load
POISON = [
    b"\x00\xff\xfe",
    b"{",
    b"",
    b'{"type":"trade"}',
    b'{"type":"trade","symbol":"S0","ts":1,"price":"ten","size":1}',
    b'{"type":"trade","symbol":"S0","ts":1,"price":NaN,"size":1}',
    b'{"type":"trade","symbol":"S0","ts":1,"price":Infinity,"size":1}',
    b'{"type":"trade","symbol":"S0","ts":1,"price":1e309,"size":1}',
    b'{"type":"trade","symbol":"S0","ts":1,"price":1,"size":0}',
    b'{"type":"trade","symbol":"S0","ts":1,"price":1,"size":-1}',
    b'{"type":"trade","symbol":"S\\u0007","ts":1,"price":1,"size":1}',
    b'{"type":"quote","symbol":"S0","ts":1,"bid":2,"ask":1,"bid_size":1,"ask_size":1}',
]

Result = dict[str, Any]


class Bench(NamedTuple):
    """What all scenarios have in common."""

    folder: Path
    model: learning.FittedModel
    kafka: str  # of those that leave it alone
    seed: int
    is_short: bool

    @property
    def random(self) -> random.Random:
        """Moments and victims."""
        return random.Random(self.seed)


async def kills(bench: Bench, **settings: str) -> Result:
    """SIGKILL one of two workers again and again, close together and spread."""
    rng = bench.random
    close, spread = (2, 1) if bench.is_short else (30, 20)
    pauses = [rng.uniform(0.0, 1.5) for _ in range(close)] + [rng.uniform(3.0, 6.0) for _ in range(spread)]
    async with Scene.opened(bench.kafka, bench.folder, bench.model, **settings) as scene:
        for name in ("a", "b"):
            scene.start(name)
        async with scene.load():
            await scene.consumes(60.0)
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
        if counts["repeats"] > bound:
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
            await scene.consumes(60.0)
            for name in ("a", "b"):
                stops_s.append(await scene.terminate(name))
                scene.start(name)
                await scene.consumes(60.0)
        await scene.caught_up()
        stops_s += [await scene.terminate(name) for name in scene.workers]
        return {**await scene.judged(repeats=False), "longest_stop_s": max(stops_s)}


async def zombie(bench: Bench) -> Result:
    """SIGSTOP a worker past its session, let another take over, and let it go on."""
    async with Scene.opened(bench.kafka, bench.folder, bench.model, session_timeout_s=str(SESSION_S)) as scene:
        scene.start("a")
        async with scene.load():
            await scene.consumes(60.0)
            scene.start("b")
            scene.workers["a"].send_signal(signal.SIGSTOP)
            try:
                taken_s = await scene.consumes(60.0)
            finally:
                scene.workers["a"].send_signal(signal.SIGCONT)
            await asyncio.sleep(2 * CHECKPOINT_S)
            await scene.consumes(60.0)
        await scene.caught_up()
        for name, process in scene.workers.items():
            if process.poll() is None:
                await scene.terminate(name)
        return {**await scene.judged(), "taken_over_s": taken_s}


async def broker_paused(bench: Bench, seconds: float) -> Result:
    """SIGSTOP the broker, then let it go on: no worker is restarted."""
    with cluster() as [broker]:
        async with Scene.opened(broker.address, bench.folder, bench.model) as scene:
            scene.start("a")
            async with scene.load():
                await scene.consumes(60.0)
                broker.signal(signal.SIGSTOP)
                began, told_s = time.monotonic(), None
                try:
                    if seconds > TOLD_S:
                        told_s = await scene.told_of("Kafka has not answered", TOLD_S)
                    await asyncio.sleep(max(began + seconds - time.monotonic(), 0.0))
                finally:
                    broker.signal(signal.SIGCONT)
                back_s = await scene.consumes(BACK_S)
            return {**await _undisturbed(scene), "back_s": back_s, "told_s": told_s}


async def broker_killed(bench: Bench) -> Result:
    """SIGKILL the broker and start it again on the same data."""
    with cluster() as [broker]:
        async with Scene.opened(broker.address, bench.folder, bench.model) as scene:
            scene.start("a")
            async with scene.load():
                await scene.consumes(60.0)
                broker.kill()
                told_s = await scene.told_of("Kafka has not answered", TOLD_S)
                broker.start()
                await asyncio.to_thread(broker.await_answer)
                back_s = await scene.consumes(BACK_S)
            return {**await _undisturbed(scene), "back_s": back_s, "told_s": told_s}


async def one_of_three_killed(bench: Bench) -> Result:
    """SIGKILL one of three brokers, for good."""
    with cluster(3) as brokers:
        addresses = ",".join(broker.address for broker in brokers)
        async with Scene.opened(addresses, bench.folder, bench.model) as scene:
            scene.start("a")
            async with scene.load():
                await scene.consumes(60.0)
                brokers[bench.random.randrange(3)].kill()
                back_s = await scene.consumes(BACK_S)
            return {**await _undisturbed(scene), "back_s": back_s}


async def _undisturbed(scene: Scene) -> Result:
    """Return what the worker, which was never restarted, has made of all ticks."""
    scene.must_run()
    await scene.caught_up()
    await scene.terminate("a")
    return await scene.judged()


async def proxied(bench: Bench, fault: Callable[[Proxy, Scene], Awaitable[None]]) -> Result:
    """Do ``fault`` to the connections between worker and broker."""
    async with AsyncExitStack() as stack:
        [broker] = stack.enter_context(cluster(proxied=True))
        proxy = await stack.enter_async_context(Proxy(broker.advertised, broker.port))
        scene = await stack.enter_async_context(Scene.opened(broker.address, bench.folder, bench.model))
        scene.start("a")
        async with scene.load():
            await scene.consumes(60.0)
            before_mb = _rss_mb(scene)
            await fault(proxy, scene)
            back_s = await scene.consumes(BACK_S)
            after_mb = _rss_mb(scene)
        counts = await _undisturbed(scene)
        if after_mb > 1.5 * before_mb:
            raise FellShortError(f"the worker grew from {before_mb:.0f} to {after_mb:.0f} MB")
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
        for _ in range(100):
            await asyncio.sleep(0.1)
            if proxy.lost > lost:
                break
        else:
            raise FellShortError("no checkpoint was committed in 10 s")
        await scene.consumes(BACK_S)


async def members_come_and_go(bench: Bench) -> Result:
    """Workers join and leave every 3 s for two minutes, more of them than partitions."""
    rng = bench.random
    async with Scene.opened(bench.kafka, bench.folder, bench.model, session_timeout_s=str(SESSION_S)) as scene:
        names = [f"w{k}" for k in range(4)]
        scene.start(names[0])
        pauses_s = []
        async with scene.load():
            await scene.consumes(60.0)
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


async def poison(bench: Bench) -> Result:
    """One record in a hundred is of a kind that cannot be read; each becomes one dead letter."""
    rng = bench.random
    async with Scene.opened(bench.kafka, bench.folder, bench.model) as scene:
        good = ticks.encode(next(open_source("synthetic:symbols=6,ticks=8000,rate=50").stream(8_000)))
        records, bad = [], []
        for k, record in enumerate(good):
            if k % 100 == 50:
                bad.append(rng.choice(POISON))
                records.append((record[0], bad[-1]))
            records.append(record)
        bad.append(b"x" * 1_000_000)
        records.append((b"S0", bad[-1]))
        scene.start("a")
        await scene.lab.send(*records)
        letters = await scene.lab.until(lambda: _letters(scene, len(bad)))
        await scene.lab.until_rows(scene.spec, len(good))
        await scene.terminate("a")
        found = [letter.value for letter in letters]
        if found != bad:
            raise FellShortError(f"{len(found)} dead letters of {len(bad)} bad records, or others")
        live, expected = await scene.lab.live_rows(scene.spec), await scene.lab.expected_rows(scene.spec)
        if live != expected:
            raise FellShortError("rows beside bad records differ")
        return {"compared": len(live), "lost": 0, "conflicting": 0, "repeats": 0, "dead_letters": len(found)}


async def _letters(scene: Scene, count: int) -> list[Any] | None:
    found = await scene.lab.dead_letters()
    return found if len(found) >= count else None


async def disorder(bench: Bench) -> Result:
    """A fifth of the ticks comes twice, others late, and clocks are 1.3 s behind, 5 s ahead and one hour off.

    Bars by time must be those of the same ticks in order: without repeats, those that came too late, and times that
    nothing confirmed. Bars by ticks, volume and value must be cut where the same ticks, as they came, fill them.
    """
    bars = {"by": disordered.BARS}
    async with Scene.opened(bench.kafka, bench.folder, bench.model, partitions=1, parts={"bars": bars}) as scene:
        gap_ns, lateness_ns = scene.spec.features.gap, scene.spec.source.lateness
        log = disordered.make(6_000, bench.random, gap_ns=gap_ns, lateness_ns=lateness_ns)
        scene.start("a")
        await scene.lab.send(*log.records)
        await scene.caught_up()
        counted = await scene.late_ticks("a")
        await scene.terminate("a")
        counts = await scene.judged(repeats=False, rowless=log.repeated)
        letters = [letter async for letter in scene.lab.records(late_ticks.name(scene.lab.topic), 0)]
        kept = [(letter.key, letter.value, *_late_place(dict(letter.headers))) for letter in letters]
        if kept != [(*log.records[offset], offset, late_ns) for offset, late_ns in log.too_late]:
            raise FellShortError(f"{len(kept)} late letters of {len(log.too_late)} late ticks, or others")
        if counted != {"true": len(kept), "false": log.late - len(kept)}:
            raise FellShortError(f"counted {counted}, of {log.late} late ticks {len(kept)} too late")
        expected = bar_oracle.bars_of(log.of_symbol, scene.spec.bars, gap_ns=gap_ns, lateness_ns=lateness_ns)
        if different := await scene.bars_that_differ(expected):
            raise FellShortError(f"of {len(expected)} bars {len(different)} differ, the first is {different[0]}")
        return {
            **counts,
            "rowless": len(log.repeated),
            "late": log.late,
            "too_late": len(kept),
            "final_bars": len(expected),
        }


def _late_place(headers: Mapping[str, bytes]) -> tuple[int, int]:
    return int(headers["tickwise.late.offset"]), int(headers["tickwise.late.late-ns"])


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


async def disk_full(bench: Bench) -> Result:
    """The disk of job store and models is full for a while."""
    return await storage.disk_full(bench.kafka, bench.folder)


async def unread_ticks_deleted(bench: Bench) -> Result:
    """Retention deletes ticks that were not read."""
    async with Scene.opened(bench.kafka, bench.folder, bench.model) as scene:
        return await storage.unread_ticks_deleted(scene)


async def burst(bench: Bench, **settings: str) -> Result:
    """Twenty times the load for a while, and parity samples meanwhile: lag rises and drains, and nothing is lost."""
    parts = {"bars": None} if settings else None  # they are made of every tick, so a worker with bars skips none
    async with Scene.opened(bench.kafka, bench.folder, bench.model, parts=parts, parity_s="1", **settings) as scene:
        scene.start("a")
        await scene.lab.until(lambda: _is_ready(scene))
        lags = [0.0]
        async with scene.load():
            await scene.consumes(60.0)
            await scene.lab.until(lambda: _is_sampled(scene))
            before_mb = _rss_mb(scene)
            async with scene.load(BURST * RATE):
                scene.workers["a"].send_signal(signal.SIGSTOP)  # however fast it is, it comes late
                try:
                    await asyncio.sleep(4.0)
                finally:
                    scene.workers["a"].send_signal(signal.SIGCONT)
                for _ in range(15 if bench.is_short else 50):
                    await asyncio.sleep(0.2)
                    lags.append(await scene.metric("tickwise_consumer_lag_ticks"))
            back_s = await scene.consumes(BACK_S)
            after_mb = _rss_mb(scene)
        await scene.caught_up()
        counted = await scene.metric("tickwise_shed_ticks_total")
        parity = {
            each: await scene.metric("tickwise_parity_rows_total", each) for each in ("equal", "different", "missing")
        }
        await scene.terminate("a")
        counts = await scene.judged(repeats=False)
        if counts["shed"] != counted or bool(counted) != bool(settings):
            raise FellShortError(f"{counts['shed']} rows are not there, {counted:.0f} ticks are counted as skipped")
        if not parity["equal"] or parity["different"] or parity["missing"]:
            raise FellShortError(f"rows of parity samples: {parity}")
        if after_mb > 1.5 * before_mb:
            raise FellShortError(f"the worker grew from {before_mb:.0f} to {after_mb:.0f} MB")
        return {
            **counts,
            "sampled": parity["equal"],
            "largest_lag": max(lags),
            "back_s": back_s,
            "rss_mb": [before_mb, after_mb],
        }


async def _is_ready(scene: Scene) -> bool:
    return await scene.problems("a") == ""


async def _is_sampled(scene: Scene) -> bool:
    return await scene.metric("tickwise_parity_rows_total", "equal") > 0


async def burst_skipped(bench: Bench) -> Result:
    """The same with a worker that skips: what is not there is what it has counted, and the rest is as ever."""
    return await burst(bench, shed="skip_to_latest", shed_lag="5000")


Scenario = Callable[[Bench], Awaitable[Result]]

SHORT = ("kills", "rolling_restart", "zombie")


def scenarios() -> Mapping[str, Scenario]:
    """Return all faults by name, in order."""
    faults = {"slow": slow, "resets": resets, "half_open": half_open, "cut_for_60_s": cut, "lost_commit": lost_commit}
    return {
        "kills": kills,
        "kills_exactly_once": kills_exactly_once,
        "rolling_restart": rolling_restart,
        "zombie": zombie,
        **{f"broker_paused_{s}_s": lambda bench, s=s: broker_paused(bench, float(s)) for s in (5, 30, 90)},
        "broker_killed": broker_killed,
        "one_of_three_killed": one_of_three_killed,
        "members_come_and_go": members_come_and_go,
        "poison": poison,
        "disorder": disorder,
        "partitions_and_workers": partitions_and_workers,
        "restore": restore,
        "disk_full": disk_full,
        "unread_ticks_deleted": unread_ticks_deleted,
        "burst": burst,
        "burst_skipped": burst_skipped,
        **{f"proxy_{name}": lambda bench, fault=fault: proxied(bench, fault) for name, fault in faults.items()},
    }


def _rss_mb(scene: Scene) -> float:
    pages = Path(f"/proc/{scene.workers['a'].pid}/statm").read_text().split()[1]
    return int(pages) * 4096 / 1e6
