"""One attempt at a job as its runner sees it: since when it runs, and why it was ended."""

import time
from enum import Enum

from model_ops_manager.jobs.executor import Handle
from model_ops_manager.jobs.job import Job

# Cancelled within a second: found out after runner_poll_s (0.5 at most), killed this long after being asked.
GRACE_S = 0.4


class Why(Enum):
    """Why a runner ended an attempt."""

    CANCELLED = "cancelled on request"
    TIME = "it ran longer than TICKWISE_JOB_TIMEOUT_S allows"
    MEMORY = "it held more memory than TICKWISE_JOB_MEMORY_MB allows"
    LEASE = "its lease was lost"
    STOPPING = "its runner stops"


class Attempt:
    """A job and the handle of the process that works on it."""

    def __init__(self, job: Job, handle: Handle) -> None:
        """Note the time; the process was started just now."""
        self.job, self.handle = job, handle
        self.why: Why | None = None
        self.started_s = self.leased_s = time.monotonic()  # monotonic, as `asked_s`
        self.asked_s: float | None = None  # when it was told to end

    @property
    def ran_s(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.started_s

    @property
    def is_overdue(self) -> bool:
        """True when it was told to end and has had its time."""
        return self.asked_s is not None and time.monotonic() - self.asked_s > GRACE_S

    def end(self, why: Why) -> None:
        """Tell the process to end; the first reason given is kept."""
        if self.why is None:
            self.why, self.asked_s = why, time.monotonic()
            self.handle.end()
