"""Run the commands of `python -m devstack`: start the stack, stop it, and show what it does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import psutil
from rich.console import Console

from devstack.environment import LIVE, MARK, RECORDED, RECORDED_PATHS, data_folder, upstream
from devstack.first_runs import BROKEN, LOADED, NoFirstRuns, Run, describe_run, first_runs
from devstack.logs import LogReader
from devstack.postgres import Postgres
from devstack.process import family, is_gone, kill, last_lines, listens_on, wait_gone
from devstack.stack_lock import end_leftovers, lock_holder
from devstack.state_folder import StateFolder
from devstack.supervised import STOP_DEADLINE, Supervised

INTERRUPTED = 130
NOT_RUNNING = 3
COMMAND_NOT_RUN, COMMAND_NOT_FOUND = 126, 127  # The exit codes that shells use.

output = Console(highlight=False, soft_wrap=True, markup=False)
progress = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


class Interrupted(BaseException):
    """The user pressed Ctrl-C or closed the terminal, or the command received SIGTERM."""


def up(environ: Mapping[str, str]) -> int:
    """Start everything in the background, and run each source once."""
    folder = data_folder(environ)
    if lock_holder(folder):
        return _show_running(folder)
    with _started(folder, environ) as supervised:
        runs = _first_runs(supervised)
        supervised.keep()
    _show_summary(folder, runs)
    return 1 if _show_failed(folder) else 0


def run(environ: Mapping[str, str]) -> int:
    """Start everything in the foreground, and show the logs until Ctrl-C."""
    folder = data_folder(environ)
    if lock_holder(folder):
        return _show_running(folder)
    with _started(folder, environ) as supervised:
        reader = LogReader(folder / "logs")
        _show_summary(folder, _first_runs(supervised))
        progress.print("Press Ctrl-C to stop.")
        failed: set[str] = set()
        while supervised.process.poll() is None:
            if _failed(folder).keys() - failed:
                failed = _show_failed(folder)
            for line in reader.new_lines():
                output.print(line)
            time.sleep(0.2)
        raise supervised.failure("The stack ended.", "supervisor")


def down(environ: Mapping[str, str]) -> int:
    """Stop everything in order, and keep the data."""
    folder = data_folder(environ)
    supervisor = lock_holder(folder)
    if supervisor is None:
        if folder.exists():
            end_leftovers(folder)
        progress.print("Nothing is running.")
        return 0
    processes = family(supervisor.pid)
    supervisor.send_signal(signal.SIGTERM)
    if wait_gone([supervisor], STOP_DEADLINE):
        kill(processes)
    end_leftovers(folder)
    progress.print(f"Stopped. The data stays in {folder}.")
    return 0


def status(environ: Mapping[str, str]) -> int:
    """Show the state of each process, the addresses and the token. Return 1 if a component stays down."""
    folder = data_folder(environ)
    stack = _read_stack(folder)
    if stack is None:
        is_locked = lock_holder(folder) is not None
        progress.print("The stack is starting or stopping." if is_locked else "Not running. `make up` starts it.")
        return NOT_RUNNING
    for name, pid in stack["pids"].items():
        is_alive = psutil.pid_exists(pid) and not is_gone(psutil.Process(pid))
        output.print(f"  {name:<12} {'running' if is_alive else 'ended'}, process {pid}")
    _show_addresses(stack)
    return 1 if _show_failed(folder) else 0


def logs(environ: Mapping[str, str], *, follow: bool) -> int:
    """Show the last lines of every log. With --follow, also show new lines until Ctrl-C."""
    reader = LogReader(data_folder(environ) / "logs", last=20)
    while True:
        for line in reader.new_lines():
            output.print(line)
        if not follow:
            return 0
        time.sleep(0.2)


def execute(environ: Mapping[str, str], command: Sequence[str]) -> int:
    """Run a command with the settings of the running stack, such as `python -m tasks replay coingecko --diff`."""
    folder = data_folder(environ)
    stack = _read_stack(folder)
    if stack is None:
        progress.print("Not running. `make up` starts it.")
        return NOT_RUNNING
    settings: dict[str, str] = {}
    with suppress(psutil.Error, ValueError):
        settings = psutil.Process(stack["pids"].get("web", -1)).environ()
    # Remove the mark, so that `make down` does not end the command.
    mark = settings.pop(MARK, None)
    if mark is None or not Path(mark).samefile(folder):
        progress.print("The API is restarting, and the command needs its settings. Try again in a moment.")
        return NOT_RUNNING
    # Python ignores SIGPIPE, and the command would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(command[0], list(command), settings)
    except OSError as error:
        progress.print(f"{command[0]}: {error.strerror}.")
        return COMMAND_NOT_FOUND if isinstance(error, FileNotFoundError) else COMMAND_NOT_RUN


def clean(environ: Mapping[str, str]) -> int:
    """Stop everything and delete its data, including data outside the data folder."""
    folder = data_folder(environ)
    down(environ)
    if folder.exists():
        Postgres(folder).erase()
        shutil.rmtree(folder)
    return 0


@contextmanager
def _started(folder: Path, environ: Mapping[str, str]) -> Iterator[Supervised]:
    """Start the stack and yield it. Stop it after any error in the block."""
    upstreams = "recorded upstreams" if upstream(environ) == RECORDED else "the real upstreams"
    StateFolder(folder)
    progress.print(f"Starting Kasparro with {upstreams}:")
    supervised = Supervised(folder, environ)
    try:
        supervised.wait_until_serving(lambda step: progress.print(f"  {step}"))
        yield supervised
    except BaseException:
        progress.print("Stopping what was started …")
        supervised.stop()
        raise


def _first_runs(supervised: Supervised) -> list[Run]:
    """Run each source once. A failed run does not fail the start: the user needs the stack to find the reason."""
    stack = _read_stack(supervised.folder)
    if stack is None:
        raise supervised.failure("The stack ended just after it started.", "supervisor")
    port = urlsplit(stack["api"]).port or 0
    if not listens_on(stack["pids"].get("web"), port):
        raise supervised.failure(f"The API does not listen on port {port}; another program may use it.", "web")
    progress.print("First run of each source:")
    try:
        return first_runs(
            stack["api"],
            stack["token"],
            supervised.started_at,
            progress,
            is_given_up=lambda: bool(_failed(supervised.folder)),
        )
    except NoFirstRuns as error:
        raise supervised.failure(str(error), "web") from None


def _show_running(folder: Path) -> int:
    stack = _read_stack(folder)
    if stack is None:
        progress.print("Another command is starting or stopping the stack. Try again in a moment.")
        return 1
    progress.print(
        "Kasparro is already running. To apply a change, such as a new source, run `make down` and `make up`."
    )
    _show_addresses(stack)
    return 0


def _read_stack(folder: Path) -> dict[str, Any] | None:
    """Return the running stack's addresses, token and process ids, or None if no stack is serving."""
    file = folder / "stack.json"
    if lock_holder(folder) is None or not file.exists():
        return None
    stack: dict[str, Any] = json.loads(file.read_text())
    return stack


def _failed(folder: Path) -> dict[str, str]:
    """Return the components of the running stack that stay down, each with the reason."""
    stack = _read_stack(folder) or {}
    return dict(stack.get("failed", {}))


def _show_failed(folder: Path) -> set[str]:
    """Show the components that stay down, and return their names."""
    failed = _failed(folder)
    for name, reason in failed.items():
        log = folder / "logs" / f"{name}.log"
        output.print(f"\n  {name} {reason}. The end of {log}:\n{last_lines(log)}")
    if failed:
        output.print("\nThe other components go on. To start it again, run `make down` and `make up`.")
    return set(failed)


def _show_summary(folder: Path, runs: list[Run]) -> None:
    stack = _read_stack(folder)
    if stack is None:
        return
    output.print("\nKasparro is up. First runs:")
    for first_run in runs:
        output.print(f"  {first_run['source']:<14} {describe_run(first_run)}")
        if first_run["status"] == BROKEN:
            output.print(
                f"{'':<16} see {stack['api']}/sources/{first_run['id']}; correct it, then run `make down` and `make up`"
            )
        elif first_run["status"] not in LOADED:
            output.print(f"{'':<16} see {stack['api']}/runs/{first_run['id']} and {folder / 'logs' / 'worker.log'}")
    _show_addresses(stack)
    output.print("\nTry:")
    output.print(f"  curl '{stack['api']}/data/latest?asset=bitcoin'")
    output.print(f"  curl '{stack['api']}/stats'")
    output.print(
        f"  curl -X POST {stack['api']}/runs -H 'Authorization: Bearer {stack['token']}'"
        " -H 'Content-Type: application/json' -d '{\"source\": \"coingecko\"}'"
    )
    output.print("\n`make logs` shows the logs, `make down` stops everything.")


def _show_addresses(stack: Mapping[str, Any]) -> None:
    output.print(f"\n  API      {stack['api']}")
    output.print(f"  Docs     {stack['api']}/docs")
    output.print(f"  Flower   {stack['flower']}   user {stack['flower_user']}, password {stack['flower_password']}")
    output.print(f"  Token    {stack['token']}   (needed for writes)")
    if stack["upstream"] != LIVE:
        recorded = " and ".join(source.lower() for source in RECORDED_PATHS)
        output.print(f"\n  {recorded} get recordings in sample_data/, with current times and changing prices.")
        output.print("  Every other HTTP source uses its real upstream. To use real upstreams for all sources,")
        output.print("  run `make down` and then `make up UPSTREAM=live`.")
        if ignored := stack.get("ignored"):
            output.print(f"  Without effect because of the recordings: {', '.join(ignored)}.")


def catch_interrupts() -> None:
    """Raise Interrupted on the first SIGINT, SIGTERM or SIGHUP, and ignore later ones, so that stopping can finish.

    This works even if the process was started with SIGINT ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: Any) -> NoReturn:
    for later in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(later, lambda *_: None)
    raise Interrupted
