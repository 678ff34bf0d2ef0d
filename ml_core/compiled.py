"""`numba.njit` for kernels of several files: what is cached holds until one of the files that went into it changes.

Numba stamps what it keeps with the file of the function alone, but compiles into it what that calls in other files, and
their constants. Here the stamp is of all files of ours that the function's module imports, directly or not. An index
with another stamp counts as empty and is written anew in its place, so that nothing old is run and nothing piles up.

Leans on ``Dispatcher._cache``, ``Cache._cache_file`` and ``IndexDataCacheFile._source_stamp`` of numba.
"""

import re
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba

ROOT = Path(__file__).parents[1]  # of the packages whose kernels these are
_IMPORT = re.compile(r"^from ((?:ml_core|data_io)[\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)


def njit(**options: Any) -> Callable[[Any], Any]:
    """Return the decorator ``numba.njit(**options)``, with a cache that follows every file that matters."""

    def compiled(function: Any) -> Any:
        dispatcher = numba.njit(**options)(function)
        if options.get("cache"):
            index = dispatcher._cache._cache_file  # noqa: SLF001 - pinned by a test
            index._source_stamp = index._source_stamp, _stamp(function.__module__)  # noqa: SLF001 - pinned by a test
        return dispatcher

    return compiled


@cache
def _stamp(module: str) -> bytes:
    """Return a hash of ``module`` and of all modules of ours that it imports, directly or not."""
    found: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if name in found or not path.is_file():  # a package, or a name in a module
            continue
        found[name] = path.read_bytes()
        for origin, names in _IMPORT.findall(found[name].decode()):
            waiting += [origin, *(f"{origin}.{each}" for each in re.findall(r"\w+", names))]
    digest = sha256()
    for name, source in sorted(found.items()):
        digest.update(f"{name} {len(source)} ".encode() + source)
    return digest.digest()
