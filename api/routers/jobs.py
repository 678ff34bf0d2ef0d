"""Jobs: submit, list, read, cancel, watch."""

from datetime import datetime
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from api.errors import Responses, responses
from api.job_events import EventSlot, job_events
from api.parts import PartsOf
from ml_core.errors import InputError, NotEnoughDataError
from ml_core.spec import find
from ml_core.types import JobKind, JobSpec, JobState, PredictSpec
from model_ops_manager.jobs.store import Job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

POLL_AFTER_S = 1  # a job lasts seconds at least
JOB_EXAMPLE: dict[str, Any] = {
    "id": "train-01JD8Z0V6W7X8Y9Z0A1B2C3D4E",
    "pipeline": "demo",
    "kind": "batch",
    "trigger": "api",
    "seed": 0,
    "priority": 0,
    "ranges": None,
    "params": {},
    "predict": None,
    "state": "running",
    "attempt": 1,
    "progress": {"stage": "train", "epoch": 3, "epochs": 20},
    "result": {},
    "error": None,
    "created_at": "2026-11-24T10:00:00Z",
    "started_at": "2026-11-24T10:00:01Z",
    "finished_at": None,
    "links": {
        "self": "/v1/jobs/train-01JD8Z0V6W7X8Y9Z0A1B2C3D4E",
        "events": "/v1/jobs/train-01JD8Z0V6W7X8Y9Z0A1B2C3D4E/events",
        "cancel": "/v1/jobs/train-01JD8Z0V6W7X8Y9Z0A1B2C3D4E:cancel",
    },
}


class JobOut(BaseModel):
    """One job."""

    model_config = ConfigDict(json_schema_extra={"examples": [JOB_EXAMPLE]})

    id: str
    pipeline: str
    kind: JobKind
    trigger: str = Field(description="what started it")
    seed: int
    priority: int = Field(description="higher ones are taken up first")
    ranges: list[dict[str, int]] | None = Field(description="tick offsets it was asked to use")
    params: dict[str, Any] = Field(description="model parameters that replace the pipeline file's")
    predict: PredictSpec | None = Field(description="of a job of kind predict: which ticks, and where to")
    state: JobState
    attempt: int = Field(description="how often a runner took it up")
    progress: dict[str, Any]
    result: dict[str, Any] = Field(
        description="of a job that succeeded: model version, metrics and decision, or version and counts of predictions"
    )
    error: str | None = Field(description="of a job that failed: why")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: dict[str, str]

    @classmethod
    def of(cls, job: Job) -> Self:
        """Return what a caller sees of a stored job."""
        return cls(
            **job.spec.model_dump(mode="json"),
            id=job.id,
            state=job.state,
            attempt=job.attempt,
            progress=job.progress or {},
            result=job.result or {},
            error=job.error,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            links={
                "self": f"/v1/jobs/{job.id}",
                "events": f"/v1/jobs/{job.id}/events",
                "cancel": f"/v1/jobs/{job.id}:cancel",
            },
        )


class JobList(BaseModel):
    """One page of jobs, newest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"jobs": [JOB_EXAMPLE], "next": None}]})

    jobs: list[JobOut]
    next: str | None = Field(description="`cursor` of the following page; null on the last one")


IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[!-~]{1,255}$",
        description="the same key with the same body gives the first job again; with another body 409",
    ),
]


def check_request(spec: JobSpec) -> None:
    """Refuse what no job can do.

    Raises:
        NotEnoughDataError: A range holds no tick.
        InputError: A partition is named twice.
    """
    if spec.ranges is None:
        return
    if not spec.ranges or any(part.start >= part.end for part in spec.ranges):
        raise NotEnoughDataError("a range holds no tick: each needs start < end; leave them out for the usual ones")
    partitions = [part.partition for part in spec.ranges]
    if len(set(partitions)) < len(partitions):
        raise InputError("ranges names a partition twice; give one range for each")


@router.post("", operation_id="submit_job", status_code=202, responses=responses(404, 409, 503))
def submit_job(spec: JobSpec, response: Response, parts: PartsOf, idempotency_key: IdempotencyKey = None) -> JobOut:
    """Ask for a job; a runner takes it up. `Location` is where to look, `Retry-After` when."""
    if spec.trigger != "api":
        raise InputError("trigger is 'api' for jobs submitted here; leave it out")
    check_request(spec)
    job = parts.jobs.submit(spec, find(parts.pipelines, spec.pipeline), idempotency_key)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    response.headers["Retry-After"] = str(POLL_AFTER_S)
    return JobOut.of(job)


@router.get("", operation_id="list_jobs", responses=responses(404, 503))
def list_jobs(
    response: Response,
    parts: PartsOf,
    state: JobState | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=64, description="`next` of the page before")] = None,
) -> JobList:
    """List jobs, newest first."""
    found = parts.jobs.list(state=state, limit=limit + 1, before=cursor)
    page, more = found[:limit], len(found) > limit
    following = page[-1].id if more else None
    if following:
        kept = f"&state={state}" if state else ""
        response.headers["Link"] = f'</v1/jobs?limit={limit}{kept}&cursor={following}>; rel="next"'
    return JobList(jobs=[JobOut.of(job) for job in page], next=following)


@router.get("/{job_id}", operation_id="get_job", responses=responses(404, 503))
def get_job(job_id: str, parts: PartsOf) -> JobOut:
    """Return one job."""
    return JobOut.of(parts.jobs.get(job_id))


@router.post("/{job_id}:cancel", operation_id="cancel_job", status_code=202, responses=responses(404, 409, 503))
def cancel_job(job_id: str, parts: PartsOf) -> JobOut:
    """Ask for a job to stop; asking again changes nothing. A job that is done already gives 409."""
    return JobOut.of(parts.jobs.request_cancel(job_id))


EVENTS: Responses = {
    200: {
        "description": "one event a change, `done` last; comments while nothing changes",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'event: progress\nid: 5f1c\ndata: {"state": "running", "progress": {"epoch": 3}}\n\n',
            }
        },
    }
}


def _known(job_id: str, parts: PartsOf) -> Job:
    return parts.jobs.get(job_id)


@router.get(
    "/{job_id}/events",
    operation_id="watch_job",
    response_class=StreamingResponse,
    responses={**responses(404, 503), **EVENTS},
)
async def watch_job(
    job: Annotated[Job, Depends(_known)],
    slot: EventSlot,
    last_event_id: Annotated[str | None, Header(max_length=64, description="id of the last event seen")] = None,
) -> Response:
    """Follow a job as server-sent events until its final state; an event holds the job as `get_job` gives it.

    Events are states, not a log: after a lost connection the newest state comes, unless `Last-Event-ID` names it. A
    caller that has seen the final state gets 204, which tells a browser to stop asking.
    """
    return job_events(job, slot, last_event_id, lambda each: JobOut.of(each).model_dump_json())
