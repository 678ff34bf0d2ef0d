"""Jobs as rows of a SQL database: who may change what, decided by compare-and-set."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, TypeVar

from sqlalchemy import ColumnElement, Connection, and_, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ml_core.errors import (
    IdempotencyConflictError,
    InputError,
    JobNotFoundError,
    JobStateError,
    JobStoreUnavailableError,
    LeaseLostError,
    QueueFullError,
)
from ml_core.spec import PipelineSpec
from ml_core.types import SECOND_NS, JobKind, JobSpec, JobState
from model_ops_manager.jobs import damage
from model_ops_manager.jobs.database import Database, jobs, take_turns
from model_ops_manager.jobs.job import Job, check_params, new_id
from model_ops_manager.jobs.quotas import NO_QUOTAS, Quotas

__all__ = ["Job", "JobStore"]

MAX_QUEUED = 1000
MAX_QUEUED_PER_PIPELINE = 250  # so that one pipeline does not shut out the others
MAX_LOSSES = 3  # a job that is killed or loses its runner so often is likely to be the cause
MAX_LIST = 1000
_MAX_ERROR_CHARACTERS = 4000

_KIND = jobs.c.spec["kind"].as_string()
_IS_KNOWN = _KIND.in_([kind.value for kind in JobKind])  # a store may be shared with a newer version
_T = TypeVar("_T")
FinalState = Literal[JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED]


class JobStore:
    """The jobs of all pipelines. Calls block, take ``database.WAIT_S`` at most, and are safe from several threads.

    Every method raises JobStoreUnavailableError when the database does not answer; a retry is safe.
    """

    def __init__(self, url: str, clock_ns: Callable[[], int] | None = None) -> None:
        """Use the database at the SQLAlchemy URL ``url``; nothing is contacted yet.

        Args:
            url: Of the database.
            clock_ns: Tells the time in place of the database's clock, by which every lease begins and ends.

        Raises:
            InvalidSettingsError, SetupError: As ``Database``.
        """
        self._database = Database(url, clock_ns)

    def submit(self, spec: JobSpec, pipeline: PipelineSpec, idempotency_key: str | None = None) -> Job:
        """Store a new job and return it; one with the same key and the same ``spec`` is returned as it stands.

        Raises:
            IdempotencyConflictError: The key was used before with another ``spec`` of this pipeline.
            QueueFullError: ``MAX_QUEUED`` jobs wait already, or ``MAX_QUEUED_PER_PIPELINE`` of this pipeline.
            InputError: ``pipeline`` is not the one that ``spec`` names, or says nothing of what the job is to do, or as
                ``check_params``.
        """
        if spec.pipeline != pipeline.name:
            raise InputError(f"the job names pipeline {spec.pipeline!r}, given was {pipeline.name!r}")
        if spec.kind is JobKind.TUNE and not pipeline.tune.space:
            raise InputError(
                f"pipeline {pipeline.name!r} declares no space to search; write [tune.space] into its file"
            )
        check_params(spec.params)
        row: dict[str, Any] = {
            "pipeline_name": spec.pipeline,
            "spec": _stored(spec),
            "pipeline": pipeline.model_dump(mode="json"),
            "folder": None if pipeline.folder is None else str(pipeline.folder),
            "state": JobState.QUEUED.value,
            "attempt": 0,
            "priority": spec.priority,
            "losses": 0,
            "cancel_requested": False,
            "registering": False,
            "idempotency_key": idempotency_key,
        }
        try:
            with self._database.write() as connection:
                known = _with_key(connection, spec.pipeline, idempotency_key)
                if known is None:
                    self._check_room(connection, spec.pipeline)
                    now_ns = self._database.now_ns(connection)
                    row |= {"id": new_id(now_ns), "created_ns": now_ns}
                    connection.execute(insert(jobs).values(row))
                    return _get(connection, row["id"])
        except IntegrityError:  # another process used the key between our look and our insert
            with self._database.read() as connection:
                known = _with_key(connection, spec.pipeline, idempotency_key)
        if known is None:
            raise JobStoreUnavailableError("a job was refused by the database and is not there either")
        if known.spec != spec:
            raise IdempotencyConflictError(
                f"the idempotency key {idempotency_key!r} was used for {known.id}, which asks for something else"
            )
        return known

    def get(self, job_id: str) -> Job:
        """Return one job.

        Raises:
            JobNotFoundError: There is none of this id. A retry will not help.
        """
        with self._database.read() as connection:
            return _get(connection, job_id)

    def list(
        self,
        state: JobState | None = None,
        limit: int = 50,
        before: str | None = None,
        *,
        pipeline: str | None = None,
        kinds: Collection[JobKind] | None = None,
    ) -> list[Job]:
        """Return jobs of kinds that this version knows, newest first.

        Args:
            state: Only jobs in this state.
            limit: At most so many, and never more than ``MAX_LIST``.
            before: Only jobs older than the one of this id: the last id of a page begins the next page.
            pipeline: Only jobs of this pipeline.
            kinds: Only jobs of these kinds.
        """
        query = select(jobs).where(_IS_KNOWN).order_by(jobs.c.id.desc()).limit(max(0, min(limit, MAX_LIST)))
        if state is not None:
            query = query.where(jobs.c.state == state.value)
        if before is not None:
            query = query.where(jobs.c.id < before)
        if pipeline is not None:
            query = query.where(jobs.c.pipeline_name == pipeline)
        if kinds is not None:
            query = query.where(jobs.c.spec["kind"].as_string().in_([kind.value for kind in kinds]))

        def look() -> list[Job]:
            with self._database.read() as connection:
                return [Job.of(dict(row)) for row in connection.execute(query).mappings()]

        return self._past_damage(look)

    def ping(self) -> None:
        """Return when the database answers."""
        with self._database.read() as connection:
            connection.execute(select(jobs.c.id).limit(1))

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._database.close()

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a waiting job, or ask a running one to stop; asking again changes nothing.

        A job whose cancellation is accepted here registers no model.

        Raises:
            JobNotFoundError: There is none of this id.
            JobStateError: It has succeeded or failed already, or is registering its model this moment.
        """
        with self._database.write() as connection:
            free = and_(jobs.c.id == job_id, jobs.c.registering.is_(False))
            waiting = and_(free, jobs.c.state == JobState.QUEUED)
            if not _change(connection, waiting, **self._final(connection, JobState.CANCELLED), cancel_requested=True):
                _change(connection, and_(free, jobs.c.state == JobState.RUNNING), cancel_requested=True)
            job = _get(connection, job_id)
        if not job.cancel_requested:
            what = f"has {job.state} already" if job.state.is_final else "is registering its model"
            raise JobStateError(f"{job_id} cannot be cancelled: it {what}")
        return job

    def lease(self, runner: str, seconds: float, quotas: Quotas = NO_QUOTAS) -> Job | None:
        """Give ``runner`` the waiting job whose turn it is for ``seconds``; None when there is none.

        The highest priority comes first, and of equal ones the oldest; a job past a quota is passed over, as is one of
        a kind that only a newer version knows. Jobs whose runner was lost wait again, at their old place, or have
        failed after ``MAX_LOSSES``.
        """
        return self._past_damage(lambda: self._lease(runner, seconds, quotas))

    def heartbeat(self, job: Job, seconds: float) -> Job:
        """Prolong the lease to ``seconds`` from now and return the job as it stands, with ``cancel_requested``.

        Raises:
            LeaseLostError: The job is not ``job.attempt``'s any more; its process must end.
        """
        with self._database.write() as connection:
            until_ns = self._database.now_ns(connection) + round(seconds * SECOND_NS)
            return _change_or_raise(connection, job, lease_until_ns=until_ns)

    def progress(self, job: Job, **progress: object) -> Job:
        """Store how far the job is, in place of what was stored before, and return the job as it stands.

        Raises:
            LeaseLostError: As ``heartbeat``.
        """
        return self._change_leased(job, progress=progress)

    def begin_registering(self, job: Job, **progress: object) -> bool:
        """Pass the point after which the job cannot be cancelled; False when it is to be cancelled instead.

        Raises:
            LeaseLostError: As ``heartbeat``.
        """
        with self._database.write() as connection:
            where = and_(_leased(job), jobs.c.cancel_requested.is_(False))
            if _change(connection, where, registering=True, progress=progress):
                return True
            _change_or_raise(connection, job, registering=False)
            return False

    def settle(self, job: Job, **settled: object) -> Job:
        """Store what every later attempt has to go by, such as the offsets that were found, and return the job.

        Raises:
            LeaseLostError: As ``heartbeat``.
        """
        return self._change_leased(job, settled=settled)

    def finish(
        self,
        job: Job,
        state: FinalState,
        *,
        result: dict[str, Any] | None = None,
        error: str | None = None,
        error_type: str | None = None,
    ) -> Job:
        """End the job and return it.

        Raises:
            LeaseLostError: As ``heartbeat``; nothing was changed.
        """
        error = None if error is None else error[:_MAX_ERROR_CHARACTERS]
        with self._database.write() as connection:
            final = self._final(connection, state)
            return _change_or_raise(connection, job, **final, result=result, error=error, error_type=error_type)

    def give_back(self, job: Job) -> Job:
        """Let the job wait for another runner, as a runner does that stops; one to be cancelled is cancelled.

        Raises:
            LeaseLostError: As ``heartbeat``.
        """
        with self._database.write() as connection:
            cancelled = and_(_leased(job), jobs.c.cancel_requested.is_(True))
            if not _change(connection, cancelled, **self._final(connection, JobState.CANCELLED)):
                _change_or_raise(connection, job, **_WAITING)
            return _get(connection, job.id)

    def retry(self, job: Job, error: str) -> Job:
        """Let the job wait for another attempt as its process was killed; after ``MAX_LOSSES`` it fails with ``error``.

        Raises:
            LeaseLostError: As ``heartbeat``.
        """
        with self._database.write() as connection:
            if not self._lose(connection, _leased(job), error):
                raise _lost(job)
            return _get(connection, job.id)

    def _lease(self, runner: str, seconds: float, quotas: Quotas) -> Job | None:
        with self._database.write() as connection:
            take_turns(connection)
            now_ns = self._database.now_ns(connection)
            self._take_back(connection, now_ns)
            first = (
                select(jobs.c.id)
                .where(jobs.c.state == JobState.QUEUED, _IS_KNOWN, *_within(connection, quotas))
                .order_by(jobs.c.priority.desc(), jobs.c.id)
                .limit(1)
                .with_for_update(skip_locked=True)  # PostgreSQL, where one is being cancelled
            )
            job_id = connection.execute(first).scalar()
            if job_id is None:
                return None
            _change(
                connection,
                and_(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED),
                state=JobState.RUNNING.value,
                attempt=jobs.c.attempt + 1,
                runner=runner,
                lease_until_ns=now_ns + round(seconds * SECOND_NS),
                started_ns=now_ns,
                progress=None,
            )
            return _get(connection, job_id)

    def _past_damage(self, act: Callable[[], _T]) -> _T:
        """Return what ``act`` returns, once rows are mended that the database cannot read."""
        try:
            return act()
        except InputError:
            with self._database.write() as connection:
                if not damage.mend(connection, self._database.now_ns(connection)):
                    raise
            return act()

    def _check_room(self, connection: Connection, pipeline: str) -> None:
        queued = select(func.count()).select_from(jobs).where(jobs.c.state == JobState.QUEUED)
        own = queued.where(jobs.c.pipeline_name == pipeline)
        for query, most, whose in (
            (own, MAX_QUEUED_PER_PIPELINE, f" of pipeline {pipeline!r}"),
            (queued, MAX_QUEUED, ""),
        ):
            if connection.execute(query).scalar_one() >= most:
                raise QueueFullError(f"{most} jobs{whose} wait already; cancel some, or start more runners")

    def _final(self, connection: Connection, state: JobState) -> dict[str, Any]:
        return {
            "state": state.value,
            "finished_ns": self._database.now_ns(connection),
            "lease_until_ns": None,
            "registering": False,
        }

    def _take_back(self, connection: Connection, now_ns: int) -> None:
        lost = and_(jobs.c.state == JobState.RUNNING, jobs.c.lease_until_ns < now_ns)
        self._lose(connection, lost, "its runner was lost while it ran")

    def _lose(self, connection: Connection, running: ColumnElement[bool], error: str) -> int:
        """Let jobs that lost their process wait for another attempt, or end those that have had theirs."""
        cancelled = and_(running, jobs.c.cancel_requested.is_(True))
        spent = and_(running, jobs.c.losses >= MAX_LOSSES - 1)
        text = f"{error[:_MAX_ERROR_CHARACTERS]}; {MAX_LOSSES} attempts were lost"
        count = _change(connection, cancelled, **self._final(connection, JobState.CANCELLED))
        count += _change(connection, spent, **self._final(connection, JobState.FAILED), losses=MAX_LOSSES, error=text)
        return count + _change(connection, running, **_WAITING, losses=jobs.c.losses + 1)

    def _change_leased(self, job: Job, **values: object) -> Job:
        with self._database.write() as connection:
            return _change_or_raise(connection, job, **values)


# Not `registering`: an attempt that was killed past that point may have registered.
_WAITING: dict[str, Any] = {
    "state": JobState.QUEUED.value,
    "runner": None,
    "lease_until_ns": None,
    "progress": None,
}


def _stored(spec: JobSpec) -> dict[str, Any]:
    """Return ``spec`` as its column holds it: nothing that a process of an older version would not understand.

    The priority has a column of its own, and what a kind of job does not have is absent.
    """
    absent = {name for name in ("predict",) if getattr(spec, name) is None}
    return spec.model_dump(mode="json", exclude={"priority", *absent})


def _leased(job: Job) -> ColumnElement[bool]:
    """Return what is true while nobody has taken the job from the attempt that ``job`` is."""
    return and_(jobs.c.id == job.id, jobs.c.state == JobState.RUNNING, jobs.c.attempt == job.attempt)


def _within(connection: Connection, quotas: Quotas) -> Sequence[ColumnElement[bool]]:
    """Return the conditions on a job that starts now, by what runs now."""
    if quotas == NO_QUOTAS:
        return []
    running = connection.execute(select(jobs.c.pipeline_name, _KIND).where(jobs.c.state == JobState.RUNNING))
    pipelines, kinds = quotas.full((name, found) for name, found in running)
    return [jobs.c.pipeline_name.not_in(pipelines), _KIND.not_in(kinds)]


def _change(connection: Connection, where: ColumnElement[bool], **values: object) -> int:
    return connection.execute(update(jobs).where(where).values(values)).rowcount


def _change_or_raise(connection: Connection, job: Job, **values: object) -> Job:
    if not _change(connection, _leased(job), **values):
        raise _lost(job)
    return _get(connection, job.id)


def _lost(job: Job) -> LeaseLostError:
    return LeaseLostError(f"{job.id} is not run by attempt {job.attempt} any more")


def _get(connection: Connection, job_id: str) -> Job:
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().first()
    if row is None:
        raise JobNotFoundError(f"no job {job_id[:64]!r}")
    return Job.of(dict(row))


def _with_key(connection: Connection, pipeline: str, key: str | None) -> Job | None:
    if key is None:
        return None
    query = select(jobs).where(jobs.c.pipeline_name == pipeline, jobs.c.idempotency_key == key)
    row = connection.execute(query).mappings().first()
    return None if row is None else Job.of(dict(row))
