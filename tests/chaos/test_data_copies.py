"""Test that a server can be set back to a copy of its data."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import psycopg2

from devstack.postgres import Postgres
from tests.chaos.data_copies import DataCopy
from tests.servers import memory_folder


def run_sql(server: Postgres, statement: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(server.url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def test_a_restored_copy_lacks_exactly_the_later_commits() -> None:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        server = Postgres(Path(folder))
        try:
            with server:
                copy = DataCopy(server)
                run_sql(server, "CREATE TABLE numbers AS SELECT 1 AS number")
                copy.take()
                for number in (2, 3):  # The copy can be restored again.
                    run_sql(server, f"INSERT INTO numbers VALUES ({number})")
                    copy.restore()
                    assert run_sql(server, "SELECT number FROM numbers") == [(1,)]
        finally:
            server.erase()
