"""Attempts at jobs on the machines of a Ray cluster: an actor there starts the process that would run here.

The actor lives no longer than its runner, and its end closes the pipe that ends the process.
"""

import os
import subprocess
import sys
from collections import deque
from threading import Thread
from typing import IO, Any, NamedTuple, cast

import structlog

from ml_core.errors import DependencyError, SetupError
from model_ops_manager.jobs.executor import MACHINE_LOST
from model_ops_manager.jobs.job import Job
from model_ops_manager.jobs.local import LocalExecutor
from model_ops_manager.jobs.settings import RunnerSettings

log = structlog.get_logger()

MAX_LINES = 10_000  # of a log that wait for the runner; a job writes a few dozen
READ_S = 5.0  # for the last lines of a process that has ended; a grandchild may hold the pipe
LOCAL_STORE_BYTES = 100 * 2**20  # nothing goes through Ray's object store but the lines of a log


class RayExecutor:
    """Runs each attempt on a machine with ``TICKWISE_JOB_THREADS`` cores free, and waits where there is none.

    tickwise is installed there too, in the same version; both stores and ``TICKWISE_HOME`` are ones that all share.
    """

    def __init__(self, settings: RunnerSettings) -> None:
        """Join the cluster at ``TICKWISE_RAY_ADDRESS``; ``local`` starts a Ray on this machine.

        Raises:
            SetupError: Ray is not installed, or a store is a file and the cluster has other machines.
            DependencyError: No cluster answers. A retry is safe.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise SetupError("TICKWISE_RUNNER_EXECUTOR=ray needs Ray: pip install 'tickwise[ray]'") from error
        own = {"include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES}
        is_local = settings.ray_address == "local"
        try:
            ray.init(settings.ray_address, log_to_driver=False, logging_level="WARNING", **(own if is_local else {}))
        except Exception as error:  # a bare one where a part of it does not come up in time
            raise DependencyError(f"no Ray answers at {settings.ray_address!r}: {error}") from error
        self._ray, self._settings = ray, settings
        memory = {"memory": settings.job_memory_mb * 2**20} if settings.job_memory_mb else {}
        self._host = ray.remote(num_cpus=settings.job_threads, max_restarts=0, **memory)(_Host)
        try:
            self._check_shared()
        except BaseException:
            ray.shutdown()
            raise

    def start(self, job: Job) -> "RayHandle":
        """Ask for the attempt; it begins when a machine has room."""
        return RayHandle(self._ray, self._host.remote(job, self._settings), job)

    def close(self) -> None:
        """Leave the cluster; a local one ends."""
        self._ray.shutdown()

    def _check_shared(self) -> None:
        machines = {node["NodeManagerAddress"] for node in self._ray.nodes() if node["Alive"]}
        others = machines - {self._ray.util.get_node_ip_address()}
        files = {
            "TICKWISE_JOBS_URL": self._settings.job_store_url,
            "TICKWISE_MLFLOW_TRACKING_URI": self._settings.tracking_uri,
        }
        for name, url in files.items():
            if others and url.startswith("sqlite"):
                raise SetupError(f"{name} names a file of this machine, and jobs would run on {sorted(others)[0]} too")


class RayHandle:
    """The process as seen from the runner: what the actor told last. Nothing here waits for the cluster."""

    def __init__(self, ray: Any, host: Any, job: Job) -> None:
        """Begin to ask ``host`` how the process is."""
        self._ray, self._host, self._job = ray, host, job
        self._asked = host.look.remote()
        self._seen: _Look | None = None  # None until a machine was found
        self._code: int | None = None

    @property
    def place(self) -> dict[str, Any]:
        """Id of the actor."""
        return {"actor": self._host._actor_id.hex()}  # noqa: SLF001 - Ray has no other name for it

    def exit_code(self) -> int | None:
        """Return the exit code, ``MACHINE_LOST`` when the actor has died; None while it runs or waits for a machine."""
        if self._code is None:
            try:
                if self._ray.wait([self._asked], timeout=0)[0]:
                    self._take(self._ray.get(self._asked))
            except self._ray.exceptions.RayError as error:
                self._code = MACHINE_LOST
                log.warning("actor lost", action="look", job=self._job.id, error=str(error).splitlines()[0])
        return self._code

    def memory_mb(self) -> int:
        """Return its resident memory when it was last looked at; 0 before."""
        return 0 if self._seen is None else self._seen.memory_mb

    def end(self) -> None:
        """Tell the process to end."""
        self._host.end.remote()

    def kill(self) -> None:
        """End the process, or do not wait for a machine any longer."""
        if self._seen is None:
            self.close()
        else:
            self._host.kill.remote()

    def close(self) -> None:
        """End the actor, and with it what is left of the process."""
        self._ray.kill(self._host)

    def _take(self, look: "_Look") -> None:
        self._seen, self._code = look, look.code
        sys.stderr.write("".join(look.lines))
        sys.stderr.flush()
        if look.code is None:
            self._asked = self._host.look.remote()


class _Look(NamedTuple):
    code: int | None
    memory_mb: int
    lines: list[str]  # of its log, since the look before


class _Host:
    """The actor: one attempt on its machine, and what it writes."""

    def __init__(self, job: Job, settings: RunnerSettings) -> None:
        self._handle = LocalExecutor(settings).start(job, subprocess.PIPE)
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._reader = Thread(target=self._read, name="job-log", daemon=True)
        self._reader.start()

    def look(self) -> _Look:
        code = self._handle.exit_code()
        if code is not None:
            self._handle.close()
            self._reader.join(READ_S)
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        return _Look(code, self._handle.memory_mb(), lines)

    def end(self) -> None:
        self._handle.end()

    def kill(self) -> None:
        self._handle.kill()

    def _read(self) -> None:
        with cast("IO[bytes]", self._handle.output) as output:
            for line in output:
                self._lines.append(line.decode(errors="replace"))
