"""The runner: leases jobs and runs each in a process of its own, several at once."""

import os
import secrets
import signal
import socket
import threading
import time

import structlog

from ml_core.errors import JobStoreUnavailableError, LeaseLostError
from ml_core.types import JobState
from model_ops_manager.jobs.child import Child, Why, exit_reason
from model_ops_manager.jobs.job import Job
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.jobs.store import JobStore

log = structlog.get_logger()

# A child that registers its model is let finish; every wait of a registration has a bound below this.
REGISTER_S = 60.0


class Runner:
    """Runs jobs until it is told to stop. One thread calls its methods; the work happens in child processes."""

    def __init__(self, settings: RunnerSettings, store: JobStore) -> None:
        """Run jobs of ``store``."""
        self.settings, self.store = settings, store
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._children: list[Child] = []
        self._store_answers = True

    def run(self, stop: threading.Event) -> None:
        """Lease and run jobs until ``stop`` is set, then give back what still runs.

        Raises:
            JobStoreUnavailableError: The store does not answer at the start. Later it may be away for a while.
        """
        self.store.ping()
        log.info("runner started", action="start", runner=self.name, max_parallel=self.settings.max_parallel)
        try:
            while not stop.is_set():
                self.step()
                stop.wait(self.settings.runner_poll_s)
            self._drain()
        finally:
            for child in self._children:
                child.close()
        log.info("runner stopped", action="stop", runner=self.name)

    def step(self) -> None:
        """Look after every child and lease at most one job. Called every ``runner_poll_s``."""
        try:
            self._tend()
            if len(self._children) < self.settings.max_parallel:
                job = self.store.lease(self.name, self.settings.lease_s)
                if job is not None:
                    self._start(job)
            self._store_answers = True
        except JobStoreUnavailableError as error:
            if self._store_answers:
                log.warning("job store away", action="poll", error=str(error))
            self._store_answers = False

    def _start(self, job: Job) -> None:
        try:
            child = Child(job, self.settings)
        except OSError as error:
            log.error("job not started", action="start-job", job=job.id, error=str(error))
            self.store.finish(job, JobState.FAILED, error=f"its process could not be started: {error}")
            return
        self._children.append(child)
        log.info("job started", action="start-job", job=job.id, attempt=job.attempt, pid=child.pid)

    def _tend(self) -> None:
        for child in list(self._children):
            code = child.exit_code()
            if code is not None:
                self._settle(child, code)
                child.close()
                self._children.remove(child)
            elif child.is_overdue:
                self._kill_unless_it_registers(child)
            elif child.why is None:
                self._watch(child)

    def _watch(self, child: Child) -> None:
        """Prolong the lease, and end a child that is cancelled, past a limit, or not ours any more."""
        settings = self.settings
        if child.ran_s > settings.job_timeout_s:
            child.end(Why.TIME)
        elif settings.job_memory_mb and child.memory_mb() > settings.job_memory_mb:
            child.end(Why.MEMORY)
        elif time.monotonic() - child.leased_s > settings.lease_s:
            child.end(Why.LEASE)  # the store was away for so long that another runner may have the job
        else:
            try:
                job = self._look(child)
            except LeaseLostError:
                child.end(Why.LEASE)
            else:
                if job.cancel_requested and not job.state.is_final:
                    child.end(Why.CANCELLED)
        if child.why is not None:
            log.info("job is ended", action="end-job", job=child.job.id, reason=child.why.value)

    def _look(self, child: Child) -> Job:
        """Return the job as it stands, its lease prolonged when a third of it is over.

        Raises:
            LeaseLostError: Another runner has the job.
        """
        asked_s = time.monotonic()
        job = self.store.get(child.job.id)
        has_ended = job.state.is_final and job.attempt == child.job.attempt  # and its process will, too
        if not has_ended and asked_s - child.leased_s > self.settings.lease_s / 3:
            job = self.store.heartbeat(child.job, self.settings.lease_s)
            child.leased_s = asked_s
        return job

    def _kill_unless_it_registers(self, child: Child) -> None:
        overdue_s = time.monotonic() - (child.asked_s or 0.0)
        if child.why is Why.LEASE or overdue_s > REGISTER_S or not self.store.get(child.job.id).registering:
            child.kill()

    def _settle(self, child: Child, code: int) -> None:
        """Write how a job ended whose child did not say so itself."""
        job = self.store.get(child.job.id)
        if (job.state, job.attempt) != (JobState.RUNNING, child.job.attempt):
            log.info("job ended", action="end-job", job=job.id, state=job.state.value)
            return
        try:
            if job.cancel_requested:
                self.store.finish(job, JobState.CANCELLED)
            elif child.why is Why.STOPPING:
                self.store.give_back(job)
            elif child.why is not Why.LEASE:
                error = exit_reason(code) if child.why is None else child.why.value
                self.store.finish(job, JobState.FAILED, error=error)
                log.error("job failed", action="end-job", job=job.id, error=error)
        except LeaseLostError as error:
            log.warning("job taken over", action="end-job", job=job.id, error=str(error))

    def _drain(self) -> None:
        """End the children and give their jobs back; one that registers its model may finish."""
        log.info("runner stops", action="stop", runner=self.name, jobs=[child.job.id for child in self._children])
        for child in self._children:
            child.end(Why.STOPPING)
        deadline = time.monotonic() + self.settings.runner_stop_s
        while self._children and time.monotonic() < deadline:
            try:
                self._tend()
            except JobStoreUnavailableError as error:
                log.warning("job store away", action="stop", error=str(error))
            time.sleep(0.05)


def run(settings: RunnerSettings) -> None:
    """Run a runner until SIGTERM or SIGINT; raises as ``Runner.run``."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    store = JobStore(settings.job_store_url)
    try:
        Runner(settings, store).run(stop)
    finally:
        store.close()
