"""A contender as a process on a core of its own: started, watched from outside, stopped."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
CONTENDER_CORE, OTHERS_CORE = 1, 0
STOP_S = 25.0
_TICKS_A_S = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# One thread for whatever would make one for each core it sees.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "ARROW_NUM_THREADS")
_ONE_THREAD = dict.fromkeys(_THREADS, "1")


class Usage(NamedTuple):
    """What a process and its children have used."""

    cpu_s: float
    rss_bytes: int  # a page that processes share counts for each


class Held(NamedTuple):
    """Memory that a process and its children hold."""

    own_bytes: int  # resident, of the process itself
    all_bytes: int  # of the process and its children; what they have of one file counts once, as the most of them have


class Contender:
    """A running contender; its output goes to a log file."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, *, core: int = CONTENDER_CORE
    ) -> None:
        """Start ``command`` in the root of the repository, on one core."""
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                cwd=ROOT,
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """True once the process is gone."""
        return self._process.poll() is not None

    def check(self) -> None:
        """Raise where the process has ended by itself."""
        if self.has_ended:
            raise RuntimeError(f"the contender ended with {self._process.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-3000:]

    def usage(self) -> Usage:
        """Return what the process and its descendants use."""
        return usage_of(self.pid)

    def held(self) -> Held:
        """Return the memory it and its descendants hold; reading it costs milliseconds."""
        return held_by(self.pid)

    def stop(self) -> int:
        """Ask it to stop and return its exit code; what does not stop in time is killed, with all of its session."""
        if not self.has_ended:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            return self._process.wait()


def usage_of(pid: int) -> Usage:
    """Return CPU time (children that have ended included) and resident memory of ``pid`` and its descendants."""
    family = _family(pid).values()
    return Usage(sum(used.cpu_s for used in family), sum(used.rss_bytes for used in family))


def held_by(pid: int) -> Held:
    """Return the memory that ``pid`` and its descendants hold."""
    family, anonymous, of_file = _family(pid), 0, dict[str, int]()
    for number in family:
        with contextlib.suppress(OSError):  # it has just ended
            text = Path(f"/proc/{number}/smaps").read_text(encoding="utf-8", errors="replace")
            own, files = _mapped(text)
            anonymous += own
            of_file = {name: max(of_file.get(name, 0), files.get(name, 0)) for name in of_file | files}
    return Held(family[pid].rss_bytes if pid in family else 0, anonymous + sum(of_file.values()))


def _mapped(smaps: str) -> tuple[int, dict[str, int]]:
    """Return the bytes of a process that are its own, and those of each file that are as the file has them."""
    own, of_file, file, resident = 0, dict[str, int](), "", 0
    for line in smaps.splitlines():
        word, *rest = line.split()
        if not word.endswith(":"):
            file = " ".join(rest[2:4])  # device and inode
        elif word == "Rss:":
            resident = int(rest[0]) * 1024
        elif word == "Anonymous:":
            changed = int(rest[0]) * 1024
            own += changed
            of_file[file] = of_file.get(file, 0) + resident - changed
    return own, of_file


def _family(pid: int) -> dict[int, Usage]:
    """Return what ``pid`` and each of its descendants uses."""
    parent_of, used = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()
        except OSError:  # it has just ended
            continue
        number = int(entry.name)
        parent_of[number] = int(fields[1])
        used[number] = Usage(sum(map(int, fields[11:15])) / _TICKS_A_S, int(fields[21]) * _PAGE)
    return {number: each for number, each in used.items() if _descends(number, pid, parent_of)}


def _descends(number: int, ancestor: int, parent_of: Mapping[int, int]) -> bool:
    while number and number != ancestor:
        number = parent_of.get(number, 0)
    return number == ancestor
