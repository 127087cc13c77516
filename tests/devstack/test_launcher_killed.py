"""Whoever started the servers may die in any way: nothing stays behind, or the next start clears it up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

from devstack.postgres import Postgres
from devstack.process import family, wait_gone

HERE = Path(__file__).parent
LAUNCHER, REFUSE = HERE / "launcher.py", HERE / "refuse_namespaces.py"
LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells a process that its parent died"
)
ROOT_ON_LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0,
    reason="it is root on Linux who must become somebody else",
)


@contextmanager
def launched(folder: Path, *before: str | Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A launcher with both servers up, and what it tells of them."""
    command = [sys.executable, *before, LAUNCHER, folder]
    env = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as launcher:
        try:
            assert launcher.stdout
            yield launcher, json.loads(launcher.stdout.readline())
        finally:
            launcher.kill()


def started_by(pids: Sequence[int]) -> list[psutil.Process]:
    return [process for pid in pids for process in family(pid)]


@LINUX
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_launcher_leaves_no_process(folder: Path, number: signal.Signals) -> None:
    with launched(folder) as (launcher, told):
        processes = started_by(told["pids"])
        launcher.send_signal(number)
        assert len(processes) > 2
        assert wait_gone(processes, 10) == []


def test_a_server_that_was_left_behind_is_stopped_at_the_next_start(folder: Path) -> None:
    with Postgres(folder) as server:
        left = family(server.pid or 0)
        os.close(server._lock or 0)  # as if its launcher had died where nobody is told
        server._lock = None
        with Postgres(folder) as other:
            assert wait_gone(left, 0) == []
            with psycopg2.connect(other.url) as connection:
                assert connection.info.dbname == "kasparro"
            connection.close()


@ROOT_ON_LINUX
def test_root_without_namespaces_runs_as_nobody_on_a_copy_where_only_root_may_pass(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    folder.parent.chmod(0o700)
    with launched(folder, REFUSE, sys.executable) as (launcher, told):
        assert told["account"] == "nobody"
        assert psutil.Process(told["pids"][0]).username() == "nobody"
        assert (folder / "pgdata").is_symlink()
        private = Path(told["data"]).parents[1]
        assert private.parent == Path("/var/tmp")
        assert private.stat().st_mode & 0o007 == 0
        processes = started_by(told["pids"])
        launcher.kill()
        assert wait_gone(processes, 10) == []
    with Postgres(folder) as server:  # and now as somebody else, on the same data
        assert server.account.name != "nobody"
        psycopg2.connect(server.url).close()
    server.erase()
    assert not private.exists()


@ROOT_ON_LINUX
def test_root_without_namespaces_keeps_the_data_in_its_folder_where_nobody_may_pass() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "data"
        with launched(folder, REFUSE, sys.executable) as (launcher, told):
            assert told["account"] == "nobody"
            assert Path(told["data"]).is_relative_to(folder)
            processes = started_by(told["pids"])
            launcher.kill()
            assert wait_gone(processes, 10) == []
        Postgres(folder).erase()
