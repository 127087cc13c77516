"""Compare the revision of the database's schema with the migrations of this version.

During an upgrade, new processes may meet the old schema, and old processes the new one. Migrations only expand the
schema, so old processes keep working. New processes wait for the migration.
"""

from __future__ import annotations

import time
from pathlib import Path
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from store.errors import SchemaBehind, classify, sqlstate

# Read the names of the files, since importing Alembic and every migration would slow the start of each process.
REVISIONS = tuple(
    sorted(file.name.partition("_")[0] for file in (Path(__file__).parent / "migrations/versions").glob("[0-9]*_*.py"))
)
"""Every revision that this version knows, oldest first."""

HEAD = REVISIONS[-1]
"""The revision that this version needs."""

CATCH_UP_SECONDS = 10.0
"""Seconds after a migration in which the old schema may still explain an error of an earlier statement."""

_last_behind: WeakKeyDictionary[Engine, float] = WeakKeyDictionary()
"""When each engine last saw a schema that was behind (monotonic seconds)."""


def read_revision(connection: Connection) -> str | None:
    """Return the revision of the database's schema, or None if the database has no tables."""
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def is_behind(revision: str | None) -> bool:
    """Return whether a schema of this revision lacks a migration of this version."""
    return revision is None or (revision in REVISIONS and revision != HEAD)


def is_newer(revision: str | None) -> bool:
    """Return whether a newer version has migrated the schema."""
    return revision is not None and revision not in REVISIONS


def behind(revision: str | None) -> SchemaBehind:
    """Return the error that describes a schema which is behind."""
    state = f"The schema has revision {revision}" if revision else "The database has no tables of Kasparro"
    return SchemaBehind(f"{state}, and this version needs {HEAD}. Run `alembic upgrade head`.")


def explain(engine: Engine, error: Exception) -> Exception:
    """Return SchemaBehind if the schema may be the cause of a database error. Otherwise, return the error itself.

    Call this after the end of the failed transaction. This queries the database only for an error that would otherwise
    count as a bug.
    """
    if sqlstate(error) is None or classify(error) is not None:
        return error
    try:
        with engine.connect() as connection:
            revision = read_revision(connection)
    except SQLAlchemyError:
        return error
    if is_behind(revision):
        _last_behind[engine] = time.monotonic()
        return behind(revision)
    if time.monotonic() < _last_behind.get(engine, -CATCH_UP_SECONDS) + CATCH_UP_SECONDS:
        return SchemaBehind(f"The schema was migrated to revision {revision} while a statement ran. Try again.")
    return error
