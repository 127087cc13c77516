"""Test the commands of the stack: `up` starts everything, `down` stops everything, and errors name their cause."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
import requests

from devstack.environment import MARK
from devstack.process import wait_gone
from tests.devstack.stack import STAND_IN, Devstack, finish, mark, stack_file, stack_processes, wait_until


def test_up_starts_a_stack_that_restarts_components_and_down_ends_all_processes(
    devstack: Devstack, folder: Path
) -> None:
    code, output = finish(devstack("up"))
    assert code == 0, output
    stack = stack_file(folder)
    assert (folder / "stack.json").stat().st_mode & 0o777 == 0o600
    assert {
        "api",
        "token",
        "flower",
        "flower_user",
        "flower_password",
        "database_url",
        "redis_url",
        "pids",
    } <= stack.keys()
    assert "stand_in       succeeded: 7 items" in output
    assert stack["token"] in output
    assert "recordings in sample_data/" in output
    assert requests.get(f"{stack['api']}/health", timeout=5).json()["has_key"] is False

    code, output = finish(devstack("up"))
    assert (code, stack["api"] in output) == (0, True)
    assert "already running" in output

    show = f"import os; print(os.environ['DATABASE_URL'], os.environ.get('{MARK}'))"
    assert finish(devstack("exec", "--", "python", "-c", show)) == (0, f"{stack['database_url']} None\n")
    assert finish(devstack("exec", "no-such-command")) == (127, "no-such-command: No such file or directory.\n")
    # SIGPIPE ends the command, as usual.
    assert finish(devstack("exec", "sh", "-c", "kill -PIPE $$; echo goes on")) == (-signal.SIGPIPE, "")

    psutil.Process(stack["pids"]["worker"]).kill()
    wait_until(lambda: stack_file(folder)["pids"]["worker"] != stack["pids"]["worker"])
    assert stack_file(folder)["pids"]["web"] == stack["pids"]["web"]

    processes = stack_processes(folder)
    assert finish(devstack("down"))[0] == 0
    assert wait_gone(processes, 0) == []
    assert not (folder / "stack.json").exists()
    assert finish(devstack("status"))[0] == 3
    assert finish(devstack("exec", "python", "-c", show)) == (3, "Not running. `make up` starts it.\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ending_run_ends_all_processes_that_it_started(
    devstack: Devstack, folder: Path, number: signal.Signals
) -> None:
    with devstack("run") as command:
        assert command.stdout
        assert any("Press Ctrl-C to stop" in line for line in command.stdout)
        processes = stack_processes(folder)
        command.send_signal(number)
        command.communicate(timeout=60)
    assert len(processes) > 10
    assert wait_gone(processes, 20) == []
    assert command.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0)


def test_a_failed_up_shows_the_log_of_the_component_that_did_not_start(devstack: Devstack, folder: Path) -> None:
    code, output = finish(devstack("up", flower="echo the reason; exit 7"))
    assert code == 1
    assert "flower ended during its start" in output
    assert "the reason" in output
    remaining = [process for process in psutil.process_iter() if process.is_running() and mark(process) == str(folder)]
    assert wait_gone(remaining, 20) == []


def test_a_component_that_keeps_ending_stays_down_and_the_others_go_on(devstack: Devstack, folder: Path) -> None:
    """The first run never finishes, since its worker keeps ending."""
    until_serving = f"until [ -e '{folder}/stack.json' ]; do sleep 0.05; done"
    worker = f"{until_serving}; echo the reason; exit 7"
    code, output = finish(devstack("up", worker=worker, status="running"))
    assert code == 1
    assert "worker ended 6 times within 60 s and stays down. The end of" in output
    assert "the reason" in output
    stack = stack_file(folder)
    assert "worker" not in stack["pids"]
    assert requests.get(f"{stack['api']}/health", timeout=5).ok
    assert all(psutil.pid_exists(pid) for pid in stack["pids"].values())
    code, output = finish(devstack("status"))
    assert (code, "worker ended 6 times" in output, "postgres     running" in output) == (1, True, True)


def test_a_stranger_that_takes_the_port_of_the_api_never_gets_the_token(devstack: Devstack, tmp_path: Path) -> None:
    requests_file = tmp_path / "requests"
    server = f"{STAND_IN.removeprefix('exec ')} WEB_PORT succeeded '{requests_file}'"
    stranger = f"(setsid {server} > '{tmp_path}/log' 2>&1 &)"
    until_asked = f"until [ -s '{requests_file}' ]; do sleep 0.1; done"
    code, output = finish(devstack("up", web=f"{stranger}; {until_asked}; sleep 2"))
    assert (code, "web ended during its start" in output) == (1, True), output
    assert set(requests_file.read_text().splitlines()) == {"/health None"}


def test_up_succeeds_if_a_first_run_fails_and_points_to_its_log(devstack: Devstack, folder: Path) -> None:
    code, output = finish(devstack("up", status="failed"))
    assert code == 0, output
    assert f"see {stack_file(folder)['api']}/runs/1 and {folder / 'logs' / 'worker.log'}" in output
    assert finish(devstack("status"))[0] == 0


def test_a_failed_up_shows_no_logs_of_earlier_starts(devstack: Devstack) -> None:
    assert "an earlier reason" in finish(devstack("up", flower="echo an earlier reason; exit 7"))[1]
    output = finish(devstack("up", flower="echo the reason; exit 7"))[1]
    assert "the reason" in output
    assert "earlier" not in output


def test_up_during_a_down_does_not_report_the_stopping_stack_as_running(devstack: Devstack, folder: Path) -> None:
    slow_to_stop = f"trap 'sleep 3; exit' TERM; {STAND_IN} FLOWER_PORT succeeded & wait"
    assert finish(devstack("up", flower=slow_to_stop))[0] == 0
    down = devstack("down")
    wait_until(lambda: not (folder / "stack.json").exists())
    code, output = finish(devstack("up"))
    assert (code, "starting or stopping" in output) == (1, True)
    assert finish(down)[0] == 0
