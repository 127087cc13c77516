"""Test the common behavior of Postgres and Valkey: they run on loopback and leave no process behind."""

from __future__ import annotations

import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg2
import pytest

from devstack.postgres import Postgres
from devstack.process import family, wait_gone
from devstack.server import FolderInUse, Server
from devstack.state_folder import is_port_free
from devstack.valkey import Valkey

KINDS = pytest.mark.parametrize("kind", [Postgres, Valkey])


@KINDS
def test_stopping_a_server_ends_its_processes_and_closes_its_port(folder: Path, kind: type[Server]) -> None:
    with kind(folder) as server:
        assert server.pid
        processes = family(server.pid)
        assert processes
        assert not is_port_free(server.port)
    assert wait_gone(processes, 5) == []
    assert is_port_free(server.port)


@KINDS
def test_a_server_listens_on_loopback_only(folder: Path, kind: type[Server]) -> None:
    with kind(folder) as server:
        addresses = [connection.laddr for connection in psutil.net_connections("inet") if connection.laddr]
        assert {address.ip for address in addresses if address.port == server.port} == {"127.0.0.1"}


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # A child of the server may have ended meanwhile.
        return ""


@KINDS
def test_the_password_is_in_no_command_line(folder: Path, kind: type[Server]) -> None:
    with kind(folder) as server:
        password = urlsplit(server.url).password
        assert password
        assert server.pid
        command_lines = [_command_line(process) for process in family(server.pid)]
        assert any(command_lines)
        assert [line for line in command_lines if password in line] == []
    files = list((folder / "kept").iterdir())
    assert files
    assert {path.stat().st_mode & 0o077 for path in files} == {0}


@KINDS
def test_a_server_avoids_a_used_port_and_stores_its_chosen_port(
    folder: Path, tmp_path: Path, kind: type[Server]
) -> None:
    with Valkey(tmp_path / "other") as other, kind(folder, other.port) as server:
        chosen = server.port
        assert chosen != other.port
    with kind(folder, other.port) as server:
        assert server.port == chosen


def test_a_folder_has_one_launcher_at_a_time(folder: Path) -> None:
    with Valkey(folder), pytest.raises(FolderInUse, match="Another process is running valkey"):
        Valkey(folder).start()


def test_a_start_with_existing_data_takes_less_than_three_seconds(folder: Path) -> None:
    with Postgres(folder), Valkey(folder):
        pass
    started_at = time.monotonic()
    with Postgres(folder), Valkey(folder):
        seconds = time.monotonic() - started_at
    assert seconds < 3  # about 0.3 s on an idle machine


def test_the_next_start_stops_a_server_that_was_left_running(folder: Path) -> None:
    with Postgres(folder) as server:
        processes = family(server.pid or 0)
        os.close(server._lock or 0)  # Simulate a dead launcher without a death signal.
        server._lock = None
        with Postgres(folder) as other:
            assert wait_gone(processes, 0) == []
            with psycopg2.connect(other.url) as connection:
                assert connection.info.dbname == "kasparro"
            connection.close()
