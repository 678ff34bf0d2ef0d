"""Pins what streams/kernels.py leans on in numba: kernels are cached code without a compiler, which stays whole."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.caching import _CacheLocator

# Modules that numba imports to compile, and for nothing else.
COMPILER = {"numba.np.npyimpl", "numba.np.arraymath", "numba.np.linalg", "scipy.linalg"}

SAY = """
import sys
import numba
import numpy as np
from streams import kernels
kernels.load()
print(sorted({compiler} & set(sys.modules)))
"""
# What a worker meets later: a kernel of ours for other types, a cached kernel of somebody else, one without a cache.
GO_ON = """
from ml_core.data_processor.windows import link
link(np.empty(0, np.int64), np.empty(0, np.uint16), 2)
from theirs import total
print(total(np.arange(4.0)), numba.njit(lambda x: np.sort(x)[0])(np.arange(3.0)[::-1]))
"""
# What it meets from the first tick on, plain and compressed, of topics of ours and of the user's own.
MEET = """
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from data_io.topics.raw_records import RawFetch
from data_io.topics.ticks import TickDecoder
from ml_core.spec import FieldMap
from ml_core.types import SymbolTable

def fetch(codec):
    batch = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 20)
    for offset in range(2):
        batch.append(offset, 0, None, b'{"type":"trade","symbol":"A","ts":1,"price":1.5,"size":1}', [("a", b"b")])
    return RawFetch(bytes(batch.build()), 0, [])

own = FieldMap(ts="$.ts:ns", symbol="$.symbol", price="$.price", size="$.size")
print(*(len(TickDecoder(m).decode_fetch(fetch(codec), SymbolTable([])).ticks) for m in (None, own) for codec in (0, 1)))
"""
THEIRS = """
import numba
import numpy as np
@numba.njit(cache=True)
def total(x):
    names = {"a": x.sum()}
    return names["a"] + np.linalg.norm(x) * 0
"""


def run(folder: Path, code: str, cache: str | None = "cache") -> subprocess.CompletedProcess[str]:
    """Run ``code`` with a cache of its own in ``folder``, or with that of this installation."""
    environment = {**os.environ, "PYTHONPATH": f"{Path.cwd()}:{folder}"}
    if cache:
        environment["NUMBA_CACHE_DIR"] = str(folder / cache)
    text = code.replace("{compiler}", repr(COMPILER))
    return subprocess.run(
        [sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=170, check=False
    )


def copy_but_for(module: str, cache: Path) -> None:
    """Copy what this installation has compiled into ``cache``, but for ``module``: to compile it all takes a minute."""
    for file in (file for package in ("ml_core", "data_io") for file in Path(package).rglob("__pycache__/*.nb[ci]")):
        if not file.name.startswith(f"{module}."):
            folder = cache / _CacheLocator.get_suitable_cache_subpath(str(file.parents[1] / "any.py"))
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, folder)


@pytest.mark.timeout(360)
@pytest.mark.usefixtures("compiled_kernels")
def test_a_worker_never_holds_the_compiler_and_may_still_compile_what_it_meets(tmp_path) -> None:
    (tmp_path / "theirs.py").write_text(THEIRS, encoding="utf-8")
    copy_but_for("scaling_kernel", tmp_path / "cache")
    cold = run(tmp_path, SAY)
    *logged, imported = cold.stdout.splitlines()
    assert (len(logged), imported, cold.stderr, cold.returncode) == (1, "[]", "", 0)
    made = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.nbc")}

    warm = run(tmp_path, SAY)

    assert (warm.stdout, warm.stderr, warm.returncode) == ("[]\n", "", 0)
    assert any(name.startswith("scaling_kernel.") for name in made)
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.nbc")} == made
    for _ in ("compiled", "cached"):
        met = run(tmp_path, SAY + GO_ON)
        assert (met.stdout, met.stderr, met.returncode) == ("[]\n6.0 0.0\n", "", 0)


@pytest.mark.usefixtures("compiled_kernels")
def test_no_tick_waits_for_a_kernel(tmp_path) -> None:
    found = run(tmp_path, SAY + MEET, cache=None)
    assert (found.stdout, found.stderr, found.returncode) == ("[]\n2 2 2 2\n", "", 0)


def test_a_worker_that_is_ready_holds_nothing_of_what_only_others_need() -> None:
    code = "import sys\nfrom streams import kernels, worker\nkernels.load()\n"
    code += 'print(sorted({"pandas", "mlflow", "torch", "fastapi"} & set(sys.modules)))'
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=170, check=False)
    assert (found.stdout.splitlines()[-1:], found.returncode) == (["[]"], 0), found.stderr
