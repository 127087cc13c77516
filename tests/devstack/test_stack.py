"""The stack as a whole: comes up in one command, stays up, and leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from devstack.environment import MARK, WrongEnvironment, for_processes, read_environment
from devstack.process import wait_gone

HERE = Path(__file__).parent
STAND_IN = f"exec {sys.executable} {HERE / 'stand_in.py'}"
OURS = ("DATABASE_URL", "REDIS_URL", "API_TOKEN", "WEB_PORT", "FLOWER_PORT", "FLOWER_BASIC_AUTH", "UPSTREAM")

Stack = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def devstack(folder: Path, tmp_path: Path) -> Iterator[Stack]:
    """Runs `python -m devstack`, with a Procfile of stand-ins."""

    def command(
        *arguments: str, flower: str = f"{STAND_IN} FLOWER_PORT succeeded", ending: str = "succeeded"
    ) -> subprocess.Popen[str]:
        procfile = tmp_path / "Procfile"
        procfile.write_text(f"web: {STAND_IN} WEB_PORT {ending}\nworker: exec sleep 600\nflower: {flower}\n")
        env = {name: value for name, value in os.environ.items() if name not in OURS}
        env |= {"KASPARRO_DATA": str(folder), "PROCFILE": str(procfile), "COINGECKO_API_KEY": "must-not-be-seen"}
        return subprocess.Popen(
            [sys.executable, "-m", "devstack", *arguments],
            cwd=HERE.parents[1],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    yield command
    if folder.exists():
        command("down").communicate(timeout=60)


def said(command: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = command.communicate(timeout=60)
    return command.returncode, output


def stack(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "stack.json").read_text())
    return told


def everything(folder: Path) -> list[psutil.Process]:
    supervisor = psutil.Process(stack(folder)["pids"]["supervisor"])
    return [supervisor, *supervisor.children(recursive=True)]


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_up_returns_with_a_stack_that_heals_and_down_leaves_no_process(devstack: Stack, folder: Path) -> None:
    code, output = said(devstack("up"))
    assert code == 0, output
    told = stack(folder)
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
    } <= told.keys()
    assert "stand_in       succeeded: 7 items" in output
    assert told["token"] in output
    assert "replayed from sample_data/" in output
    assert requests.get(f"{told['api']}/health", timeout=5).json()["has_key"] is False

    code, output = said(devstack("up"))
    assert (code, told["api"] in output) == (0, True)
    assert "running already" in output

    show = f"import os; print(os.environ['DATABASE_URL'], os.environ.get('{MARK}'))"
    assert said(devstack("exec", "--", "python", "-c", show)) == (0, f"{told['database_url']} None\n")
    assert said(devstack("exec", "no-such-command")) == (127, "no-such-command: No such file or directory.\n")
    # Who stops reading ends it, as is usual.
    assert said(devstack("exec", "sh", "-c", "kill -PIPE $$; echo goes on")) == (-signal.SIGPIPE, "")

    psutil.Process(told["pids"]["worker"]).kill()
    wait_until(lambda: stack(folder)["pids"]["worker"] != told["pids"]["worker"])
    assert stack(folder)["pids"]["web"] == told["pids"]["web"]

    processes = everything(folder)
    assert said(devstack("down"))[0] == 0
    assert wait_gone(processes, 0) == []
    assert not (folder / "stack.json").exists()
    assert said(devstack("status"))[0] == 3
    assert said(devstack("exec", "python", "-c", show)) == (3, "Not running. `make up` starts it.\n")


def test_a_supervisor_killed_with_all_its_honchos_leaves_nothing_over_the_next_down(
    devstack: Stack, folder: Path
) -> None:
    assert said(devstack("up"))[0] == 0
    processes = everything(folder)
    for process in processes[:1] + [one for one in processes if "honcho" in " ".join(one.cmdline())]:
        process.kill()
    assert said(devstack("down"))[0] == 0
    assert wait_gone(processes, 10) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_run_ends_with_everything_it_started(devstack: Stack, folder: Path, number: signal.Signals) -> None:
    with devstack("run") as command:
        assert command.stdout
        assert any("Ctrl-C stops it" in line for line in command.stdout)
        processes = everything(folder)
        command.send_signal(number)
        command.communicate(timeout=60)
    assert len(processes) > 10
    assert wait_gone(processes, 20) == []
    assert command.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0)


def test_up_fails_with_the_log_of_the_part_that_did_not_come_up(devstack: Stack, folder: Path) -> None:
    code, output = said(devstack("up", flower="echo the reason; exit 7"))
    assert code == 1
    assert "flower ended while it was started" in output
    assert "the reason" in output
    left = [one for one in psutil.process_iter() if one.is_running() and marked(one) == str(folder)]
    assert wait_gone(left, 0) == []


def test_up_stays_up_where_a_first_run_fails_and_says_where_to_look(devstack: Stack, folder: Path) -> None:
    code, output = said(devstack("up", ending="failed"))
    assert code == 0, output
    assert f"see {stack(folder)['api']}/runs/1 and {folder / 'logs' / 'worker.log'}" in output
    assert said(devstack("status"))[0] == 0


def test_up_that_fails_shows_no_logs_of_earlier_starts(devstack: Stack) -> None:
    assert "an earlier reason" in said(devstack("up", flower="echo an earlier reason; exit 7"))[1]
    output = said(devstack("up", flower="echo the reason; exit 7"))[1]
    assert "the reason" in output
    assert "earlier" not in output


def test_up_beside_a_down_calls_no_dying_stack_running(devstack: Stack, folder: Path) -> None:
    lingers = f"trap 'sleep 3; exit' TERM; {STAND_IN} FLOWER_PORT succeeded & wait"
    assert said(devstack("up", flower=lingers))[0] == 0
    down = devstack("down")
    wait_until(lambda: not (folder / "stack.json").exists())
    code, output = said(devstack("up"))
    assert (code, "starting or stopping" in output) == (1, True)
    assert said(down)[0] == 0


def marked(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except psutil.Error:
        return None


def test_the_environment_wins_over_dotenv_and_empty_is_unset(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=from-file\nB='from file'\nC=from-file\n")
    read = read_environment({"A": "real", "C": " "}, tmp_path)
    assert read == {"A": "real", "B": "from file", "C": "from-file"}


def test_a_broken_dotenv_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A='never closed\n")
    with pytest.raises(WrongEnvironment, match=r"\.env cannot be read"):
        read_environment({}, tmp_path)


def test_a_replayed_stack_knows_neither_keys_nor_real_addresses(tmp_path: Path) -> None:
    real = {"COINGECKO_API_KEY": "k", "COINGECKO_PLAN": "pro", "COINPAPRIKA_URL": "https://api.coinpaprika.com/v1"}
    seen = for_processes(real, tmp_path, chosen={}, replay="http://127.0.0.1:1")
    assert seen.keys().isdisjoint({"COINGECKO_API_KEY", "COINGECKO_PLAN"})
    assert seen["COINPAPRIKA_URL"] == "http://127.0.0.1:1/coinpaprika/v1"
    assert for_processes(real, tmp_path, chosen={}, replay=None).items() >= real.items()
