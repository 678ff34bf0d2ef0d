"""What numba keeps of a kernel is thrown away with any file that the kernel was made of."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ml_core import compiled

# one calls two, which has a constant of three; four is imported by nobody
FILES = {
    "ml_core/__init__.py": "",
    "data_io/__init__.py": "",
    "data_io/one.py": """
from ml_core.compiled import njit
from ml_core.two import (
    unused,
    plus,
)

@njit(cache=True)
def total(x):
    return plus(x)
""",
    "ml_core/two.py": """
from ml_core import three
from ml_core.compiled import njit

unused = 0

@njit(cache=True)
def plus(x):
    return x + three.STEP
""",
    "ml_core/three.py": "STEP = 1\n",
    "ml_core/four.py": "STEP = 1\n",
}
SAY = "from data_io.one import total as t; print(t(1), sum(t.stats.cache_hits.values()))"
DIE = "from numba.core.caching import IndexDataCacheFile as F; import os; F._save_data = lambda *_: os._exit(9); "


def run(folder: Path, say: str = SAY, **more: str) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(folder), **more}
    done = subprocess.run(
        [sys.executable, "-c", say], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or str(done.returncode)


def kept(folder: Path) -> list[str]:
    return [file.name for file in (folder / "cache").rglob("*.nb?")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {**FILES, "ml_core/compiled.py": Path(compiled.__file__).read_text()}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_kernel_is_compiled_anew_when_a_file_that_went_into_it_changes_and_only_then(folder) -> None:
    assert run(folder) == "2 0"
    before = len(kept(folder))

    (folder / "ml_core/four.py").write_text("STEP = 7\n")
    assert run(folder) == "2 1"

    (folder / "ml_core/three.py").write_text("STEP = 8\n")
    assert run(folder, DIE + SAY) == "9"  # the exit code: an index was kept and no code
    assert run(folder) == "9 0"

    (folder / "data_io/one.py").write_text("\n" + FILES["data_io/one.py"])  # the line is part of names of files
    assert run(folder) == "9 0"
    assert len(kept(folder)) == before == 4


def test_where_compiling_is_switched_off_a_kernel_is_a_function(folder) -> None:
    assert run(folder, "from data_io.one import total; print(total(1))", NUMBA_DISABLE_JIT="1") == "2"
