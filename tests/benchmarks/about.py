"""What figures depend on: the machine and how fast it is just now, versions, the commit."""

import os
import platform
import re
import statistics
import subprocess
import timeit
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from streams.local_kafka import jars
from tests.benchmarks.environments import HERE
from tests.benchmarks.processes import CONTENDER_CORE, ROOT

PACKAGES = (
    "faust-streaming", "aiokafka", "uvloop", "numba", "numpy", "onnxruntime", "pyarrow", "msgspec", "mlflow", "fastapi",
)  # fmt: skip
_CLIENT = "confluent-kafka"
_LOOP, _LOOPS, _REPEATS = "for i in range(1000): pass", 2000, 5


def moment() -> dict[str, Any]:
    """Return the time, the load, and how long an empty loop of a thousand takes on the contender's core, us."""
    load, cores = os.getloadavg(), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CONTENDER_CORE})
    try:
        spans_s = timeit.repeat(_LOOP, number=_LOOPS, repeat=_REPEATS)
    finally:
        os.sched_setaffinity(0, cores)
    return {
        "at": f"{datetime.now(UTC):%H:%M:%S}",
        "load": [round(value, 2) for value in load],
        "empty_loop_us": round(statistics.median(spans_s) / _LOOPS * 1e6, 1),
    }


def about(command: str, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return everything, with the ``moment`` before and after the measuring."""
    return {
        "day": datetime.now(UTC).date().isoformat(),
        "command": command,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_processor()}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "before": before,
        "after": after,
        "versions": versions(),
        "commit": _commit(),
    }


def versions() -> dict[str, str]:
    """Return the version of everything that is compared, and of what it stands on."""
    found = {name: version(name) for name in PACKAGES}
    for name in ("quixstreams", "bytewax"):
        pinned = dict(re.findall(r"^([\w-]+)==([^\s;]+)", (HERE / f"{name}.txt").read_text(encoding="utf-8"), re.M))
        found[name] = pinned[name]
        if _CLIENT in pinned:
            found[f"{_CLIENT} ({name})"] = pinned[_CLIENT]
    pom = (HERE / "kafka_streams" / "pom.xml").read_text(encoding="utf-8")
    java = dict(re.findall(r"<artifactId>([\w-]+)</artifactId>\s*<version>([^<$]+)</version>", pom))
    found |= {"Kafka Streams": java["kafka-streams"], "ONNX Runtime (Java)": java["onnxruntime"]}
    return found | {"Kafka broker": jars.VERSION, "java": _java()}


def _java() -> str:
    try:
        done = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return "none"
    return (re.findall(r'version "([^"]+)"', done.stderr) or ["unknown"])[0]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "processor unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor unknown"
    )


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=10
    )
    return done.stdout.strip() or "unknown"
