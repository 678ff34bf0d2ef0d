"""The port through which a runner starts attempts at jobs: as processes of this machine, or beyond it."""

import signal
from typing import Any, Protocol

from model_ops_manager.jobs.job import Job
from model_ops_manager.jobs.settings import RunnerSettings

MACHINE_LOST = -255  # no signal has that number
ENDED_BY_SIGTERM = 128 + signal.SIGTERM
STORE_AWAY = 75  # EX_TEMPFAIL


class Handle(Protocol):
    """One attempt that was started: a process in a group of its own. No method but ``close`` waits for anything."""

    @property
    def place(self) -> dict[str, Any]:
        """Where it runs, as fields of a log line."""
        ...

    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal, ``MACHINE_LOST`` when nobody can tell; None while it runs."""
        ...

    def memory_mb(self) -> int:
        """Return its resident memory; 0 where that is not known."""
        ...

    def end(self) -> None:
        """Tell the process to end (SIGTERM)."""
        ...

    def kill(self) -> None:
        """End the process and what it has started, now (SIGKILL)."""
        ...

    def close(self) -> None:
        """End what is left of it and remove its temporary files."""
        ...


class Executor(Protocol):
    """Starts ``python -m model_ops_manager.jobs.training JOB_ID ATTEMPT`` with the settings of its runner.

    The process ends when the runner does, however that ends.
    """

    def start(self, job: Job) -> Handle:
        """Start the attempt that ``job`` was leased for.

        Raises:
            OSError: It could not be started.
        """
        ...

    def close(self) -> None:
        """Let go of what was opened; handles were closed before."""
        ...


def open_executor(settings: RunnerSettings) -> Executor:
    """Return the executor that ``settings`` name.

    Raises:
        SetupError: Its extra is not installed, or others could not reach the stores.
        DependencyError: Ray does not answer. A retry is safe.
    """
    if settings.runner_executor == "ray":
        from model_ops_manager.jobs.ray_executor import RayExecutor

        return RayExecutor(settings)
    from model_ops_manager.jobs.local import LocalExecutor

    return LocalExecutor(settings)


def was_killed(code: int) -> bool:
    """Return whether a process of this exit code was ended from outside, so that another attempt may fare better."""
    return code < 0 or code in (ENDED_BY_SIGTERM, STORE_AWAY)


def exit_reason(code: int) -> str:
    """Return what an exit code says of a process that told nobody why it ended.

    >>> exit_reason(-9)
    'killed by signal 9 (SIGKILL); was the machine out of memory?'
    """
    if code == MACHINE_LOST:
        return "the machine that ran it was lost, or Ray ended it there; see the log of the runner"
    if code == ENDED_BY_SIGTERM:
        return f"killed by signal {int(signal.SIGTERM)} (SIGTERM)"
    if code == STORE_AWAY:
        return "the job store did not answer its process"
    if code >= 0:
        return f"its process ended with exit code {code} and without a word; see the log of the runner"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:
        name = ""
    hint = "; was the machine out of memory?" if -code == signal.SIGKILL else ""
    return f"killed by signal {-code}{name}{hint}"
