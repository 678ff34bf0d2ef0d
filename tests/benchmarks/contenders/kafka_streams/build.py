"""Builds the contender with Maven, once for each state of its sources, and says how it is started."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
BUILD_S = 600  # 150 MB of libraries on first use
# One core: the serial collector, and no background thread of the JVM that it would have to share.
JVM = (
    "-XX:+UseSerialGC", "-Xms1g", "-Xmx1g", "-Xmn640m", "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)  # fmt: skip


def missing() -> str | None:
    """Return what the contender needs and is not there; None where it can run."""
    absent = [program for program in ("java", "mvn") if shutil.which(program) is None]
    return f"{' and '.join(absent)} not found" if absent else None


def build(base: Path) -> Path:
    """Return the folder below ``base`` that holds ``contender.jar`` and ``lib``; made where it is not there yet.

    Raises:
        subprocess.CalledProcessError: Maven failed; ``output`` says why.
    """
    sources = sorted([HERE / "pom.xml", *HERE.glob("src/**/*.java")])
    version = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    target = base.resolve() / f"kafka_streams-{version}"
    if target.is_dir():
        return target
    base.mkdir(parents=True, exist_ok=True)
    # Built beside the target and renamed: whoever comes second finds a complete folder and drops its own.
    with tempfile.TemporaryDirectory(dir=base, prefix=".kafka_streams-", ignore_cleanup_errors=True) as scratch:
        made = Path(scratch).resolve() / "build"
        subprocess.run(
            ["mvn", "-q", "-B", "-C", "package", "--file", str(HERE / "pom.xml"), f"-DbuildDirectory={made}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=BUILD_S, check=True, env=os.environ | {"MAVEN_OPTS": "-XX:-UsePerfData"},
        )  # fmt: skip
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target


def command(built: Path, main: str = "Main") -> list[str]:
    """Return the words that start the contender, but for its arguments."""
    return ["java", *JVM, "-cp", str(built / "contender.jar"), f"tickwise.bench.{main}"]
