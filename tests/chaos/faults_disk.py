"""Fill the disk of Postgres, partly or completely, during runs, and then free space again."""

from __future__ import annotations

import time

import requests
from sqlalchemy.exc import OperationalError

from store.errors import DatabaseError, classify
from tests.chaos.faults_workers import start_runs
from tests.chaos.registry import fault
from tests.chaos.small_disks import Disk, PostgresOnSmallDisk, PostgresWithSmallTablespace
from tests.chaos.stage import Stage
from tests.processes import until

TABLESPACE_MEGABYTES = 24
SERVER_MEGABYTES = 160
PAUSE = 2.0
"""Seconds that a full disk pauses a source. The default is 15 minutes."""

FULL_FOR = 6.0
"""Seconds that the disk stays full."""
COUNT_PAUSED = """
    SELECT count(*) FROM sources WHERE paused_reason LIKE 'disk_full:%' AND paused_until > clock_timestamp()
"""

INSERT_RUN = """
    INSERT INTO runs (id, source, kind, status, requested_by, finished_at)
    VALUES (gen_random_uuid(), 'csv_history', 'replay', 'cancelled', 'chaos', now())
"""


@fault("disk full for quotes: sources pause and resume by themselves")
def no_room_for_quotes(stage: Stage) -> str:
    disk = _use_small_tablespace(stage, "ALTER TABLE quotes SET TABLESPACE small", PAUSE)
    start_runs(stage, "csv_history", roles=("worker", "control"))
    _fill_until_paused(stage, disk)
    _assert_health_reports_full_disk(stage)
    disk.make_room()
    stage.settle()
    return _summary(stage)


@fault("disk full for a page's temporary table: sources pause until the API resumes them")
def no_room_for_copies(stage: Stage) -> str:
    """Make COPY fail with a driver error. Only a reload of existing quotes uses the temporary table."""
    disk = _use_small_tablespace(stage, "ALTER DATABASE kasparro SET temp_tablespaces = 'small'", 3600)
    start_runs(stage, "csv_history", "coingecko", roles=("worker", "control"))
    stage.settle()
    stage.request("csv_history", full_refresh=True)
    _fill_until_paused(stage, disk, full_refresh=True)
    _assert_health_reports_full_disk(stage)
    disk.make_room()
    for source in ("csv_history", "coingecko"):
        stage.api("POST", f"/sources/{source}/resume")
    stage.settle()
    return _summary(stage)


@fault("disk full for all tables: not even the pause can be stored")
def no_room_for_any_table(stage: Stage) -> str:
    disk = _use_small_tablespace(stage, "ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE small", PAUSE)
    stage.rows("ALTER INDEX ALL IN TABLESPACE pg_default SET TABLESPACE small")
    worker, *_ = start_runs(stage, "csv_history", roles=("worker", "control", "beat"))
    with stage.outage():
        stage.mark_fault()
        ends_at = time.monotonic() + FULL_FOR
        while time.monotonic() < ends_at:  # Also fill space that was freed meanwhile.
            disk.fill()
            _fill_table(stage, "INSERT INTO sources (name) VALUES (gen_random_uuid()::text)")
            _fill_table(stage, INSERT_RUN)
        stage.mark_fault()
        disk.make_room()
    stage.rows("DELETE FROM runs WHERE requested_by = 'chaos'")
    stage.settle()
    failures = worker.log.read_text().count("disk_full")
    assert failures, "no worker ran out of disk space"
    return f"{failures} failed attempts; {_summary(stage)}"


@fault("disk full including the write-ahead log: Postgres shuts down and is restarted")
def no_room_at_all(stage: Stage) -> str:
    server = PostgresOnSmallDisk(stage.folder / "servers", SERVER_MEGABYTES)
    stage.use_postgres(server)
    for setting in ("max_wal_size = '32MB'", "min_wal_size = '32MB'", "fsync = off"):
        stage.rows(f"ALTER SYSTEM SET {setting}")
    stage.rows("SELECT pg_reload_conf()")
    stage.environ["DISK_FULL_PAUSE"] = str(PAUSE)
    worker, control = start_runs(stage, "csv_history", roles=("worker", "control"))
    web = stage.web()
    with stage.outage():
        stage.mark_fault()
        server.disk.fill()
        until(lambda: _write_log_until_down(stage), within=60, what="Postgres shut down")
        status = requests.get(f"{web.url}/health", timeout=10).status_code
        time.sleep(FULL_FOR)
        server.disk.make_room()
        stage.mark_fault()
        server.start()
    stage.settle()
    assert not any(map(stage.has_ended, (worker, control)))
    return f"Postgres shut down, /health returned {status}; {_summary(stage)}"


def _use_small_tablespace(stage: Stage, statement: str, pause: float) -> Disk:
    server = PostgresWithSmallTablespace(stage.folder / "servers", TABLESPACE_MEGABYTES)
    stage.use_postgres(server)
    stage.rows(server.tablespace_statement())
    stage.rows(statement)
    stage.environ["DISK_FULL_PAUSE"] = str(pause)
    return server.disk


def _fill_until_paused(stage: Stage, disk: Disk, **body: bool) -> None:
    """Keep the disk full until the running source is paused. Then request another source, until it is paused, too."""
    stage.mark_fault()
    until(lambda: _are_paused(stage, disk, 1), what="the source is paused")
    stage.request("coingecko", **body)
    until(lambda: _are_paused(stage, disk, 2), what="the other source is paused, too")


def _are_paused(stage: Stage, disk: Disk, sources: int) -> bool:
    disk.fill()  # Also fill space that was freed meanwhile.
    return bool(stage.scalar(COUNT_PAUSED) == sources)


def _assert_health_reports_full_disk(stage: Stage) -> None:
    checks = stage.api("GET", "/health")["checks"]
    assert checks["database"]["status"] == "degraded", checks
    assert checks["database"]["detail"].startswith("Its disk is full; "), checks
    for source in ("csv_history", "coingecko"):
        assert checks["sources"][source]["detail"].startswith("Paused until 2"), checks
        assert ": disk_full: " in checks["sources"][source]["detail"], checks


def _fill_table(stage: Stage, insert: str) -> None:
    """Insert rows until the table's last page is full. Otherwise small changes would still fit."""
    try:
        while True:
            stage.rows(insert)
    except OperationalError as error:
        if classify(error) is not DatabaseError.DISK_FULL:
            raise


def _write_log_until_down(stage: Stage) -> bool:
    try:
        stage.rows("SELECT pg_switch_wal(), pg_logical_emit_message(false, 'chaos', repeat('x', 100000))")
    except Exception:  # noqa: BLE001 — the server is down or going down
        return not stage.postgres.running
    return False


def _summary(stage: Stage) -> str:
    runs = stage.rows("SELECT source, claims FROM runs ORDER BY source")
    return ", ".join(f"{run.source} in {run.claims} starts" for run in runs)
