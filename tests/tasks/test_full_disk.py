"""Test that sources pause and runs wait while the disk of Postgres is full, and continue afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from tasks.runs.pausing import pause_source, resume_source
from tests.processes import until
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item


class Disk:
    """A disk that can be full: Postgres then reports an error for writes to the chosen tables."""

    def __init__(self, bench: Bench):
        self._bench, self._full = bench, set[str]()

    def fill(self, table: str, code: str = "disk_full") -> None:
        self._full.add(table)
        self._bench.rows(f"""
            CREATE OR REPLACE FUNCTION refuse_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE USING ERRCODE = '{code}', MESSAGE = 'could not extend file "base/1/2"'; END $$;
            CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION refuse_write();
        """)

    def make_space(self) -> None:
        for table in self._full:
            self._bench.rows(f"DROP TRIGGER refuse_write ON {table}")
        self._full.clear()


@pytest.fixture
def disk(bench: Bench) -> Iterator[Disk]:
    disk = Disk(bench)
    yield disk
    disk.make_space()
    bench.rows("DROP FUNCTION IF EXISTS refuse_write")


PAUSES = "SELECT name, paused_reason, paused_until - clock_timestamp() AS time_left FROM sources ORDER BY name"


def test_a_full_disk_pauses_each_source_that_writes_to_it(bench: Bench, disk: Disk) -> None:
    disk.fill("quotes")
    runs = [bench.ingest(canned([item()], name=name)) for name in ("first", "second")]
    for run, pause in zip(runs, bench.rows(PAUSES), strict=True):
        assert (run["status"], run["waits"]) == ("waiting", 0)
        assert run["waiting_reason"].startswith("disk_full: Postgres reported disk_full (53100); next attempt at 2")
        assert pause["paused_reason"] == (
            f"disk_full: Postgres reported disk_full (53100); to end the pause, POST /sources/{pause['name']}/resume"
        )
        assert 0 <= bench.settings.disk_full_pause - pause["time_left"].total_seconds() < 5
        assert run["next_attempt_at"] is not None
    disk.make_space()
    for run in runs:
        resume_source(bench.engine, run["source"])
        assert bench.slice(run["id"])["status"] == "succeeded"
    assert bench.one("SELECT count(*) FROM quotes") == 2


def test_the_pause_after_a_full_disk_ends_by_itself(bench: Bench, disk: Disk) -> None:
    run = bench.request(canned([item()]))
    disk.fill("quotes")
    assert bench.slice(run, disk_full_pause=0.1)["status"] == "waiting"
    disk.make_space()
    until(lambda: bench.slice(run)["status"] == "succeeded")


def test_a_run_waits_even_if_the_pause_cannot_be_written(bench: Bench, disk: Disk) -> None:
    run = bench.request(canned([item()]))
    disk.fill("quotes")
    disk.fill("sources")
    with pytest.raises(DBAPIError, match="could not extend file"):
        bench.slice(run)
    assert bench.run(run)["status"] == "waiting"
    assert bench.one("SELECT paused_reason FROM sources") is None


def test_the_reconciler_requeues_a_run_if_no_table_can_be_written(bench: Bench, disk: Disk) -> None:
    def fill(number: int) -> None:
        for table in ("quotes", "sources", "runs"):
            disk.fill(table)

    run = bench.request(canned([item()], before=fill))
    with pytest.raises(DBAPIError, match="could not extend file"):
        bench.slice(run)
    assert bench.run(run)["status"] == "running"
    disk.make_space()
    bench.register(canned([item()]))
    bench.let_leases_run_out()
    assert bench.slice(run)["status"] == "succeeded"


def test_a_full_disk_during_a_copy_pauses_the_source(bench: Bench) -> None:
    """COPY raises errors of the driver, not of SQLAlchemy."""

    def fill(connection: Any, _: object) -> None:
        with closing(connection.cursor()) as cursor:
            cursor.execute("CREATE TEMPORARY TABLE staged_quotes (LIKE quotes) ON COMMIT DELETE ROWS")
            cursor.execute("""
                CREATE FUNCTION pg_temp.refuse_write() RETURNS trigger LANGUAGE plpgsql
                    AS $$ BEGIN RAISE USING ERRCODE = 'disk_full'; END $$;
                CREATE TRIGGER refuse_write BEFORE INSERT ON staged_quotes EXECUTE FUNCTION pg_temp.refuse_write();
            """)
        connection.commit()

    bench.ingest(canned([item()]))
    bench.engine.dispose()
    event.listen(bench.engine, "connect", fill)
    run = bench.ingest(canned([item(price="2")]))
    assert run["waiting_reason"].startswith("disk_full: ")
    assert bench.one("SELECT paused_reason FROM sources").startswith("disk_full: ")


def test_a_full_disk_does_not_shorten_an_operators_pause(bench: Bench, disk: Disk) -> None:
    run = bench.request(canned([item()], before=lambda _: pause_source(bench.engine, "canned", None, "moving house")))
    disk.fill("quotes")
    assert bench.slice(run)["status"] == "waiting"
    assert bench.one("SELECT paused_reason FROM sources") == "moving house"


def test_a_database_error_that_indicates_a_bug_fails_the_run(bench: Bench, disk: Disk) -> None:
    disk.fill("quotes", "division_by_zero")
    run = bench.ingest(canned([item()]))
    assert (run["status"], run["error_code"]) == ("failed", "internal_error")
