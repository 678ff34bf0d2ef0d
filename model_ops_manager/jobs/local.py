"""Attempts at jobs as processes of this machine."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import IO, Any

from model_ops_manager.jobs import memory, temporary
from model_ops_manager.jobs.job import Job
from model_ops_manager.jobs.settings import RunnerSettings


class LocalExecutor:
    """Starts each attempt as a child process; what it logs goes where the runner's log goes."""

    def __init__(self, settings: RunnerSettings) -> None:
        """Hand ``settings`` on to every process."""
        self._settings = settings
        temporary.sweep()

    def start(self, job: Job, output: int | None = None) -> "LocalHandle":
        """Start the process; ``output`` is for its standard output and error, as ``subprocess.Popen`` takes it.

        Raises:
            OSError: The system has no room for it.
        """
        return LocalHandle(job, self._settings, output)

    def close(self) -> None:
        """Do nothing: every handle has its own process."""


class LocalHandle:
    """A process in a group and with a folder for temporary files of its own."""

    def __init__(self, job: Job, settings: RunnerSettings, output: int | None) -> None:
        """Start it; raises as ``LocalExecutor.start``."""
        self._folder = temporary.Folder()
        threads = str(settings.job_threads)
        own = {"TMPDIR": str(self._folder.path), "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "model_ops_manager.jobs.training", job.id, str(job.attempt)],
                stdin=subprocess.PIPE,  # closes with this process, however it ends, and that ends the child
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                env={**os.environ, **settings.environment(), **own},
                start_new_session=True,
            )
        except BaseException:
            self._folder.remove()
            raise

    @property
    def place(self) -> dict[str, Any]:
        """Id of the process, which is that of its group too."""
        return {"pid": self._process.pid}

    @property
    def output(self) -> IO[bytes] | None:
        """The pipe it writes to, where one was asked for."""
        return self._process.stdout

    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def memory_mb(self) -> int:
        """Return its memory and that of all processes of its session; 0 where the system does not tell."""
        return memory.of_session_mb(self._process.pid)

    def end(self) -> None:
        """Tell the process to end."""
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
        self._folder.remove()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
