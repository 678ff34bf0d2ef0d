"""What the job store is with its database: whose clock, whose schema, and rows of other versions."""

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, text, update
from sqlalchemy.engine import make_url

from ml_core.errors import JobStoreUnavailableError, SetupError
from ml_core.spec import parse
from ml_core.types import SECOND_NS, JobSpec, JobState
from model_ops_manager.jobs.database import jobs
from model_ops_manager.jobs.migrations import SCHEMA_VERSION

PIPELINE = parse({"name": "demo", "model": {"kind": "mlp", "params": {"width": 8}}})
SPEC = JobSpec(pipeline="demo")
OLD_SQLITE = pytest.mark.skipif(sqlite3.sqlite_version_info >= (3, 42), reason="this SQLite reads such numbers")


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)  # SQLite is of one machine, with one clock
def test_a_runner_whose_clock_is_ahead_takes_no_job_from_another(url, open_store, monkeypatch):
    store, now_ns = open_store(url), time.time_ns()
    store.submit(SPEC, PIPELINE)
    job = store.lease("right", 600)

    monkeypatch.setattr(time, "time_ns", lambda: now_ns + 3600 * SECOND_NS)

    assert store.lease("ahead", 600) is None
    assert store.heartbeat(job, 600).lease_until_ns < now_ns + 1200 * SECOND_NS
    assert store.get(job.id).losses == 0


def test_a_store_tells_the_time_by_itself(url, open_store):
    store, before_ns = open_store(url), time.time_ns()
    store.submit(SPEC, PIPELINE)
    job = store.finish(store.lease("runner", 10), JobState.SUCCEEDED, result={})

    times = (before_ns - 10**6, job.created_ns, job.started_ns, job.finished_ns, time.time_ns() + 10**6)
    assert list(times) == sorted(times)


@pytest.mark.parametrize(
    ("url", "value", "why"),
    [
        ("postgresql", "\0", "holds a character that is none"),
        ("postgresql", "\ud800", "holds a character that is none"),
        pytest.param("sqlite", float("nan"), "is not a finite number", marks=OLD_SQLITE),
        pytest.param("sqlite", [float("-inf")], "is not a finite number", marks=OLD_SQLITE),
    ],
    indirect=["url"],
)
def test_a_row_that_the_database_cannot_read_has_failed_and_blocks_neither_list_nor_queue(store, value, why):
    bad, over, good = (store.submit(SPEC, PIPELINE).id for _ in range(3))
    store.request_cancel(over)
    kept = {"width": 4, "note": "a \\u0000 that is spelled out, é", "NaN": "Infinity"}
    spec = {**SPEC.model_dump(mode="json", exclude={"priority"}), "params": {"name": value, **kept}}
    with store._database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id.in_([bad, over])).values(spec=spec))

    assert [job.id for job in store.list()] == [good, over, bad]
    assert store.lease("runner", 10).id == good
    failed = store.get(bad)
    assert (failed.state, failed.error, failed.error_type) == (JobState.FAILED, f"params: 'name' {why}", "InputError")
    assert failed.spec.params == kept
    assert store.get(over).state is JobState.CANCELLED


def test_stores_that_meet_an_empty_database_at_once_make_its_schema_once(url, open_store):
    gate = threading.Barrier(6)

    def use(_):
        store = open_store(url)
        gate.wait(20)
        return [store.submit(SPEC, PIPELINE).id for _ in range(3)]

    with ThreadPoolExecutor(6) as pool:
        ids = [job for part in pool.map(use, range(6)) for job in part]

    assert sorted(ids) == sorted(job.id for job in open_store(url).list())


def make_old(url):
    """Make the tables of a store what version 1 made them."""
    dropped = [f"ALTER TABLE jobs DROP COLUMN {column}" for column in ("priority", "losses", "settled")]
    execute(url, *dropped, "UPDATE jobs_schema SET version = 1")


def execute(url, *statements):
    engine = create_engine(make_url(url).set(drivername=url.split(":")[0].replace("postgresql", "postgresql+psycopg")))
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def test_an_old_store_goes_on_with_its_jobs_and_is_brought_up_once(url, open_store, clock):
    old = open_store(url, clock)
    done, waiting = (old.submit(SPEC, PIPELINE, key) for key in ("a", "b"))
    done = old.finish(old.lease("runner", 10), JobState.SUCCEEDED, result={"version": 1})
    make_old(url)
    gate = threading.Barrier(4)

    def use(_):
        store = open_store(url, clock)
        gate.wait(20)
        return store.submit(JobSpec(pipeline="demo", priority=1), PIPELINE, "new").id

    with ThreadPoolExecutor(4) as pool:
        (urgent,) = set(pool.map(use, range(4)))

    store = open_store(url, clock)
    assert store.get(done.id) == done
    assert store.get(waiting.id) == waiting
    assert store.submit(SPEC, PIPELINE, "b") == waiting
    assert [store.lease("runner", 10).id for _ in range(2)] == [urgent, waiting.id]
    with store._database.read() as connection:
        kept = connection.execute(text("SELECT spec FROM jobs LIMIT 1")).scalar()
        assert [name for name in ("pipeline", "priority", "predict") if name in kept] == ["pipeline"]
        assert connection.execute(text("SELECT version FROM jobs_schema")).scalars().all() == [SCHEMA_VERSION]


def test_another_schema_is_refused(url, store, open_store):
    store.ping()
    execute(url, "UPDATE jobs_schema SET version = 99")

    with pytest.raises(SetupError, match="schema 99"):
        open_store(url).ping()


def test_a_database_that_is_away_is_a_dependency_that_did_not_answer(tmp_path, open_store):
    store = open_store("postgresql://user:s3cret@127.0.0.1:1/jobs")
    with pytest.raises(JobStoreUnavailableError) as caught:
        store.ping()
    assert "s3cret" not in str(caught.value)

    (tmp_path / "jobs.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(JobStoreUnavailableError, match="not a database"):
        open_store(f"sqlite:///{tmp_path / 'jobs.db'}").ping()
