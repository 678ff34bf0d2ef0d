"""Where the worker's time goes while it drains a topic, by Python's own profiler.

The path runs a few functions a batch, so the profiler costs it little.
"""

import asyncio
import pstats
from pathlib import Path
from typing import Any

from tests.benchmarks.arena import Arena, Ticks
from tests.benchmarks.drain import watched

LISTED = 14
# Waiting (Faust's fetcher is charged for what it waits), and what happens once, at the start.
_LEFT_OUT = (
    "poll' of 'select.epoll'", "faust/transport/consumer.py", "importlib", "marshal", "_imp.", "io.open_code",
    "numba", "llvmlite", "posix.stat", "builtins.compile", "__build_class__", "BufferedReader", "gc.collect",
)  # fmt: skip


async def profile(arena: Arena, given: Ticks, *, longest_s: float) -> list[dict[str, Any]]:
    """Return the functions in which the worker spends most of its own time: name, share of all listed, calls."""
    file = arena.folder / "worker.prof"
    async with arena.run("tickwise", "", given, profile=file) as run:
        await watched(arena, run, given.count, longest_s)
        await asyncio.to_thread(run.process.stop)
    return top(file)


def top(file: Path) -> list[dict[str, Any]]:
    """Return what `profile` does, of a file that cProfile has written."""
    entries = pstats.Stats(str(file)).stats.items()  # type: ignore[attr-defined]  # not in its stubs
    found = []
    for (path, _, function), (_, calls, own_s, *_) in entries:
        name = function if path == "~" else f"{'/'.join(Path(path).parts[-2:])}:{function}"
        if not any(word in f"{path} {name}" for word in _LEFT_OUT):
            found.append((own_s, calls, name))
    whole_s = sum(own_s for own_s, *_ in found)
    return [
        {"function": name, "share": own_s / whole_s, "calls": calls}
        for own_s, calls, name in sorted(found, reverse=True)[:LISTED]
    ]
