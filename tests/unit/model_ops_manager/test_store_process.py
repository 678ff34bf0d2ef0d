import sqlite3
import time
from contextlib import closing

import pytest

from model_ops_manager.store_process import SETTLED_S, _file_of, stamp_of

LATER_S = SETTLED_S + 1


@pytest.fixture
def file(tmp_path):
    with closing(sqlite3.connect(tmp_path / "store.db")) as connection, connection:
        connection.execute("CREATE TABLE t (x)")
    return tmp_path / "store.db"


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_every_write_to_a_database_changes_its_stamp(file, journal) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
        before = stamp_of(file, time.time() + LATER_S)
        assert stamp_of(file, time.time() + LATER_S) == before is not None

        connection.execute("INSERT INTO t VALUES (1)")

        assert stamp_of(file, time.time() + LATER_S) != before


def test_what_was_written_just_now_has_no_stamp_and_nor_has_what_is_not_there(file, tmp_path) -> None:
    assert stamp_of(file, file.stat().st_mtime + SETTLED_S / 2) is None
    assert stamp_of(tmp_path / "nothing.db", time.time() + LATER_S) is None


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////folder/mlflow.db", "/folder/mlflow.db"),
        ("sqlite:///mlflow.db?timeout=5", "mlflow.db"),
        ("sqlite+pysqlite:////folder/a b.db", "/folder/a b.db"),
        ("sqlite://", None),
        ("http://127.0.0.1:5000", None),
        ("postgresql://user@host/mlflow", None),
    ],
)
def test_only_a_sqlite_store_has_a_file(uri, file) -> None:
    found = _file_of(uri)
    assert (found and str(found)) == file
