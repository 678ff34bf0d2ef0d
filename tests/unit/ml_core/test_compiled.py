"""What numba keeps of a kernel is thrown away with any file that the kernel was made of."""

import os
import subprocess
import sys
from pathlib import Path

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


def run(folder: Path) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", SAY], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_kernel_is_compiled_anew_when_a_file_that_went_into_it_changes_and_only_then(tmp_path) -> None:
    for name, text in {**FILES, "ml_core/compiled.py": Path(compiled.__file__).read_text()}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert run(tmp_path) == "2 0"
    kept = {file.name for file in (tmp_path / "cache").rglob("*.nb?")}

    (tmp_path / "ml_core/four.py").write_text("STEP = 7\n")
    assert run(tmp_path) == "2 1"
    (tmp_path / "ml_core/three.py").write_text("STEP = 8\n")

    assert run(tmp_path) == "9 0"
    assert {file.name for file in (tmp_path / "cache").rglob("*.nb?")} == kept
