"""Environments of the contenders that need other packages than tickwise: made in `.bench` on first use."""

import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent / "contenders"
CACHE = Path(__file__).parents[2] / ".bench"
INSTALL_S, BUILD_S = 600, 600


class MissingContenderError(Exception):
    """A contender cannot be run here; the benchmark goes on without it and says so."""


def python(name: str) -> Path:
    """Return the interpreter of the environment with the packages of ``contenders/<name>.txt``.

    Raises:
        MissingContenderError: The contender is not in this checkout, or its packages cannot be installed.
    """
    requirements = HERE / f"{name}.txt"
    if not requirements.is_file() or not (HERE / f"{name}.py").is_file():
        raise MissingContenderError(f"{name} is not in this checkout")
    folder = CACHE / f"{name}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    interpreter = folder / "bin" / "python"
    if not (folder / ".ready").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        sys.stderr.write(f"installing {name} into {folder} (once)\n")
        venv.create(folder, with_pip=True)
        pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--require-hashes"]
        _run([*pip, "-r", str(requirements)], f"the packages of {name}", INSTALL_S)
        (folder / ".ready").touch()
    return interpreter


def jar_command() -> Sequence[str]:
    """Return how the Kafka Streams contender is started, its jar built by Maven where that has not been done.

    Raises:
        MissingContenderError: The contender is not in this checkout, or Java or Maven is missing.
    """
    source = HERE / "kafka_streams"
    if not (source / "pom.xml").is_file():
        raise MissingContenderError("kafka_streams is not in this checkout")
    java, maven = shutil.which("java"), shutil.which("mvn")
    if java is None or maven is None:
        raise MissingContenderError("kafka_streams needs Java 17 and Maven")
    files = sorted(path for path in source.rglob("*") if path.is_file() and "target" not in path.parts)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    folder = CACHE / f"kafka_streams-{digest}"
    if not (folder / ".ready").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("target"))
        sys.stderr.write(f"building kafka_streams in {folder} (once)\n")
        _run([maven, "-q", "-B", "-f", str(folder / "pom.xml"), "package"], "the jar of kafka_streams", BUILD_S)
        (folder / ".ready").touch()
    jars = [path for path in (folder / "target").glob("*.jar") if not path.name.startswith("original-")]
    if len(jars) != 1:
        raise MissingContenderError(f"building kafka_streams left {len(jars)} jars in {folder / 'target'}, not one")
    return [java, "-jar", str(jars[0])]


def _run(command: Sequence[str], what: str, timeout_s: float) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise MissingContenderError(f"{what} did not come within {timeout_s:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise MissingContenderError(f"{what} cannot be had: {(error.stderr or error.stdout).strip()[-500:]}") from error
