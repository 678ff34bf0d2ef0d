"""The process of one attempt at a job: it runs the work of its kind and writes how it ended.

usage: python -m model_ops_manager.jobs.training JOB_ID ATTEMPT, started by a runner. Standard input is a pipe whose
end means that the runner is gone. SIGTERM ends the process at once, except while a model is being registered.
"""

import importlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from data_io.logs import configure
from ml_core.errors import JobStoreUnavailableError, LeaseLostError, TickwiseError, TrainingCancelledError
from ml_core.types import JobKind, JobState
from model_ops_manager.jobs import temporary
from model_ops_manager.jobs.executor import ENDED_BY_SIGTERM, STORE_AWAY
from model_ops_manager.jobs.job import Job
from model_ops_manager.jobs.patience import patiently
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.jobs.store import FinalState, JobStore

if TYPE_CHECKING:
    from model_ops_manager.jobs.works.base import Work

log = structlog.get_logger()

RUNNER_GONE = 70
# What a job of each kind does: a subclass of `works.base.Work`.
WORKS: dict[JobKind, str] = {
    JobKind.BATCH: "model_ops_manager.jobs.works.train:Train",
    JobKind.INCREMENTAL: "model_ops_manager.jobs.works.train:Train",
    JobKind.TUNE: "model_ops_manager.jobs.works.tune:Tune",
    JobKind.PREDICT: "model_ops_manager.jobs.works.predict:Predict",
}


def main(job_id: str, attempt: int) -> int:
    """Run one attempt at a job and store how it ended; return the exit code."""
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_watch_runner, name="watch-runner", daemon=True).start()
    configure()
    structlog.contextvars.bind_contextvars(job=job_id, attempt=attempt)
    settings = RunnerSettings.read()
    store = JobStore(settings.job_store_url)
    try:
        job = patiently(lambda: store.get(job_id))
        if (job.state, job.attempt) != (JobState.RUNNING, attempt):
            log.error("the job is not this attempt's", action="start", state=job.state)
            return 1
        return _run(job, store, settings)
    except LeaseLostError as error:
        log.error("the job was taken over", action="end", error=str(error))
        return 1
    except JobStoreUnavailableError as error:  # nobody learns how it ended, so another attempt goes on
        log.error("the job store is away", action="end", error=str(error))
        return STORE_AWAY
    finally:
        store.close()


def _run(job: Job, store: JobStore, settings: RunnerSettings) -> int:
    try:
        result = _work(job, store, settings)
    except (LeaseLostError, JobStoreUnavailableError):
        raise
    except TrainingCancelledError:
        return _finish(store, job, JobState.CANCELLED)
    except TickwiseError as error:
        log.error("job failed", action="end", error=str(error))
        return _finish(store, job, JobState.FAILED, error=str(error), error_type=type(error).__name__)
    except MemoryError:
        return _finish(store, job, JobState.FAILED, error="out of memory; use fewer ticks", error_type="MemoryError")
    except Exception as error:  # a defect of ours, or of a part of the user's own: it ends this job alone
        log.exception("job failed", action="end")
        text = f"{type(error).__name__}: {error}"
        return _finish(store, job, JobState.FAILED, error=text, error_type=type(error).__name__)
    return _finish(store, job, JobState.SUCCEEDED, result=result)


def _work(job: Job, store: JobStore, settings: RunnerSettings) -> dict[str, Any]:
    from model_ops_manager.mlflow_agent import MlflowAgent

    # Imported here: a process that knows its job imports what its kind needs, and what fails then is the job's error.
    module, _, name = WORKS[job.spec.kind].partition(":")
    work: type[Work] = getattr(importlib.import_module(module), name)
    agent = MlflowAgent(settings.tracking_uri, settings.home)
    return work(job, store, agent, settings).run(_ignore_sigterm)


def _finish(store: JobStore, job: Job, state: FinalState, **how: Any) -> int:
    patiently(lambda: store.finish(job, state, **how))
    log.info("job ended", action="end", state=state.value)
    return 1 if state is JobState.FAILED else 0


def _ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end(_number: int, _frame: object) -> None:
    sys.exit(ENDED_BY_SIGTERM)


def _watch_runner() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    folder = Path(tempfile.gettempdir())
    if folder.name.startswith(temporary.PREFIX):  # what the runner would have removed
        shutil.rmtree(folder, ignore_errors=True)
    # nobody prolongs the lease any more: another attempt will be made
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with what it has started, as the runner would have
    os._exit(RUNNER_GONE)


if __name__ == "__main__":
    exit_code = main(sys.argv[1], int(sys.argv[2]))
    logging.shutdown()
    # All is stored; to take torch down in order would hold the place of the next job for a second.
    os._exit(exit_code)
