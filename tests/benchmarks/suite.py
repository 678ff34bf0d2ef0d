"""All measurements of one benchmark, in turn; a contender that fails or is not there leaves a note, not a gap."""

import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from streams.settings import WorkerSettings
from tests.benchmarks import arrow, open_loop
from tests.benchmarks.arena import Arena, Ticks
from tests.benchmarks.contenders.registry import variants
from tests.benchmarks.drain import Drain, drain
from tests.benchmarks.environments import MissingContenderError
from tests.benchmarks.memory import memory
from tests.benchmarks.processes import CONTENDER_CORE, ROOT
from tests.benchmarks.profile import profile

PASS_TICKS = 1_000_000
OURS = "tickwise"
LATENCY_RATE = 50_000
USUAL_RATE = 500_000  # of tickwise, where it was not measured just before
GROWTH_SYMBOLS, GROWTH_RUNS = (1, 100, 10_000), 3
HTTP_S, KERNEL_S = 900, 300


class Plan(NamedTuple):
    """How much is measured."""

    runs: int
    passes: int  # of a million ticks in the topic that is drained
    seconds: float  # that a drain may last at most
    loop_s: float  # that an open loop lasts
    contenders: Sequence[str]
    forms: Sequence[str]  # besides the idiomatic form of stock Faust, which is always there
    memory_ticks: int  # that memory is looked at after; 0: and no growth, no sustained rates


class Suite:
    """Measures and keeps what was found: a list of runs a label, and why a label is missing."""

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
            await self.long_run()
            await self.profile()
        await self.http()

    async def throughput(self) -> None:
        """Drain one topic with every contender, ``runs`` times in turn."""
        given = await self.arena.filled(self.arena.work(PASS_TICKS), self.plan.passes)
        for _ in range(self.plan.runs):
            for label, name, form in self.labels:
                await self._note("throughput", label, self._drain, name, form, given)
        await self.arena.delete(given.topic)

    async def arrow(self) -> None:
        """Drain ticks that come as Arrow batches, with predictions as JSON and as Arrow."""
        given = await arrow.filled(self.arena, self.arena.work(PASS_TICKS), self.plan.passes)
        for _ in range(self.plan.runs):
            for form in ("json", "arrow"):
                await self._note("arrow", f"{OURS} with {form} out", arrow.drain, self.arena, given, form)
        await self.arena.delete(given.topic)

    async def latencies(self) -> None:
        """Open-loop latency of tickwise at 50,000 ticks/s, with both deliveries; of the others at half their rate."""
        for _ in range(self.plan.runs):
            await self._latency(OURS, OURS, "", LATENCY_RATE)
            if "delivery" in WorkerSettings.model_fields:
                await self._latency(f"{OURS} exactly_once", OURS, "", LATENCY_RATE, exactly_once=True)
            else:
                self.notes[f"latency {OURS} exactly_once"] = "the worker has no such delivery yet"
        if self.plan.memory_ticks:
            for label, name, form in self.labels:
                if name != OURS and (rate := self.rate(label)):
                    await self._latency(label, name, form, min(LATENCY_RATE, rate / 2))

    async def _latency(self, label: str, name: str, form: str, rate: float, *, exactly_once: bool = False) -> None:
        loop = partial(open_loop.latency, seconds=self.plan.loop_s, exactly_once=exactly_once)
        await self._note("latency", label, loop, self.arena, name, form, self.arena.work(PASS_TICKS), rate=rate)

    async def loads(self) -> None:
        """Offer tickwise, and every other in its best form, 90 % and 100 % of what it drained: does lag grow?"""
        work = self.arena.work(PASS_TICKS)
        for label, name, form in self.labels:
            if form == "idiomatic":
                continue
            for share in (0.9, 1.0):
                if rate := self.rate(label):
                    loop = partial(open_loop.load, rate=rate * share, seconds=self.plan.loop_s)
                    await self._note("load", f"{label} at {share:.0%}", loop, self.arena, name, form, work)

    async def growth(self) -> None:
        """The whole path with few and many symbols; the kernel alone with these and with longer features."""
        for symbols in GROWTH_SYMBOLS:
            given = await self.arena.filled(self.arena.work(PASS_TICKS, symbols), self.plan.passes)
            for _ in range(min(self.plan.runs, GROWTH_RUNS)):
                await self._note("growth", str(symbols), self._drain, OURS, "", given)
            await self.arena.delete(given.topic)
        await self._command("kernel", ["taskset", "-c", str(CONTENDER_CORE), *_module("kernel")], KERNEL_S)

    async def long_run(self) -> None:
        """Memory after a hundred million ticks, at a rate that the worker keeps up with."""
        rate = 0.6 * (self.rate(OURS) or USUAL_RATE)
        await self._note("memory", OURS, memory, self.arena, rate=rate, ticks=self.plan.memory_ticks)

    async def profile(self) -> None:
        """Where the worker's time goes."""
        given = await self.arena.filled(self.arena.work(PASS_TICKS), self.plan.passes)
        self.found["profile"] = {OURS: await profile(self.arena, given, longest_s=self.plan.seconds)}
        await self.arena.delete(given.topic)

    async def http(self) -> None:
        """What `tests.benchmarks.http` says, where it is there."""
        if (Path(__file__).parent / "http.py").is_file():
            await self._command("http", [*_module("http"), "--runs", str(self.plan.runs)], HTTP_S)
        else:
            self.notes["http"] = "not in this checkout"

    def rate(self, label: str) -> float | None:
        """Return the median rate at which ``label`` drained the topic; None where it did not."""
        runs = self.found.get("throughput", {}).get(label)
        return statistics.median(run["ticks_per_s"] for run in runs) if runs else None

    async def _drain(self, name: str, form: str, given: Ticks) -> Drain:
        return await drain(self.arena, name, form, given, longest_s=self.plan.seconds)

    async def _note(
        self, what: str, label: str, measure: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any
    ) -> None:
        """Measure once and keep it; a label that has failed is not tried again."""
        about = f"{what} {label}"
        if about in self.notes:
            return
        try:
            found = await measure(*arguments, **options)
        except MissingContenderError as error:
            self.notes[about] = str(error)
            say(f"{about}: left out: {error}")
            return
        except Exception as error:  # noqa: BLE001 - whatever a contender did, the others are measured, and the exit code tells
            self.notes[about] = f"failed: {error}"
            self.failed = True
            say(f"{about}: failed: {error}")
            return
        figures: dict[str, Any] = found._asdict()
        self.found.setdefault(what, {}).setdefault(label, []).append(figures)
        say(f"{about}: " + ", ".join(f"{name} {value:,.4g}" for name, value in figures.items()))

    async def _command(self, what: str, command: Sequence[str], timeout_s: float) -> None:
        """Run a program whose last line is JSON, and keep it."""

        def run() -> Any:
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=timeout_s, check=True)
            return json.loads(done.stdout.splitlines()[-1])

        try:
            found = await asyncio.to_thread(run)
        except (subprocess.SubprocessError, ValueError, IndexError) as error:
            self.notes[what] = f"failed: {error}"
            self.failed = True
            return
        self.found[what] = {"": [found]}


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"tests.benchmarks.{name}"]


def say(text: str) -> None:
    """Tell how it goes; standard output is for the result."""
    sys.stderr.write(text + "\n")
