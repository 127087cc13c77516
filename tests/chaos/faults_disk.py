"""The disk of Postgres full, for some of it or for all, while runs are under way; then there is room again."""

from __future__ import annotations

import time

import requests
from sqlalchemy.exc import OperationalError

from store.errors import DatabaseError, classify
from tests.chaos.disks import Disk, PostgresOnADisk, PostgresWithADisk
from tests.chaos.faults_workers import under_way
from tests.chaos.stage import Stage, fault
from tests.processes import until

MEGABYTES = 24
MEGABYTES_FOR_ALL = 160
PAUSE = 2.0
"""Seconds that a source is paused for by a full disk, in place of a quarter of an hour."""

FULL_FOR = 6.0
PAUSED = """
    SELECT count(*) FROM sources WHERE paused_reason LIKE 'disk_full:%' AND paused_until > clock_timestamp()
"""

A_RUN = """
    INSERT INTO runs (id, source, kind, status, requested_by, finished_at)
    VALUES (gen_random_uuid(), 'csv_history', 'replay', 'cancelled', 'chaos', now())
"""


@fault("no room for quotes: the sources are paused, and resumed by time")
def no_room_for_quotes(stage: Stage) -> str:
    disk = _put_on_a_disk(stage, "ALTER TABLE quotes SET TABLESPACE small", PAUSE)
    under_way(stage, "csv_history", roles=("worker", "control"))
    _fill_until_paused(stage, disk)
    _assert_health_says_so(stage)
    disk.make_room()
    stage.settle()
    return _waits(stage)


@fault("no room for a page's temporary table: the sources are paused, and resumed by the API")
def no_room_for_copies(stage: Stage) -> str:
    """It is COPY that fails, whose error is the driver's own. The table is for quotes that are there already."""
    disk = _put_on_a_disk(stage, "ALTER DATABASE kasparro SET temp_tablespaces = 'small'", 3600)
    under_way(stage, "csv_history", "coingecko", roles=("worker", "control"))
    stage.settle()
    stage.request("csv_history", full_refresh=True)
    _fill_until_paused(stage, disk, full_refresh=True)
    _assert_health_says_so(stage)
    disk.make_room()
    for source in ("csv_history", "coingecko"):
        stage.api("POST", f"/sources/{source}/resume")
    stage.settle()
    return _waits(stage)


@fault("no room for any table, so not for the pause either")
def no_room_for_any_table(stage: Stage) -> str:
    disk = _put_on_a_disk(stage, "ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE small", PAUSE)
    stage.rows("ALTER INDEX ALL IN TABLESPACE pg_default SET TABLESPACE small")
    worker, *_ = under_way(stage, "csv_history", roles=("worker", "control", "beat"))
    with stage.outage():
        stage.hurt()
        ends_at = time.monotonic() + FULL_FOR
        while time.monotonic() < ends_at:  # what is freed meanwhile is taken as well
            disk.fill()
            _cram(stage, "INSERT INTO sources (name) VALUES (gen_random_uuid()::text)")
            _cram(stage, A_RUN)
        stage.hurt()
        disk.make_room()
    stage.rows("DELETE FROM runs WHERE requested_by = 'chaos'")
    stage.settle()
    in_vain = worker.log.read_text().count("disk_full")
    assert in_vain, "no worker met it"
    return f"{in_vain} tries in vain; {_waits(stage)}"


@fault("no room on the whole disk, write-ahead log and all: Postgres goes down, and is started again")
def no_room_at_all(stage: Stage) -> str:
    server = PostgresOnADisk(stage.folder / "servers", MEGABYTES_FOR_ALL)
    stage.use_postgres(server)
    for setting in ("max_wal_size = '32MB'", "min_wal_size = '32MB'", "fsync = off"):
        stage.rows(f"ALTER SYSTEM SET {setting}")
    stage.rows("SELECT pg_reload_conf()")
    stage.environ["DISK_FULL_PAUSE"] = str(PAUSE)
    worker, control = under_way(stage, "csv_history", roles=("worker", "control"))
    web = stage.web()
    with stage.outage():
        stage.hurt()
        server.disk.fill()
        until(lambda: _uses_log_until_down(stage), within=60, what="Postgres went down")
        down = requests.get(f"{web.url}/health", timeout=10).status_code
        time.sleep(FULL_FOR)
        server.disk.make_room()
        stage.hurt()
        server.start()
    stage.settle()
    assert not any(map(stage.has_ended, (worker, control)))
    return f"Postgres ended itself, /health said {down}; {_waits(stage)}"


def _put_on_a_disk(stage: Stage, statement: str, pause: float) -> Disk:
    server = PostgresWithADisk(stage.folder / "servers", MEGABYTES)
    stage.use_postgres(server)
    stage.rows(server.make_tablespace())
    stage.rows(statement)
    stage.environ["DISK_FULL_PAUSE"] = str(pause)
    return server.disk


def _fill_until_paused(stage: Stage, disk: Disk, **body: bool) -> None:
    """The source whose run is under way, and another one that comes later."""
    stage.hurt()
    until(lambda: _are_paused(stage, disk, 1), what="the source is paused")
    stage.request("coingecko", **body)
    until(lambda: _are_paused(stage, disk, 2), what="the other source is paused as well")


def _are_paused(stage: Stage, disk: Disk, sources: int) -> bool:
    disk.fill()  # what was freed meanwhile is taken as well
    return bool(stage.one(PAUSED) == sources)


def _assert_health_says_so(stage: Stage) -> None:
    checks = stage.api("GET", "/health")["checks"]
    assert checks["database"]["status"] == "degraded", checks
    assert checks["database"]["detail"].startswith("Its disk is full; "), checks
    for source in ("csv_history", "coingecko"):
        assert checks["sources"][source]["detail"].startswith("Paused until 2"), checks
        assert ": disk_full: " in checks["sources"][source]["detail"], checks


def _cram(stage: Stage, insert: str) -> None:
    """Fill the pages that a table has, down to the last row: there was room for small changes still."""
    try:
        while True:
            stage.rows(insert)
    except OperationalError as full:
        if classify(full) is not DatabaseError.FULL:
            raise


def _uses_log_until_down(stage: Stage) -> bool:
    try:
        stage.rows("SELECT pg_switch_wal(), pg_logical_emit_message(false, 'chaos', repeat('x', 100000))")
    except Exception:  # noqa: BLE001 — gone, or about to be
        return not stage.postgres.running
    return False


def _waits(stage: Stage) -> str:
    starts = stage.rows("SELECT source, claims FROM runs ORDER BY source")
    return ", ".join(f"{run.source} in {run.claims} starts" for run in starts)
