"""All measurements of one benchmark, in turn; a contender that fails or is not there leaves a note, not a gap."""

import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tests.benchmarks import arrow, open_loop
from tests.benchmarks.arena import Arena, Ticks
from tests.benchmarks.contenders.registry import variants
from tests.benchmarks.drain import Drain, drain, watched
from tests.benchmarks.environments import MissingContenderError
from tests.benchmarks.memory import memory
from tests.benchmarks.processes import CONTENDER_CORE, ROOT
from tests.benchmarks.profile import profile

PASS_TICKS = 1_000_000
OURS = "tickwise"
LATENCY_RATE = 50_000
USUAL_RATE = 500_000  # of tickwise, where it was not measured just before
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)  # of the drained rate; the first that is sustained ends the search
GROWTH_SYMBOLS, GROWTH_RUNS = (1, 100, 10_000), 3
MEMORY_SYMBOLS = 10_000
HTTP_S, COMMAND_S = 900, 300
ORDER_SEED = 3


class Plan(NamedTuple):
    """How much is measured."""

    runs: int
    passes: int  # of a million ticks in the topic that is drained
    seconds: float  # that a drain may last at most
    loop_s: float  # that an open loop lasts
    contenders: Sequence[str]
    forms: Sequence[str]  # besides the idiomatic form of stock Faust, which is always there
    memory_ticks: int  # that memory is looked at after; 0: only throughput, latency at one rate, and HTTP


class Suite:
    """Measures and keeps what was found: a list of runs a label, and why a label or the rest of its runs is missing."""

    def __init__(self, arena: Arena, plan: Plan) -> None:
        """Measure in ``arena``."""
        self.arena, self.plan = arena, plan
        self.found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.notes: dict[str, str] = {}
        self.failed = False

    @property
    def labels(self) -> list[tuple[str, str, str]]:
        """Label, contender and form of all that are measured."""
        plan = self.plan
        return [
            (f"{name} {form}".strip(), name, form)
            for name, form in variants(plan.contenders)
            if not form or form in plan.forms or (name, form) == ("stock_faust", "idiomatic")
        ]

    async def all(self) -> None:
        """Measure everything the plan asks for."""
        await self.throughput()
        await self.latencies()
        if self.plan.memory_ticks:
            await self.loads()
            await self.arrow()
            await self.growth()
            await self.checkpoint()
            await self.long_run()
            await self.profile()
        await self.http()

    async def throughput(self) -> None:
        """Drain one topic with every contender, ``runs`` times in turn.

        Before that, one drain that does not count: a JVM that has just started would make the first of them slow.
        """
        given = await self.arena.filled(self.arena.work(PASS_TICKS), self.plan.passes)
        try:
            async with self.arena.run(OURS, "", given) as run:
                await watched(self.arena, run, given.count, self.plan.seconds)
        except Exception as error:  # noqa: BLE001 - as in ``_note``
            self._fail("throughput, the run before all others", error)
        for turn in turns(self.labels, self.plan.runs):
            for label, name, form in turn:
                await self._note("throughput", label, self._drain, name, form, given)
        await self.arena.delete(given.topic)

    async def arrow(self) -> None:
        """Drain ticks that come as Arrow batches, with predictions as JSON and as Arrow."""
        given = await arrow.filled(self.arena, self.arena.work(PASS_TICKS), self.plan.passes)
        for turn in turns(("json", "arrow"), self.plan.runs):
            for form in turn:
                await self._note("arrow", f"{OURS} with {form} out", arrow.drain, self.arena, given, form)
        await self.arena.delete(given.topic)

    async def latencies(self) -> None:
        """Open-loop latency of tickwise at 50,000 ticks/s, with both deliveries; of the others at half their rate."""
        for turn in turns((False, True), self.plan.runs):
            for exactly_once in turn:
                label = f"{OURS} exactly_once" if exactly_once else OURS
                await self._latency(label, OURS, "", LATENCY_RATE, exactly_once=exactly_once)
        if self.plan.memory_ticks:
            for label, name, form in self.labels:
                if name != OURS and (rate := self.rate(label)):
                    await self._latency(label, name, form, min(LATENCY_RATE, rate / 2))

    async def _latency(self, label: str, name: str, form: str, rate: float, *, exactly_once: bool = False) -> None:
        loop = partial(open_loop.latency, seconds=self.plan.loop_s, exactly_once=exactly_once)
        await self._note("latency", label, loop, self.arena, name, form, self.arena.work(PASS_TICKS), rate=rate)

    async def loads(self) -> None:
        """Offer tickwise, and every other in its best form, less and less of what it drained, until it keeps up."""
        work = self.arena.work(PASS_TICKS)
        for label, name, form in self.labels:
            rate = self.rate(label)
            if form == "idiomatic" or not rate:
                continue
            for share in SHARES:
                loop = partial(open_loop.load, rate=rate * share, seconds=self.plan.loop_s)
                about = f"{label} at {share:.0%}"
                if await self._note("load", about, loop, self.arena, name, form, work) and self.is_sustained(about):
                    break

    def is_sustained(self, label: str) -> bool:
        """Tell whether the load of this label was kept up with."""
        return all(open_loop.Load(**run).is_sustained for run in self.found["load"][label])

    async def growth(self) -> None:
        """The whole path with few and many symbols; the kernel alone with these and with longer features."""
        for symbols in GROWTH_SYMBOLS:
            given = await self.arena.filled(self.arena.work(PASS_TICKS, symbols), self.plan.passes)
            for _ in range(min(self.plan.runs, GROWTH_RUNS)):
                await self._note("growth", str(symbols), self._drain, OURS, "", given)
            await self.arena.delete(given.topic)
        for _ in range(self.plan.runs):
            await self._command("kernel", [*_ON_CONTENDER_CORE, *_module("kernel")], COMMAND_S)

    async def checkpoint(self) -> None:
        """CPU time of checkpoints of 10,000 live symbols."""
        command = [*_ON_CONTENDER_CORE, *_module("checkpoint"), self.arena.bootstrap]
        await self._command("checkpoint", command, COMMAND_S)

    async def long_run(self) -> None:
        """Memory with 10,000 symbols after a hundred million ticks, at a rate that the worker keeps up with."""
        rate = 0.6 * (self.rate(OURS) or USUAL_RATE)
        look = partial(memory, symbols=MEMORY_SYMBOLS, ticks=self.plan.memory_ticks)
        await self._note("memory", OURS, look, self.arena, rate=rate)

    async def profile(self) -> None:
        """Where the worker's time goes."""
        given = await self.arena.filled(self.arena.work(PASS_TICKS), self.plan.passes)
        try:
            self.found["profile"] = {OURS: await profile(self.arena, given, longest_s=self.plan.seconds)}
        except Exception as error:  # noqa: BLE001 - as in ``_note``
            self._fail("profile", error)
        await self.arena.delete(given.topic)

    async def http(self) -> None:
        """What `tests.benchmarks.http` says."""
        await self._command("http", [*_module("http"), "--runs", str(self.plan.runs)], HTTP_S)

    def rate(self, label: str) -> float | None:
        """Return the median rate at which ``label`` drained the topic; None where it did not."""
        runs = self.found.get("throughput", {}).get(label)
        return statistics.median(run["ticks_per_s"] for run in runs) if runs else None

    async def _drain(self, name: str, form: str, given: Ticks) -> Drain:
        return await drain(self.arena, name, form, given, longest_s=self.plan.seconds)

    async def _note(
        self, what: str, label: str, measure: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any
    ) -> bool:
        """Measure once, keep it and return whether there was something; a label that has failed is not tried again."""
        about = f"{what} {label}"
        if about in self.notes:
            return False
        try:
            found = await measure(*arguments, **options)
        except MissingContenderError as error:
            self.notes[about] = str(error)
            say(f"{about}: left out: {error}")
            return False
        except Exception as error:  # noqa: BLE001 - whatever a contender did, the others are measured, and the exit code tells
            self._fail(about, error, run=1 + len(self.found.get(what, {}).get(label, ())))
            return False
        figures: dict[str, Any] = found._asdict()
        self.found.setdefault(what, {}).setdefault(label, []).append(figures)
        say(f"{about}: " + ", ".join(f"{name} {value:,.4g}" for name, value in figures.items()))
        return True

    async def _command(self, what: str, command: Sequence[str], timeout_s: float) -> None:
        """Run a program whose last line is JSON, and keep it."""

        def run() -> Any:
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=timeout_s, check=True)
            return json.loads(done.stdout.splitlines()[-1])

        try:
            found = await asyncio.to_thread(run)
        except (subprocess.SubprocessError, ValueError, IndexError) as error:
            self._fail(what, error)
            return
        self.found.setdefault(what, {}).setdefault("", []).append(found)

    def _fail(self, about: str, error: Exception, run: int = 1) -> None:
        self.notes[about] = f"run {run} failed: {error}"
        self.failed = True
        say(f"{about}: run {run} failed: {error}")


_ON_CONTENDER_CORE = ("taskset", "-c", str(CONTENDER_CORE))


def turns(parts: Sequence[Any], count: int) -> Iterator[list[Any]]:
    """Return ``parts`` ``count`` times, each time in another order, the same ones in every benchmark."""
    rng = np.random.default_rng(ORDER_SEED)
    for _ in range(count):
        yield [parts[place] for place in rng.permutation(len(parts))]


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"tests.benchmarks.{name}"]


def say(text: str) -> None:
    """Tell how it goes; standard output is for the result."""
    sys.stderr.write(text + "\n")
