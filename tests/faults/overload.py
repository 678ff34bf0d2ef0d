"""More ticks than a worker can take: many at once, or a model that is slow."""

import asyncio
import signal
import statistics
import time
import timeit

import numpy as np

from ml_core.model.export import restated
from ml_core.model.fitted import FittedModel
from model_ops_manager.registration import register
from tests.faults.bench import Bench, Result
from tests.faults.scene import BACK_S, RATE, START_S, Scene, fitted
from tests.faults.waiting import FellShortError, until

BURST = 20  # times the usual load
WIDTHS = 1024, 3400  # of two hidden layers: the second takes ten times as many multiplications
SWAPPED_S, DRAINED_S = 120.0, 300.0
MOST_RATE = 10_000.0  # more than two million ticks are not compared at once


async def burst(bench: Bench, **settings: str) -> Result:
    """Twenty times the load for a while, and parity samples meanwhile: lag rises and drains, and nothing is lost."""
    parts = {"bars": None} if settings else None  # they are made of every tick, so a worker with bars skips none
    async with Scene.opened(bench.kafka, bench.folder, bench.model, parts=parts, parity_s="1", **settings) as scene:
        scene.start("a")
        await scene.lab.until(lambda: _is_ready(scene))
        lags = [0.0]
        async with scene.load() as load:
            await scene.consumes(START_S)
            await scene.lab.until(lambda: _is_sampled(scene))
            before_mb = scene.forget_peak()
            load.rate = BURST * RATE
            scene.workers["a"].send_signal(signal.SIGSTOP)  # however fast it is, it comes late
            try:
                await asyncio.sleep(4.0)
            finally:
                scene.workers["a"].send_signal(signal.SIGCONT)
            for _ in range(15 if bench.is_short else 50):
                await asyncio.sleep(0.2)
                lags.append(await scene.metric("tickwise_consumer_lag_ticks"))
            load.rate = RATE
            back_s = await scene.consumes(BACK_S)
            after_mb, peak_mb = scene.rss_mb(), scene.peak_mb()
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
        scene.must_be_bounded(before_mb, peak_mb)
        return {
            **counts,
            "sampled": parity["equal"],
            "largest_lag": max(lags),
            "back_s": back_s,
            "rss_mb": [before_mb, after_mb],
            "peak_mb": peak_mb,
        }


async def _is_ready(scene: Scene) -> bool:
    return await scene.problems("a") == ""


async def _is_sampled(scene: Scene) -> bool:
    return await scene.metric("tickwise_parity_rows_total", "equal") > 0


async def burst_skipped(bench: Bench) -> Result:
    """The same with a worker that skips: what is not there is what it has counted, and the rest is as ever."""
    return await burst(bench, shed="skip_to_latest", shed_lag="5000")


async def scorer_slow(bench: Bench) -> Result:
    """A model that takes ten times as long is promoted, and later the fast one again: lag rises and drains."""
    fast, slow = await asyncio.to_thread(lambda: [fitted(3_000, hidden=[width, width]) for width in WIDTHS])
    fast_us, slow_us = _score_us(fast), _score_us(slow)
    rate = min(3e6 / slow_us, MOST_RATE)  # at most a third of it can be scored slowly, and some three times of it fast
    async with Scene.opened(bench.kafka, bench.folder, fast) as scene:
        register(scene.store, restated(slow, pipeline=scene.spec.name), params={}, tags={})
        scene.start("a")
        await scene.lab.until(lambda: _is_ready(scene))
        async with scene.load(rate):
            await scene.consumes(START_S)
            before_mb = scene.rss_mb()
            lags, rss_mb, problems = [0.0], [before_mb], set[str | None]()

            async def is_drained() -> bool:
                lags.append(await scene.metric("tickwise_consumer_lag_ticks"))
                rss_mb.append(scene.rss_mb())
                problems.add(await scene.problems("a"))
                return lags[-1] < rate

            await _promote(scene, 2)
            ends_s = time.monotonic() + (20.0 if bench.is_short else 120.0)
            settled_s = time.monotonic() + (ends_s - time.monotonic()) / 3
            while time.monotonic() < ends_s:
                if settled_s and time.monotonic() > settled_s:
                    settled_s = 0.0
                    scene.forget_peak()
                await is_drained()
                await asyncio.sleep(0.5)
            slow_mb, peak_mb = rss_mb[1:], scene.peak_mb()
            if lags[-1] < 3 * rate:
                raise FellShortError(f"a slow model left only {lags[-1]:.0f} ticks waiting at {rate:.0f} a second")
            await _promote(scene, 1)
            drained_s = await until(is_drained, DRAINED_S, lambda: f"{lags[-1]:.0f} ticks wait still", pause_s=0.5)
        await scene.caught_up()
        skipped = await scene.metric("tickwise_shed_ticks_total")
        await scene.terminate("a")
        counts = await scene.judged(repeats=False)
        if problems != {""}:
            raise FellShortError(f"a worker that is slow and well said {problems}")
        if skipped or counts["shed"]:
            raise FellShortError(f"{skipped:.0f} ticks were skipped, though all are to be kept")
        # The slow model is larger, 46 MB of weights several times: what counts is that it takes no more as it goes on.
        third = len(slow_mb) // 3
        early_mb, late_mb = (statistics.median(each) for each in (slow_mb[third : 2 * third], slow_mb[2 * third :]))
        scene.must_be_bounded(early_mb, late_mb, most=1.1)
        scene.must_be_bounded(early_mb, peak_mb, most=1.25)
    return {
        **counts,
        "rate": rate,
        "slower": slow_us / fast_us,
        "largest_lag": max(lags),
        "drained_s": drained_s,
        "before_mb": before_mb,
        "peak_mb": peak_mb,
        "rss_mb": [early_mb, late_mb],
    }


def _score_us(model: FittedModel) -> float:
    """Return how long a row takes to be scored."""
    scorer = model.scorer()
    x_BTF = np.zeros((512, model.contract.window, len(model.contract.features)), np.float32)
    return min(timeit.repeat(lambda: scorer.scores(x_BTF), number=1, repeat=5)) / len(x_BTF) * 1e6


async def _promote(scene: Scene, version: int) -> None:
    swaps = await scene.metric("tickwise_model_swaps_total")
    scene.store.set_champion(scene.spec.name, version, reason="the bench swaps")

    async def is_swapped() -> bool:
        return await scene.metric("tickwise_model_swaps_total") >= swaps + scene.lab.partitions

    await until(is_swapped, SWAPPED_S, lambda: f"version {version} was not swapped in: {scene.lab.log()[-1000:]}")
