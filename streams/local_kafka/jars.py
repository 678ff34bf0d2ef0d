"""Apache Kafka from its own jars: found in a cache folder, fetched once by Maven."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from ml_core.errors import SetupError

VERSION = "4.3.1"
OLDEST_JAVA = 17  # Kafka 4 brokers are built for it
DOWNLOAD_S = 600  # 44 MB; about 5 s on a fast line
_NO_TRACE = "-XX:-UsePerfData"  # a JVM leaves a folder of its user in the temporary folder otherwise

WAYS = (
    f"install a JDK {OLDEST_JAVA} or later together with Maven, or start Docker, "
    "or give the address of a running Kafka in TICKWISE_KAFKA"
)


class Kit(NamedTuple):
    """What runs a broker: the ``java`` program and the folder that holds the jars."""

    java: Path
    jars: Path


def find() -> Kit:
    """Return the kit, fetching the jars on first use.

    Raises:
        SetupError: Java, or Maven with an empty cache, is missing; or Maven failed.
    """
    return Kit(_java(), _jars())


def cache_folder() -> Path:
    """Return where the jars of this version are kept; it exists only when they are complete."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tickwise" / f"kafka-{VERSION}"


def _java() -> Path:
    home = os.environ.get("JAVA_HOME")
    path = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    path = path or shutil.which("java")
    if path is None:
        raise SetupError(f"no Kafka to talk to, with neither Java nor a Docker engine that answers: {WAYS}")
    # Java 8 calls itself 1.8; later ones 9, 11.0.2, 17.0.15, 24-ea
    answer = subprocess.run([path, _NO_TRACE, "-version"], capture_output=True, text=True, timeout=30, check=False)
    found = re.search(r'version "(\d+)', answer.stderr)
    if found is None or int(found[1]) < OLDEST_JAVA:
        raise SetupError(f"{path} is no Java {OLDEST_JAVA} ({answer.stderr.strip()[:80]!r}): {WAYS}")
    return Path(path)


def _jars() -> Path:
    target = cache_folder()
    if target.is_dir():
        return target
    maven = shutil.which("mvn")
    if maven is None:
        raise SetupError(f"no Kafka to talk to, with neither Maven nor a Docker engine that answers: {WAYS}")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Fetched beside the target and renamed: whoever comes second finds a complete folder and drops its own.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".kafka-", ignore_cleanup_errors=True) as scratch:
        fetched = Path(scratch) / "jars"
        _fetch(maven, fetched)
        try:
            fetched.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target


def _fetch(maven: str, folder: Path) -> None:
    pom = Path(__file__).with_name("pom.xml")
    environment = os.environ | {"MAVEN_OPTS": f"{os.environ.get('MAVEN_OPTS', '')} {_NO_TRACE}".strip()}
    command = [
        maven, "--batch-mode", "--quiet", "--strict-checksums", "--file", str(pom), f"-Dkafka.version={VERSION}",
        "dependency:copy-dependencies", f"-DoutputDirectory={folder}", "-DincludeScope=runtime",
    ]  # fmt: skip
    try:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=DOWNLOAD_S, check=True, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"Maven did not fetch Kafka {VERSION} within {DOWNLOAD_S} s; or: {WAYS}") from error
    except subprocess.CalledProcessError as error:
        tail = "\n".join(error.stdout.strip().splitlines()[:10])[:2000]
        raise SetupError(f"Maven could not fetch Kafka {VERSION}: {tail}\nOr: {WAYS}") from error
