"""The databases that a job store is made for, and a clock that tests move."""

import itertools

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from ml_core.types import SECOND_NS
from model_ops_manager.jobs.store import JobStore
from tests.integration.postgres import postgres

START_NS = 1_700_000_000 * SECOND_NS


class Clock:
    def __init__(self) -> None:
        self.now_ns = START_NS

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += round(seconds * SECOND_NS)


@pytest.fixture(scope="session")
def postgres_url():
    with postgres() as url:
        yield url


_numbers = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs' / 'jobs.db'}"
    server = make_url(request.getfixturevalue("postgres_url"))
    name = f"test{next(_numbers)}"
    engine = create_engine(server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def open_store():
    """Open further stores; all are closed at the end, for an open connection is a warning."""
    opened = []

    def open_one(*args):
        opened.append(JobStore(*args))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(url, clock, open_store):
    return open_store(url, clock)
