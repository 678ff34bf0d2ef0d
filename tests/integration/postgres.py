"""A real PostgreSQL in a folder of its own, reached by a socket there: no port, no trace afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

START_TIMEOUT_S = 60


@contextmanager
def postgres() -> Iterator[str]:
    """Yield the SQLAlchemy URL of an empty database; skips the test where there is no PostgreSQL to run."""
    programs = _programs()
    user = _user()
    # Sockets have short path limits, and another user has to get through the parents: pytest's folders do for neither.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    data = folder / "data"
    try:
        if user:
            shutil.chown(folder, user)
        _run(user, folder, programs / "initdb", "-D", data, "-U", "tickwise", "-A", "trust", "-N")
        options = f"-c listen_addresses='' -k {folder} -c fsync=off"
        start = ("-D", data, "-o", options, "-w", "-t", START_TIMEOUT_S, "-l", folder / "log", "start")
        _run(user, folder, programs / "pg_ctl", *start)
        try:
            yield f"postgresql://tickwise@/postgres?host={folder}"
        finally:
            _run(user, folder, programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    places = [Path(found).parent for found in [shutil.which("initdb")] if found]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if (place / "initdb").exists() and (place / "pg_ctl").exists():
            return place
    pytest.skip("no PostgreSQL here: neither initdb on the PATH nor /usr/lib/postgresql/*/bin")


def _user() -> str | None:
    """PostgreSQL refuses to run as root; who else can?"""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    pytest.skip("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


def _run(user: str | None, folder: Path, *words: object) -> None:
    command = [str(word) for word in words]
    done = subprocess.run(
        command, user=user, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=START_TIMEOUT_S + 10, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}:\n{done.stdout.decode(errors='replace')}"
