"""Starts training jobs: on a schedule, and for requests on ``jobs.requests.v1``."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import faust
import structlog
from pydantic import ValidationError

from data_io.topics import dead_letters, job_requests
from ml_core.errors import DependencyError, NotFoundError, TickwiseError
from ml_core.spec import PipelineSpec
from ml_core.types import SECOND_NS, JobKind, JobSpec, JobState
from model_ops_manager import triggers
from model_ops_manager.jobs.store import JobStore

log = structlog.get_logger()

T = TypeVar("T")
RunsElsewhere = Callable[[str], Awaitable[bool]]  # whether a worker of any group has ever run a pipeline

LONGEST_PAUSE_S = 30.0  # between two tries while the job store is away


class Trigger:
    """Submits jobs once: every worker may ask, the idempotency key decides."""

    def __init__(
        self, store: JobStore, pipelines: Mapping[str, PipelineSpec], clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """Submit for ``pipelines`` to ``store``."""
        self.store, self.pipelines, self.clock_ns = store, pipelines, clock_ns

    def submit(self, job: JobSpec, key: str) -> str:
        """Submit ``job`` and return its id.

        Raises:
            TickwiseError: The pipeline is unknown here, or the store refused or did not answer.
        """
        spec = self.pipelines.get(job.pipeline)
        if spec is None:
            raise NotFoundError(
                f"no pipeline {job.pipeline!r} in this worker; known: {', '.join(sorted(self.pipelines))}"
            )
        return str(self.store.submit(job, spec, idempotency_key=key).id)

    def is_cool(self, pipeline: str) -> bool:
        """True when no training of ``pipeline`` is under way and the last one is ``retrain.cooldown`` old at least."""
        jobs = self.store.list(pipeline=pipeline, limit=1, kinds=[kind for kind in JobKind if kind.trains])
        if not jobs:
            return True
        return triggers.is_cool(
            self.clock_ns(),
            jobs[0].created_ns,
            is_over=JobState(jobs[0].state).is_final,
            cooldown_ns=self.pipelines[pipeline].retrain.cooldown,
        )

    def start(self, pipeline: str, trigger: str, key: str) -> str | None:
        """Start a job of ``pipeline`` unless one is under way or was just started; return its id."""
        if not self.is_cool(pipeline):
            return None
        job = JobSpec.model_validate(
            {"pipeline": pipeline, "kind": self.pipelines[pipeline].retrain.kind, "trigger": trigger}
        )
        job_id = self.submit(job, key)
        log.info("job started", action="trigger", pipeline=pipeline, trigger=trigger, job=job_id)
        return job_id


async def run_schedule(trigger: Trigger, pipeline: str, every_ns: int) -> None:
    """Start a job of ``pipeline`` at every multiple of ``every_ns`` since the epoch, until cancelled."""
    while True:
        now_ns = trigger.clock_ns()
        slot = triggers.next_slot(now_ns, every_ns)
        await asyncio.sleep((slot * every_ns - now_ns) / SECOND_NS)
        try:
            await asyncio.to_thread(trigger.start, pipeline, "schedule", f"schedule:{every_ns}:{slot}")
        except TickwiseError as error:
            log.error("scheduled job was not started", action="trigger", pipeline=pipeline, error=str(error))


async def until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    """Return what ``ask`` returns, asking again while nobody answers.

    There is no bound: the request waits in its topic meanwhile, and whoever stops the agent cancels this.
    """
    pause_s = 1.0
    while True:
        try:
            return await ask()
        except DependencyError as error:
            log.warning("job request waits", action="trigger", error=str(error))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def answer(value: bytes | None, key: str, trigger: Trigger, runs_elsewhere: RunsElsewhere) -> None:
    """Submit the job that a request asks for; every worker group reads it, and one that runs the pipeline does.

    Raises:
        ValidationError: It is no request.
        TickwiseError: No group knows the pipeline, or the store refused.
    """
    job = JobSpec.model_validate_json(value or b"").model_copy(update={"trigger": "request"})
    if job.pipeline not in trigger.pipelines and await until_answered(partial(runs_elsewhere, job.pipeline)):
        log.info("job request is for another worker group", action="trigger", pipeline=job.pipeline)
        return
    job_id = await until_answered(partial(asyncio.to_thread, trigger.submit, job, key))
    log.info("job requested", action="trigger", pipeline=job.pipeline, trigger="request", job=job_id)


def attach(app: faust.App, trigger: Trigger, runs_elsewhere: RunsElsewhere) -> Any:
    """Register the agent that reads job requests, and return it."""
    topic = app.topic(job_requests.NAME, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    rejected = app.topic(dead_letters.name(job_requests.NAME), key_serializer="raw", value_serializer="raw")

    async def retraining(stream: Any) -> None:
        async for event in stream.events():
            message = event.message
            try:
                # The time of arrival tells apart requests of a topic that was deleted and made anew.
                key = f"request:{message.partition}:{message.offset}:{message.timestamp:.3f}"
                await answer(event.value, key, trigger, runs_elsewhere)
            except (ValidationError, TickwiseError) as error:
                reason = "bad_request" if isinstance(error, ValidationError) else type(error).__name__
                log.warning("job request refused", action="trigger", offset=message.offset, reason=reason)
                headers = dead_letters.headers(
                    reason, str(error)[:500], message.topic, message.partition, message.offset
                )
                kept = [*(message.headers or ()), *headers]  # no mapping: a name may stand there twice
                await (await rejected.send(key=event.key, value=event.value, headers=kept))

    return app.agent(topic, name="jobs.retraining")(retraining)
