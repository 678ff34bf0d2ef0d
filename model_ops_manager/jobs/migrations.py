"""How the table of an older job store becomes that of this version, its jobs kept.

A process of the version before goes on with a migrated store: every added column has a default.
"""

from sqlalchemy import Connection, text

# From version k to k + 1; statements that SQLite and PostgreSQL both know.
_STEPS: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE jobs ADD COLUMN priority INTEGER DEFAULT 0 NOT NULL",
        "ALTER TABLE jobs ADD COLUMN losses INTEGER DEFAULT 0 NOT NULL",
        "ALTER TABLE jobs ADD COLUMN settled JSON",
    ),
}
SCHEMA_VERSION = max(_STEPS) + 1


def migrate(connection: Connection, version: int) -> int:
    """Bring the tables from ``version`` as far as steps are known and return the version they have then.

    The caller holds the lock of the schema; the transaction makes all of it or nothing.
    """
    while version in _STEPS:
        for statement in _STEPS[version]:
            connection.execute(text(statement))
        version += 1
    return version
