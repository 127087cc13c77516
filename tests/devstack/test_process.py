"""Test that a process ends together with all processes that it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from devstack.process import family, is_gone, last_lines, listens_on, same_user, spawn, terminate, wait_gone
from tests.devstack.stack import wait_until

PARENT = "trap 'exit 3' TERM; sleep 600 & echo ready; wait"


def start(log: Path, script: str) -> subprocess.Popen[bytes]:
    process = spawn(
        same_user(), ["/bin/sh", "-c", script], log=log, death_signal=signal.SIGKILL, env=os.environ, cwd="/"
    )
    wait_until(lambda: "ready" in log.read_text())
    return process


def test_terminating_a_process_also_ends_its_children(tmp_path: Path) -> None:
    process = start(tmp_path / "log", PARENT)
    processes = family(process.pid)
    assert len(processes) == 2
    terminate(process, signal.SIGTERM, grace=10)
    assert process.returncode == 3
    assert wait_gone(processes, 0) == []


def test_a_process_that_ignores_its_signal_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    process = start(tmp_path / "log", "trap '' TERM; echo ready; while :; do sleep 600; done")
    processes = family(process.pid)
    terminate(process, signal.SIGTERM, grace=0)
    assert process.returncode == -signal.SIGKILL
    assert wait_gone(processes, 0) == []


def test_a_spawned_process_leads_its_session_and_has_a_private_log(tmp_path: Path) -> None:
    process = start(tmp_path / "log", PARENT)
    try:
        assert os.getsid(process.pid) == process.pid
        assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    finally:
        terminate(process, signal.SIGTERM, grace=10)


def test_a_zombie_counts_as_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    [child] = family(process.pid)
    wait_until(lambda: is_gone(child))
    process.wait()
    assert family(process.pid) == []


def test_last_lines_ignores_everything_before_the_offset(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_lines(log) == ""
    log.write_text("before\n" + "".join(f"{number}\n" for number in range(20)))
    assert last_lines(log, 2) == "18\n19"
    assert last_lines(log, 30, since=len("before\n")).splitlines()[0] == "0"


def test_an_account_reports_whether_it_can_run_a_command_and_write_to_a_folder(tmp_path: Path) -> None:
    account = same_user()
    assert account.can_run("/bin/sh", "-c", "exit 0")
    assert not account.can_run("/bin/sh", "-c", "exit 1")
    assert not account.can_run("/nothing/here")
    assert account.can_write_in(tmp_path)
    assert not account.can_write_in(tmp_path / "missing")


def test_a_port_belongs_to_the_process_that_listens_on_it_or_to_its_parents() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listens_on(os.getpid(), port)
        with subprocess.Popen(["sleep", "60"]) as other:
            assert not listens_on(other.pid, port)
            other.kill()
    assert not listens_on(os.getpid(), port)
    assert not listens_on(None, port)
