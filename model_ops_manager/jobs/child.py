"""The process of one job as its runner sees it: started apart, watched, ended within a bound."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path

from model_ops_manager.jobs.job import Job
from model_ops_manager.jobs.settings import RunnerSettings

# Cancelled within a second: found out after runner_poll_s (0.5 at most), killed this long after being asked.
GRACE_S = 0.4
TEMP_PREFIX = "tickwise-job-"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Why(Enum):
    """Why a runner ended a child."""

    CANCELLED = "cancelled on request"
    TIME = "it ran longer than TICKWISE_JOB_TIMEOUT_S allows"
    MEMORY = "it held more memory than TICKWISE_JOB_MEMORY_MB allows"
    LEASE = "its lease was lost"
    STOPPING = "its runner stops"


class Child:
    """One attempt at a job in a process group and with a folder for temporary files of its own."""

    def __init__(self, job: Job, settings: RunnerSettings) -> None:
        """Start the process."""
        self.job = job
        self.why: Why | None = None
        self.started_s = self.leased_s = time.monotonic()  # monotonic, as `asked_s`
        self.asked_s: float | None = None  # when it was told to end
        self._folder = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX))
        threads = str(settings.job_threads)
        own = {"TMPDIR": str(self._folder), "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "model_ops_manager.jobs.training", job.id, str(job.attempt)],
                stdin=subprocess.PIPE,  # closes with this process, however it ends, and that ends the child
                env={**os.environ, **settings.environment(), **own},
                start_new_session=True,
            )
        except BaseException:
            self._remove_folder()
            raise

    @property
    def pid(self) -> int:
        """Id of the process, which is that of its group too."""
        return self._process.pid

    @property
    def ran_s(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.started_s

    @property
    def is_overdue(self) -> bool:
        """True when it was told to end and has had its time."""
        return self.asked_s is not None and time.monotonic() - self.asked_s > GRACE_S

    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def memory_mb(self) -> int:
        """Return its resident memory; 0 where the system does not tell."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, ValueError, IndexError):
            return 0
        return pages * _PAGE_BYTES // 2**20

    def end(self, why: Why) -> None:
        """Tell the process to end; the first reason given is kept."""
        if self.why is None:
            self.why, self.asked_s = why, time.monotonic()
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process and what it has started, now."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """End what is left of its group and remove its files."""
        self._signal(signal.SIGKILL)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        self._remove_folder()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _remove_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def exit_reason(code: int) -> str:
    """Return what an exit code says of a process that told nobody why it ended.

    >>> exit_reason(-9)
    'killed by signal 9 (SIGKILL); was the machine out of memory?'
    """
    if code >= 0:
        return f"its process ended with exit code {code} and without a word; see the log of the runner"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:
        name = ""
    hint = "; was the machine out of memory?" if -code == signal.SIGKILL else ""
    return f"killed by signal {-code}{name}{hint}"
