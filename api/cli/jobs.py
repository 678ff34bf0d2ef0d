"""`tickwise jobs`: jobs, straight from the job store, so it works without the server."""

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from api.cli.output import AsJson, dump, fields, note, table
from data_io.settings import CommonSettings
from ml_core.errors import DependencyError, InputError
from ml_core.spec import PipelineSpec, find, load_all
from ml_core.types import JobKind, JobSpec, JobState
from model_ops_manager.jobs.store import Job, JobStore

app = typer.Typer(no_args_is_help=True, help="Submit, list, watch and cancel jobs.", pretty_exceptions_enable=False)

POLL_S = 0.5
FAILED = 4

JobId = Annotated[str, typer.Argument(help="Id of the job.")]
Timeout = Annotated[float, typer.Option(min=0.1, max=604_800, help="Seconds to wait at most.")]


def _store() -> JobStore:
    return JobStore(CommonSettings.read().job_store_url)


@app.command()
def submit(
    pipeline: Annotated[str, typer.Option(help="Name of the pipeline.")],
    kind: Annotated[
        JobKind, typer.Option(help="batch: from scratch; incremental: on from the champion; tune: a study.")
    ] = JobKind.BATCH,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    priority: Annotated[int, typer.Option(min=-10, max=10, help="Higher ones are taken up first.")] = 0,
    pipelines: Annotated[Path | None, typer.Option(help="Pipeline file or folder.")] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key gives the same job.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it to its end.")] = False,
    timeout: Timeout = 3600.0,
    as_json: AsJson = False,
) -> None:
    """Submit a job that learns; a runner takes it up. With --wait exit code 4 when it failed or was cancelled."""
    if kind is JobKind.PREDICT:
        raise InputError("say what to predict, and where to: tickwise predict PIPELINE --out OUT --job")
    settings = CommonSettings.read(pipelines=pipelines)
    asked = {"pipeline": pipeline, "kind": kind, "seed": seed, "priority": priority, "trigger": "cli"}
    job = submit_spec(settings, find(load_all(settings.pipelines), pipeline), asked, key)
    if wait:
        _watch(JobStore(settings.job_store_url), job, timeout, as_json=as_json)
    else:
        show_job(job, as_json=as_json)


def submit_spec(settings: CommonSettings, pipeline: PipelineSpec, asked: dict[str, Any], key: str | None = None) -> Job:
    """Submit the job of the fields ``asked`` and return it.

    Raises:
        InputError: They make no job.
        TickwiseError: As ``JobStore.submit``.
    """
    try:
        spec = JobSpec.model_validate(asked)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(map(str, found["loc"]))
        raise InputError(f"{place + ': ' if place else ''}{found['msg'].removeprefix('Value error, ')}") from error
    with closing(JobStore(settings.job_store_url)) as store:
        return store.submit(spec, pipeline, key)


@app.command("list")
def list_jobs(
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    rows = [describe(job) for job in _store().list(state=state, limit=limit)]
    if as_json:
        dump(rows)
    else:
        table(
            rows, ("id", "pipeline", "kind", "trigger", "priority", "state", "attempt", "created_at"), empty="no jobs"
        )


@app.command()
def show(job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job."""
    show_job(_store().get(job_id), as_json=as_json)


@app.command()
def cancel(job_id: JobId, as_json: AsJson = False) -> None:
    """Ask for a job to stop."""
    show_job(_store().request_cancel(job_id), as_json=as_json)


@app.command()
def watch(job_id: JobId, timeout: Timeout = 3600.0, as_json: AsJson = False) -> None:
    """Follow a job to its end; exit code 4 when it failed or was cancelled."""
    store = _store()
    _watch(store, store.get(job_id), timeout, as_json=as_json)


def describe(job: Job) -> dict[str, Any]:
    """Return what is shown of a job, flat."""
    return {
        "id": job.id,
        **job.spec.model_dump(mode="json"),
        "state": str(job.state),
        "attempt": job.attempt,
        "progress": job.progress,
        "result": job.result,
        "error": job.error,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def show_job(job: Job, *, as_json: bool) -> None:
    """Print one job."""
    dump(describe(job)) if as_json else fields(describe(job))


def _watch(store: JobStore, job: Job, timeout_s: float, *, as_json: bool) -> None:
    deadline, told = time.monotonic() + timeout_s, ""
    while not job.state.is_final:
        line = f"{job.id} {job.state} {' '.join(f'{k}={v}' for k, v in (job.progress or {}).items())}".rstrip()
        if line != told:
            note(line)
            told = line
        if time.monotonic() > deadline:
            hint = "; is a runner up (tickwise runner)?" if job.state is JobState.QUEUED else ""
            raise DependencyError(f"{job.id} is still {job.state} after {timeout_s:g} s and goes on{hint}")
        time.sleep(POLL_S)
        job = store.get(job.id)
    show_job(job, as_json=as_json)
    if job.state is not JobState.SUCCEEDED:
        raise typer.Exit(FAILED)
