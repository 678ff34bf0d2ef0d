"""Environments of the contenders that need other packages than tickwise: made in `.bench` on first use."""

import hashlib
import importlib
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent / "contenders"
CACHE = Path(__file__).parents[2] / ".bench"
INSTALL_S = 600


class MissingContenderError(Exception):
    """A contender cannot be run here; the benchmark goes on without it and says so."""


def python(name: str, *, with_ours: bool = False) -> Path:
    """Return the interpreter of the environment with the packages of ``contenders/<name>.txt``.

    With ``with_ours`` it finds those of this interpreter too.

    Raises:
        MissingContenderError: The contender is not in this checkout, or its packages cannot be installed.
    """
    requirements = HERE / f"{name}.txt"
    if not requirements.is_file():
        raise MissingContenderError(f"{name} is not in this checkout")
    ours = sysconfig.get_path("purelib") if with_ours else ""
    folder = CACHE / f"{name}-{hashlib.sha256(requirements.read_bytes() + ours.encode()).hexdigest()[:12]}"
    interpreter = folder / "bin" / "python"
    if not (folder / ".ready").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        sys.stderr.write(f"installing {name} into {folder} (once)\n")
        venv.create(folder, with_pip=True)
        pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--require-hashes"]
        _run([*pip, "-r", str(requirements)], f"the packages of {name}", INSTALL_S)
        if with_ours:
            packages = next(folder.glob("lib/python*/site-packages"))
            (packages / "ours.pth").write_text(f"{ours}\n", encoding="utf-8")
        (folder / ".ready").touch()
    return interpreter


def java_command(name: str) -> Sequence[str]:
    """Return how a contender in Java is started, built by its own ``build.py`` where that has not been done.

    Raises:
        MissingContenderError: The contender is not in this checkout, or what it is built with is missing.
    """
    if not (HERE / name / "build.py").is_file():
        raise MissingContenderError(f"{name} is not in this checkout")
    build = importlib.import_module(f"tests.benchmarks.contenders.{name}.build")
    if (missing := build.missing()) is not None:
        raise MissingContenderError(missing)
    try:
        words: Sequence[str] = build.command(build.build(CACHE))
    except subprocess.CalledProcessError as error:
        raise MissingContenderError(f"{name} cannot be built: {str(error.output).strip()[-500:]}") from error
    return words


def _run(command: Sequence[str], what: str, timeout_s: float) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise MissingContenderError(f"{what} did not come within {timeout_s:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise MissingContenderError(f"{what} cannot be had: {(error.stderr or error.stdout).strip()[-500:]}") from error
