"""The database of the job store: SQLite or PostgreSQL, its one table, and transactions whose waits are bounded."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    cast,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from ml_core.errors import InputError, InvalidSettingsError, JobStoreUnavailableError, SetupError
from model_ops_manager.jobs.migrations import SCHEMA_VERSION, migrate

# For a lock, a statement or a connection: longer than any transaction here, shorter than a caller's patience.
WAIT_S = 10
_POOL: dict[str, Any] = {"pool_size": 4, "max_overflow": 4, "pool_timeout": WAIT_S}
_READS = "tickwise_reads"
_RETRY_S = 0.05
# Keys of PostgreSQL's advisory locks: "tick", "turn".
_SCHEMA_LOCK = 0x7469636B
_TURN_LOCK = 0x7475726E

metadata = MetaData()
jobs = Table(
    "jobs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("pipeline_name", String(63), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("pipeline", JSON, nullable=False),
    Column("folder", Text),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("losses", Integer, nullable=False, server_default="0"),
    Column("settled", JSON(none_as_null=True)),
    Column("runner", Text),
    Column("lease_until_ns", BigInteger),
    Column("cancel_requested", Boolean, nullable=False),
    Column("registering", Boolean, nullable=False),
    Column("idempotency_key", Text),
    Column("progress", JSON(none_as_null=True)),
    Column("result", JSON(none_as_null=True)),
    Column("error", Text),
    Column("error_type", Text),
    Column("created_ns", BigInteger, nullable=False),
    Column("started_ns", BigInteger),
    Column("finished_ns", BigInteger),
    UniqueConstraint("pipeline_name", "idempotency_key"),
    Index("jobs_by_state", "state", "id"),
    Index("jobs_by_pipeline", "pipeline_name", "id"),
)
_schema = Table("jobs_schema", metadata, Column("version", Integer, primary_key=True, autoincrement=False))


# not now(): a transaction may have waited for its turn since it began
_NOW_US = cast(func.extract("epoch", func.clock_timestamp()) * 1_000_000, BigInteger)


class Database:
    """Connections to one job store; safe to use from several threads. The schema is created on first use."""

    def __init__(self, url: str, clock_ns: Callable[[], int] | None = None) -> None:
        """Prepare; nothing is contacted yet. ``clock_ns`` tells the time in place of the database's clock.

        Raises:
            InvalidSettingsError: ``url`` names neither SQLite nor PostgreSQL. The message never holds a password.
            SetupError: The driver for PostgreSQL is not installed.
        """
        self._url = _checked(url)
        self.name = self._url.render_as_string(hide_password=True)
        self._engine = self._make_engine()
        self._clock_ns = clock_ns
        self._lock = Lock()
        self._is_ready = False

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection to look with.

        Raises:
            JobStoreUnavailableError: The database did not answer. A retry is safe.
        """
        self._prepare()
        with self._translated(), self._engine.execution_options(**{_READS: True}).begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield a connection inside a transaction that commits at the end of the block.

        Raises:
            JobStoreUnavailableError: The database did not answer. Whether the transaction was committed is unknown
                only when the commit itself got no answer.
            InputError: The database takes no such value, or cannot look into one it holds. A retry will not help.
            IntegrityError: A constraint was broken; the caller knows which.
        """
        self._prepare()
        with self._translated(), self._engine.begin() as connection:
            yield connection

    def now_ns(self, connection: Connection) -> int:
        """Return the time in ns since the epoch, on the one clock of all who share the database.

        SQLite is of one machine, so that its clock is the machine's.
        """
        if self._clock_ns is not None:
            return self._clock_ns()
        if connection.dialect.name == "postgresql":
            return int(connection.execute(select(_NOW_US)).scalar_one()) * 1000
        return time.time_ns()

    def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except DataError as error:
            raise _unfit(error) from error
        except SQLAlchemyError as error:
            if "malformed JSON" in str(getattr(error, "orig", "")):  # SQLite's DataError
                raise _unfit(error) from error
            raise self._away(getattr(error, "orig", None) or error) from error

    def _away(self, cause: BaseException) -> JobStoreUnavailableError:
        return JobStoreUnavailableError(f"the job store {self.name} did not do as asked: {str(cause).strip()}")

    def _make_engine(self) -> Engine:
        if self._url.get_backend_name() == "sqlite":
            engine = create_engine(self._url, connect_args={"timeout": WAIT_S}, **_POOL)
            event.listen(engine, "connect", _leave_transactions_to_us)
            event.listen(engine, "begin", _begin)
            return engine
        limits = {
            "connect_timeout": WAIT_S // 2,
            "options": f"-c statement_timeout={WAIT_S}s -c lock_timeout={WAIT_S}s",
            "tcp_user_timeout": WAIT_S * 1000,
        }
        try:
            return create_engine(self._url, connect_args=limits, pool_pre_ping=True, **_POOL)
        except ImportError as error:
            raise SetupError("PostgreSQL needs its driver: pip install 'tickwise[postgres]'") from error

    def _prepare(self) -> None:
        with self._lock:
            if self._is_ready:
                return
            if self._url.get_backend_name() == "sqlite":
                self._make_file()
            with self._translated(), self._engine.begin() as connection:
                self._create(connection)
            self._is_ready = True

    def _make_file(self) -> None:
        folder = Path(self._url.database or "").parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(f"cannot make the folder of the job store {self.name}: {error}") from error
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                _use_wal(self._url.database or "")
            except sqlite3.OperationalError as error:  # SQLite does not wait for others who change the mode
                if time.monotonic() > deadline:
                    raise self._away(error) from error
                time.sleep(_RETRY_S)
            except sqlite3.Error as error:
                raise self._away(error) from error
            else:
                return

    def _create(self, connection: Connection) -> None:
        _lock(connection, _SCHEMA_LOCK)
        if not inspect(connection).has_table(_schema.name):
            metadata.create_all(connection)
            connection.execute(insert(_schema).values(version=SCHEMA_VERSION))
        version = connection.execute(select(_schema.c.version)).scalar_one()
        if version < SCHEMA_VERSION:
            version = migrate(connection, version)
            connection.execute(update(_schema).values(version=version))
        if version != SCHEMA_VERSION:
            raise SetupError(
                f"the job store {self.name} has schema {version}, this version of tickwise needs {SCHEMA_VERSION}"
            )


def _unfit(error: SQLAlchemyError) -> InputError:
    cause = str(getattr(error, "orig", error)).strip().splitlines()[0]
    return InputError(f"the job store takes no such value: {cause}")


def take_turns(connection: Connection) -> None:
    """Wait until no other transaction that called this is open: what it counts stays so until its own commit."""
    _lock(connection, _TURN_LOCK)


def _lock(connection: Connection, key: int) -> None:
    if connection.dialect.name == "postgresql":  # SQLite holds its write lock since BEGIN IMMEDIATE
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _checked(url: str) -> URL:
    try:
        parsed = make_url(url)
    except SQLAlchemyError:
        raise InvalidSettingsError("TICKWISE_JOBS_URL is no database URL, such as sqlite:////folder/jobs.db") from None
    name = parsed.get_backend_name()
    if name == "sqlite" and parsed.database and parsed.database != ":memory:":
        return parsed
    if name == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise InvalidSettingsError(
        f"TICKWISE_JOBS_URL starts with {parsed.drivername!r}; give sqlite:///FILE or postgresql://HOST/DATABASE"
    )


def _use_wal(path: str) -> None:
    """Make the file one whose readers do not wait for its writer; it stays so."""
    with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _leave_transactions_to_us(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # else Python's driver begins late, and a lock taken late cannot be waited for


def _begin(connection: Connection) -> None:
    # A transaction that looks first, then writes, and finds another writer fails at once: no busy timeout helps. So
    # what may write begins as a writer.
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(_READS) else "BEGIN IMMEDIATE")
