"""Run a broker for as long as its parent lives, and leave nothing behind.

A program of its own, run as a plain file by an isolated interpreter: only the standard library is at hand. It lives in
a session of its own, so Ctrl-C in a terminal reaches the parent alone. It stops when a byte or the end comes on its
standard input, when the parent is gone (a forked child may hold the pipe open), on SIGTERM, or when the broker ends by
itself; then it kills the broker, whose data nobody will want, and removes the folder. Where it is killed itself, the
broker dies with it, and the folder, whose lock nobody holds any more, is removed by whoever starts one next.

Arguments: the parent's process id and a plan in JSON.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

EVERY_S = 0.1
TAIL = 20
LOCK = "held.lock"  # in the folder; locked by supervisor and broker for as long as one of them lives


def main(parent: int, plan: dict[str, Any]) -> int:
    """Write the files of ``plan`` into its new folder and run its commands there, the last one for good.

    Returns:
        0 when told to stop; 1 when a command ended on its own: the last lines of its logs are then on standard output.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    folder = Path(plan["folder"])
    folder.mkdir(mode=0o700)
    lock = hold(folder)
    try:
        for name, text in plan["files"].items():
            (folder / name).write_text(text)
        *first, last = plan["commands"]
        for command in first:
            code = run(command, folder, parent, lock)
            if code is None:
                return 0
            if code != 0:
                return report(folder, code)
        code = run(last, folder, parent, lock)
        return 0 if code is None else report(folder, code)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def hold(folder: Path) -> int:
    """Return a file of ``folder`` that is locked; it gets its name only then, so that nobody finds it unlocked."""
    lock = os.open(folder / "new.lock", os.O_CREAT | os.O_WRONLY, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / "new.lock").rename(folder / LOCK)
    return lock


def run(command: list[str], folder: Path, parent: int, lock: int) -> int | None:
    """Run ``command`` in ``folder``; return its exit code, or None when it was stopped for the parent's sake."""
    with (folder / "console.log").open("ab") as console:
        child = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=console, stderr=console, pass_fds=(lock,),
            preexec_fn=die_with_parent(),  # noqa: PLW1509  # safe: this process has one thread
        )  # fmt: skip
    try:
        while child.poll() is None:
            said, _, _ = select.select([sys.stdin], [], [], EVERY_S)
            if said or os.getppid() != parent:
                return None
        return child.returncode
    finally:
        child.kill()
        child.wait()


def die_with_parent() -> Any:
    """Return what makes a child of this process die with it, even by SIGKILL; None where the system cannot."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    set_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
    return lambda: prctl(set_death_signal, signal.SIGKILL)


def report(folder: Path, code: int) -> int:
    """Print the exit code and the last log lines for the parent, which cannot read them once the folder is gone."""
    with contextlib.suppress(OSError):  # the parent may be gone
        sys.stdout.write(f"exit code {code}\n{log_tail(folder)}")
        sys.stdout.flush()
    return 1


def log_tail(folder: Path) -> str:
    """Return the last lines that the broker of ``folder`` printed and logged, those of trouble where there are any.

    A broker that ends on an error logs a hundred lines about its shutdown after it.
    """
    found = [folder / name for name in ("console.log", "kafka.log")]
    lines = [line[:400] for path in found if path.is_file() for line in path.read_text(errors="replace").splitlines()]
    trouble = [line for line in lines if " INFO " not in line and not line.startswith("\tat ")]
    return "\n".join((trouble or lines)[-TAIL:])


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), json.loads(sys.argv[2])))
