"""Makes the kernels of a worker ready without a compiler in its memory.

Before numba reads a kernel from its cache it readies its compiler: type inference, LLVM's passes, scipy's linear
algebra; 50 MB and 0.6 s for nothing, because what is cached is machine code. Kernels that are not cached yet are
compiled by a process of their own, because what LLVM has taken (140 MB) it never gives back.

Leans on ``numba.core.caching.Cache`` (``load_overload``, ``_load_overload``, ``_guard_against_spurious_io_errors``,
``_py_func``) and on ``numba.core.runtime._nrt_python.c_helpers``; the conformance tests pin them.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import structlog
from llvmlite import binding  # type: ignore[import-untyped]  # ships no types
from numba.core.caching import Cache
from numba.core.runtime import _nrt_python

from data_io.topics import prediction_arrow, predictions, rows, ticks
from ml_core.data_processor import bars, features, scaling_kernel

log = structlog.get_logger()

LATE = "a kernel was not made ready at the start"  # ticks waited for it, and heartbeats with them
COMPILE_S = 300.0  # some twenty seconds on an idle core
# What others have compiled may need more of numba than what these packages compile.
_PACKAGES = ("ml_core", "data_io")

_load_as_numba_does = Cache.load_overload
_may_compile = True
_is_ready = False


class _NotCachedError(Exception):
    """A kernel has to be compiled."""


def load() -> None:
    """Make every kernel ready before the first batch, so that no tick waits for a compiler."""
    global _is_ready  # noqa: PLW0603 - as below
    install()
    try:
        with _cache_only():
            warm_up()
    except _NotCachedError:
        log.info("the kernels are compiled: once for an installation", action="start")
        _fill_cache()
        warm_up()
    _is_ready = True


def warm_up() -> None:
    """Read the kernels from numba's cache, or compile them."""
    features.warm_up()
    bars.warm_up()
    scaling_kernel.warm_up()
    ticks.warm_up()
    rows.warm_up()
    predictions.warm_up()
    prediction_arrow.warm_up()


def install() -> None:
    """Let numba read our kernels from its cache without its compiler; one that is not there is compiled as ever."""
    # Of all that the compiler would make known to the linker, the one thing that machine code may ask for.
    for name, address in _nrt_python.c_helpers.items():
        binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)
    Cache.load_overload = _load


def _load(cache: Any, signature: Any, target: Any) -> Any:
    if cache._py_func.__module__.partition(".")[0] not in _PACKAGES:  # noqa: SLF001 - pinned by a test
        return _load_as_numba_does(cache, signature, target)
    if _is_ready:
        log.warning(LATE, action="work", kernel=cache._py_func.__qualname__)  # noqa: SLF001 - pinned by a test
    with cache._guard_against_spurious_io_errors():  # noqa: SLF001 - pinned by a test
        found = cache._load_overload(signature, target)  # noqa: SLF001 - pinned by a test
        if found is not None:
            return found
    if not _may_compile:
        raise _NotCachedError
    return _load_as_numba_does(cache, signature, target)  # which readies the compiler


@contextmanager
def _cache_only() -> Iterator[None]:
    global _may_compile  # noqa: PLW0603 - numba has one cache a process too
    _may_compile = False
    try:
        yield
    finally:
        _may_compile = True


def _fill_cache() -> None:
    """Compile apart; where that fails, this process compiles, and shows what is wrong."""
    try:
        with subprocess.Popen([sys.executable, "-m", "streams.kernels"], stdin=subprocess.PIPE) as compiler:
            code = compiler.wait(COMPILE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("the kernels were not compiled apart", action="start", error=str(error))
    else:
        if code:
            log.warning("the kernels were not compiled apart", action="start", error=f"exit status {code}")


def _end_with_stdin() -> None:
    """End when the worker closes stdin, or ends, however it does."""
    os.read(0, 1)  # not sys.stdin: its lock would be held while the interpreter ends
    os._exit(1)


if __name__ == "__main__":
    Thread(target=_end_with_stdin, daemon=True).start()
    warm_up()
