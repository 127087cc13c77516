"""Run the checks in batches of at most one second.

The database stores the position, so that any process can continue.
"""

from __future__ import annotations

import time
from typing import Any

import structlog
from psycopg2 import errorcodes
from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import DBAPIError

from store.errors import sqlstate
from tasks.integrity.checks import CHECKS, Check

log = structlog.get_logger()

CHECK_SECONDS = 0.3
"""Seconds after which a check starts no further batch, so that sweeps of the reconciler are not delayed."""

BITE_TIMEOUT_MS = 1000

# ON CONFLICT alone would wait while another process checks a batch.
_ADD = text("""
    INSERT INTO integrity (name) SELECT :name WHERE NOT EXISTS (SELECT FROM integrity WHERE name = :name)
    ON CONFLICT DO NOTHING
""")

_TAKE = text("""
    SELECT position, found, example FROM integrity WHERE name = :name FOR UPDATE SKIP LOCKED
""")

_CONTINUE = text("""
    UPDATE integrity SET position = :position, found = :found, example = :example WHERE name = :name
""")

_COMPLETE = text("""
    UPDATE integrity
       SET position = NULL, found = 0, example = NULL, violations = :found, last_example = :example,
           completed_at = service_time()
     WHERE name = :name
""")

_SKIP_RUN = text("""
    SELECT id::text FROM runs WHERE id > CAST(:position AS uuid) AND finished_at IS NOT NULL ORDER BY id LIMIT 1
""")


def verify_data(engine: Engine) -> None:
    """Check a few batches with each check. A complete check starts again at the next call."""
    for check in CHECKS:
        deadline = time.monotonic() + CHECK_SECONDS
        while _bite(engine, check) and time.monotonic() < deadline:
            pass


def _bite(engine: Engine, check: Check) -> bool:
    """Check one batch. Return whether the check has more batches, or False if another process is checking one."""
    with engine.begin() as connection:
        connection.execute(_ADD, {"name": check.name})
        taken = connection.execute(_TAKE, {"name": check.name}).one_or_none()
        if taken is None:
            return False
        position = taken.position or check.start
        result = _count(connection, check, position)
        last = result.position if result else connection.scalar(_SKIP_RUN, {"position": position})
        found = taken.found + (result.violations if result else 0)
        values = {"name": check.name, "found": found, "example": taken.example or (result.example if result else None)}
        if last is None:
            connection.execute(_COMPLETE, values)
        else:
            connection.execute(_CONTINUE, {**values, "position": last})
    if last is None and found:
        log.error("integrity_violated", check=check.name, count=found, example=values["example"])
    return last is not None


def _count(connection: Connection, check: Check, position: str) -> Row[Any] | None:
    """Count the violations in a batch. Return None if a run has too many quotes to count."""
    try:
        with connection.begin_nested():
            connection.execute(text(f"SET LOCAL statement_timeout = {BITE_TIMEOUT_MS}"))
            return connection.execute(text(check.query), {"position": position, "bite": check.bite}).one()
    except DBAPIError as error:
        if sqlstate(error) != errorcodes.QUERY_CANCELED or check.bite > 1:
            raise
        return None
