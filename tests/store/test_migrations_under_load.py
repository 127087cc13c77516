"""Migrations wait for pages that are being committed, and neither side fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg2
import pytest

from tests.processes import ROOT, until

WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"


@pytest.fixture
def alembic(database_url: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Yield a function that starts an Alembic command on the test's database."""
    started = []
    environ = {**os.environ, "DATABASE_URL": database_url}

    def start(*command: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "alembic", *command]
        process = subprocess.Popen(argv, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def count_waiting(database_url: str) -> int:
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(WAITING)
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def test_a_migration_waits_for_a_page_without_a_deadlock(
    alembic: Callable[..., subprocess.Popen[str]], database_url: str
) -> None:
    assert alembic("downgrade", "0012").communicate() is not None
    with closing(psycopg2.connect(database_url)) as page, page.cursor() as cursor:
        cursor.execute("LOCK TABLE checkpoints, runs IN ROW EXCLUSIVE MODE")
        migration = alembic("upgrade", "head")
        until(lambda: count_waiting(database_url) > 0)
        for table in ("raw_bodies", "quotes", "latest_quotes", "rejects", "validators", "pages"):
            cursor.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")
        page.commit()
    _, errors = migration.communicate(timeout=60)
    assert (migration.returncode, errors) == (0, "")


def test_a_migration_lets_other_pages_through_while_it_waits_for_a_long_one(
    alembic: Callable[..., subprocess.Popen[str]], database_url: str
) -> None:
    assert alembic("downgrade", "0012").communicate() is not None
    with closing(psycopg2.connect(database_url)) as long_page, long_page.cursor() as cursor:
        cursor.execute("LOCK TABLE pages IN ROW EXCLUSIVE MODE")
        migration = alembic("upgrade", "head")
        until(lambda: count_waiting(database_url) > 0)
        with closing(psycopg2.connect(database_url)) as other, other.cursor() as other_cursor:
            other_cursor.execute("SET lock_timeout = '15s'")
            other_cursor.execute("LOCK TABLE quotes IN ROW EXCLUSIVE MODE")
            other.commit()
        assert migration.poll() is None
    _, errors = migration.communicate(timeout=60)
    assert (migration.returncode, errors) == (0, "")
