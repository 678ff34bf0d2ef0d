"""`numba.njit` for kernels of several files: what is cached holds until one of the files that went into it changes.

Numba stamps what it keeps with the file of the function alone, but compiles into it what that calls in other files, and
their constants. Here the stamp is of all files of ours that the function's module imports, directly or not. It stands
in the names of the files of machine code too: numba writes its index before them, so that one who dies in between, or
shares the folder with another version, would have old code run. What has another stamp is deleted before one is kept.

Leans on ``Dispatcher._cache``, ``Cache._cache_file`` and private parts of numba's ``IndexDataCacheFile``.
"""
# ruff: noqa: SLF001 - pinned by a test

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
        if options.get("cache") and dispatcher is not function:  # as it is where compiling is switched off
            _follow(dispatcher._cache._cache_file, _stamp(function.__module__))
        return dispatcher

    return compiled


def _follow(files: Any, stamp: bytes) -> None:
    """Have the cache ``files`` of a function hold only what was compiled under ``stamp``."""
    files._source_stamp = files._source_stamp, stamp
    digest, save = sha256(repr(files._source_stamp).encode()).hexdigest()[:16], files.save
    function, _, line_and_python = files._index_name.removesuffix(".nbi").rpartition("-")
    python = line_and_python.partition(".")[2]
    files._data_name_pattern = files._data_name_pattern.replace(".{number", f".{digest}.{{number")

    def save_alone(key: Any, data: Any) -> None:
        for path in Path(files._cache_path).glob(f"{function}-*.{python}*.nb[ci]"):
            if path.name != files._index_name and f".{digest}." not in path.name:
                path.unlink(missing_ok=True)
        save(key, data)

    files.save = save_alone


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
