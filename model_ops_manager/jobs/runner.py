"""The runner: leases jobs and has each run by a process of its own, several at once."""

import math
import os
import secrets
import signal
import socket
import threading
import time
from contextlib import closing, suppress

import structlog

from ml_core.errors import JobNotFoundError, JobStoreUnavailableError, LeaseLostError
from ml_core.types import JobState
from model_ops_manager.jobs import checkpoints
from model_ops_manager.jobs.attempt import Attempt, Why
from model_ops_manager.jobs.executor import Executor, exit_reason, open_executor, was_killed
from model_ops_manager.jobs.job import Job
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.jobs.store import JobStore

log = structlog.get_logger()

# An attempt that registers its model is let finish; every wait of a registration has a bound below this.
REGISTER_S = 60.0
START_PAUSE_S = 10.0  # a machine without room has none for the next job, which another runner may take
SWEEP_S = 60.0  # how often files are looked for whose job was ended by somebody else


class Runner:
    """Runs jobs until it is told to stop. One thread calls its methods; the work happens in processes of their own."""

    def __init__(self, settings: RunnerSettings, store: JobStore, executor: Executor) -> None:
        """Run jobs of ``store`` where ``executor`` has them run; the caller closes both."""
        self.settings, self.store, self.executor = settings, store, executor
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._attempts: list[Attempt] = []
        self._store_answers = True
        self._swept_s = self._lease_from_s = -math.inf

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
            for attempt in self._attempts:
                attempt.handle.close()
        log.info("runner stopped", action="stop", runner=self.name)

    def step(self) -> None:
        """Look after every attempt and lease at most one job. Called every ``runner_poll_s``."""
        try:
            self._tend()
            if len(self._attempts) < self.settings.max_parallel and time.monotonic() >= self._lease_from_s:
                job = self.store.lease(self.name, self.settings.lease_s, self.settings.quotas)
                if job is not None:
                    self._start(job)
            if time.monotonic() - self._swept_s > SWEEP_S:
                self._sweep()
            self._store_answers = True
        except JobStoreUnavailableError as error:
            if self._store_answers:
                log.warning("job store away", action="poll", error=str(error))
            self._store_answers = False

    def _start(self, job: Job) -> None:
        try:
            handle = self.executor.start(job)
        except OSError as error:
            log.error("job not started", action="start-job", job=job.id, error=str(error))
            self._lease_from_s = time.monotonic() + START_PAUSE_S
            with suppress(LeaseLostError):
                self.store.give_back(job)
            return
        self._attempts.append(Attempt(job, handle))
        log.info("job started", action="start-job", job=job.id, attempt=job.attempt, **handle.place)

    def _tend(self) -> None:
        for attempt in list(self._attempts):
            code = attempt.handle.exit_code()
            if code is not None:
                self._settle(attempt, code)
                attempt.handle.close()
                self._attempts.remove(attempt)
            elif attempt.is_overdue:
                self._kill_unless_it_registers(attempt)
            elif attempt.why is None:
                self._watch(attempt)

    def _watch(self, attempt: Attempt) -> None:
        """Prolong the lease, and end an attempt that is cancelled, past a limit, or not ours any more."""
        settings = self.settings
        if attempt.ran_s > settings.job_timeout_s:
            attempt.end(Why.TIME)
        elif settings.job_memory_mb and attempt.handle.memory_mb() > settings.job_memory_mb:
            attempt.end(Why.MEMORY)
        elif time.monotonic() - attempt.leased_s > settings.lease_s:
            attempt.end(Why.LEASE)  # the store was away for so long that another runner may have the job
        else:
            try:
                job = self._look(attempt)
            except (LeaseLostError, JobNotFoundError):
                attempt.end(Why.LEASE)
            else:
                if job.cancel_requested and not job.state.is_final:
                    attempt.end(Why.CANCELLED)
        if attempt.why is not None:
            log.info("job is ended", action="end-job", job=attempt.job.id, reason=attempt.why.value)

    def _look(self, attempt: Attempt) -> Job:
        """Return the job as it stands, its lease prolonged when a third of it is over.

        Raises:
            LeaseLostError: Another runner has the job, or may take it.
        """
        asked_s = time.monotonic()
        job = self.store.get(attempt.job.id)
        if job.attempt != attempt.job.attempt or job.state is JobState.QUEUED:  # a machine that slept does not notice
            raise LeaseLostError(f"{job.id} is not run by attempt {attempt.job.attempt} any more")
        has_ended = job.state.is_final  # and its process will, too
        if not has_ended and asked_s - attempt.leased_s > self.settings.lease_s / 3:
            job = self.store.heartbeat(attempt.job, self.settings.lease_s)
            attempt.leased_s = asked_s
        return job

    def _kill_unless_it_registers(self, attempt: Attempt) -> None:
        overdue_s = time.monotonic() - (attempt.asked_s or 0.0)
        if attempt.why is Why.LEASE or overdue_s > REGISTER_S or not self.store.get(attempt.job.id).registering:
            attempt.handle.kill()

    def _settle(self, attempt: Attempt, code: int) -> None:
        """Write how an attempt ended that did not say so itself; a job that is over keeps no files."""
        try:
            job = self.store.get(attempt.job.id)
            if (job.state, job.attempt) == (JobState.RUNNING, attempt.job.attempt):
                job = self._decide(job, attempt.why, code)
        except (LeaseLostError, JobNotFoundError) as error:  # somebody may have deleted its row
            log.warning("job taken over", action="end-job", job=attempt.job.id, error=str(error))
            return
        if job.state.is_final:
            checkpoints.remove(self.settings.home, job.id)
        failed = {} if job.error is None else {"error": job.error}
        tell = log.error if job.state is JobState.FAILED else log.info
        tell("attempt ended", action="end-job", job=job.id, state=job.state.value, code=code, **failed)

    def _decide(self, job: Job, why: Why | None, code: int) -> Job:
        """Return the job as it goes on after its process has ended without a word."""
        if job.cancel_requested:
            return self.store.finish(job, JobState.CANCELLED)
        if why is Why.STOPPING:
            return self.store.give_back(job)
        if why is Why.LEASE:
            return job
        if why is None and was_killed(code):
            log.warning("job killed", action="end-job", job=job.id, attempt=job.attempt, error=exit_reason(code))
            return self.store.retry(job, exit_reason(code))
        return self.store.finish(job, JobState.FAILED, error=exit_reason(code) if why is None else why.value)

    def _sweep(self) -> None:
        """Remove what is kept for jobs that are over: a lost runner removes nothing, nor does a cancellation."""
        self._swept_s = time.monotonic()
        for job_id in checkpoints.job_ids(self.settings.home):
            with suppress(JobNotFoundError):  # of another store
                if self.store.get(job_id).state.is_final:
                    checkpoints.remove(self.settings.home, job_id)

    def _drain(self) -> None:
        """End all attempts and give their jobs back; one that registers its model may finish."""
        log.info("runner stops", action="stop", runner=self.name, jobs=[attempt.job.id for attempt in self._attempts])
        for attempt in self._attempts:
            attempt.end(Why.STOPPING)
        deadline = time.monotonic() + self.settings.runner_stop_s
        while self._attempts and time.monotonic() < deadline:
            try:
                self._tend()
            except JobStoreUnavailableError as error:
                log.warning("job store away", action="stop", error=str(error))
            time.sleep(0.05)


def run(settings: RunnerSettings) -> None:
    """Run a runner until SIGTERM or SIGINT; raises as ``open_executor`` and ``Runner.run``."""
    with closing(open_executor(settings)) as executor, closing(JobStore(settings.job_store_url)) as store:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # after the executor: Ray has a handler of its own
            signal.signal(number, lambda *_: stop.set())
        Runner(settings, store, executor).run(stop)
