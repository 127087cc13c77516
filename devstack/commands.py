"""What `python -m devstack` can do: bring the stack up, take it down, show what it does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil
from rich.console import Console

from devstack.environment import CHECKOUT, LIVE, MARK, REPLAY, data_folder, upstream
from devstack.first_runs import LOADED, NoFirstRuns, Run, described, first_runs
from devstack.logs import LogReader
from devstack.postgres import Postgres
from devstack.process import family, is_gone, kill, last_lines, wait_gone
from devstack.stack_lock import end_leftovers, lock_holder
from devstack.state_folder import StateFolder, make_folder

STOP_DEADLINE = 60.0
EVENT_DEADLINE = 400.0
INTERRUPTED = 130
NOT_RUNNING = 3
COMMAND_NOT_RUN, COMMAND_NOT_FOUND = 126, 127  # as shells say it

said = Console(highlight=False, soft_wrap=True, markup=False)
progress = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


class UpFailed(Exception):
    """The stack did not come up; nothing of it runs any more."""


class Interrupted(BaseException):
    """Ctrl-C, SIGTERM, or the terminal is gone."""


class Supervised:
    """The supervisor's process, seen from the command that started it. Unless `keep` is called, it ends with that."""

    def __init__(self, folder: Path, environ: Mapping[str, str]):
        self.folder = folder
        self.logs = make_folder(folder / "logs")
        self.earlier = {log: log.stat().st_size for log in self.logs.glob("*.log")}
        self.line, theirs = socket.socketpair()
        self.line.settimeout(EVENT_DEADLINE)
        with theirs, (self.logs / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "devstack", "supervise", str(theirs.fileno())],
                cwd=CHECKOUT,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def events(self) -> Iterator[dict[str, Any]]:
        with self.line.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)

    def wait_until_serving(self) -> None:
        for event in self.events():
            if "step" in event:
                progress.print(f"  {event['step']}")
            if "failed" in event:
                raise UpFailed(event["failed"] + self.end_of(event["part"]))
            if "serving" in event:
                return
        raise UpFailed("The supervisor ended without a word." + self.end_of("supervisor"))

    def end_of(self, part: str | None) -> str:
        """The end of a part's log, as far as this start wrote it."""
        if part is None:
            return ""
        log = self.logs / f"{part}.log"
        return f"\nThe end of {log}:\n{last_lines(log, since=self.earlier.get(log, 0))}"

    def keep(self) -> None:
        self.line.sendall(b"keep\n")

    def stop(self) -> None:
        self.line.close()
        try:
            self.process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            kill(family(self.process.pid))
            end_leftovers(self.folder)


def up(environ: Mapping[str, str]) -> int:
    """Everything, in the background; returns when every source has had a run."""
    folder = data_folder(environ)
    if lock_holder(folder):
        return _already_up(folder)
    with _started(folder, environ) as supervised:
        runs = _first_runs(supervised)
        supervised.keep()
    _show_closing(folder, runs)
    return 0


def run(environ: Mapping[str, str]) -> int:
    """The same in the foreground, with its logs, until Ctrl-C."""
    folder = data_folder(environ)
    if lock_holder(folder):
        return _already_up(folder)
    with _started(folder, environ) as supervised:
        reader = LogReader(folder / "logs")
        _show_closing(folder, _first_runs(supervised))
        progress.print("Ctrl-C stops it.")
        while supervised.process.poll() is None:
            for line in reader.new_lines():
                said.print(line)
            time.sleep(0.2)
        raise UpFailed("The stack ended." + supervised.end_of("supervisor"))


def down(environ: Mapping[str, str]) -> int:
    """Stop everything, in order."""
    folder = data_folder(environ)
    supervisor = lock_holder(folder)
    if supervisor is None:
        if folder.exists():
            end_leftovers(folder)
        progress.print("Nothing is running.")
        return 0
    left = family(supervisor.pid)
    supervisor.send_signal(signal.SIGTERM)
    if wait_gone([supervisor], STOP_DEADLINE):
        kill(left)
    end_leftovers(folder)
    progress.print(f"Stopped. The data stays in {folder}.")
    return 0


def status(environ: Mapping[str, str]) -> int:
    """What runs, and where."""
    folder = data_folder(environ)
    stack = _stack(folder)
    if stack is None:
        progress.print("Starting, or stopping." if lock_holder(folder) else "Not running. `make up` starts it.")
        return NOT_RUNNING
    for name, pid in stack["pids"].items():
        alive = psutil.pid_exists(pid) and not is_gone(psutil.Process(pid))
        said.print(f"  {name:<12} {'running' if alive else 'ended'}, process {pid}")
    _show_addresses(stack)
    return 0


def logs(environ: Mapping[str, str], *, follow: bool) -> int:
    """The last lines of every part's log; then, if asked, each new one until Ctrl-C."""
    reader = LogReader(data_folder(environ) / "logs", last=20)
    while True:
        for line in reader.new_lines():
            said.print(line)
        if not follow:
            return 0
        time.sleep(0.2)


def execute(environ: Mapping[str, str], command: Sequence[str]) -> int:
    """Run a command with the settings of the running stack, not its own: `python -m tasks replay coingecko --diff`."""
    folder = data_folder(environ)
    stack = _stack(folder)
    if stack is None:
        progress.print("Not running. `make up` starts it.")
        return NOT_RUNNING
    settings: dict[str, str] = {}
    with suppress(psutil.Error):
        settings = psutil.Process(stack["pids"]["web"]).environ()
    # Without the mark: it is no part of the stack, and goes on when that is stopped.
    marked = settings.pop(MARK, None)
    if marked is None or not Path(marked).samefile(folder):
        progress.print("The API, whose settings it would get, is being started: try again in a moment.")
        return NOT_RUNNING
    # Python ignores it, and so would the command.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(command[0], list(command), settings)
    except OSError as error:
        progress.print(f"{command[0]}: {error.strerror}.")
        return COMMAND_NOT_FOUND if isinstance(error, FileNotFoundError) else COMMAND_NOT_RUN


def clean(environ: Mapping[str, str]) -> int:
    """Stop everything and delete its data, also what lies outside of the data folder."""
    folder = data_folder(environ)
    down(environ)
    if folder.exists():
        Postgres(folder).erase()
        shutil.rmtree(folder)
    return 0


@contextmanager
def _started(folder: Path, environ: Mapping[str, str]) -> Iterator[Supervised]:
    """A serving stack; stopped when anything goes wrong within."""
    source = upstream(environ)
    StateFolder(folder)
    progress.print(f"Starting Kasparro, {'with recorded answers' if source == REPLAY else 'with the real upstreams'}:")
    supervised = Supervised(folder, environ)
    try:
        supervised.wait_until_serving()
        yield supervised
    except BaseException:
        progress.print("Stopping what was started …")
        supervised.stop()
        raise


def _first_runs(supervised: Supervised) -> list[Run]:
    """One of each source. What becomes of it is the source's affair: the stack is there to look into it."""
    stack = _stack(supervised.folder)
    if stack is None:
        raise UpFailed("The stack ended just after it came up." + supervised.end_of("supervisor"))
    progress.print("A first run of each source:")
    try:
        return first_runs(stack["api"], stack["token"], progress)
    except NoFirstRuns as error:
        raise UpFailed(str(error) + supervised.end_of("web")) from None


def _already_up(folder: Path) -> int:
    stack = _stack(folder)
    if stack is None:
        progress.print("Another command is starting or stopping the stack right now: try again in a moment.")
        return 1
    progress.print("Kasparro is running already. For what has changed since, such as a source: `make down`, and again.")
    _show_addresses(stack)
    return 0


def _stack(folder: Path) -> dict[str, Any] | None:
    file = folder / "stack.json"
    if lock_holder(folder) is None or not file.exists():
        return None
    stack: dict[str, Any] = json.loads(file.read_text())
    return stack


def _show_closing(folder: Path, runs: list[Run]) -> None:
    stack = _stack(folder)
    if stack is None:
        return
    said.print("\nKasparro is up. First runs:")
    for one in runs:
        said.print(f"  {one['source']:<14} {described(one)}")
        if one["status"] not in LOADED:
            said.print(f"{'':<16} see {stack['api']}/runs/{one['id']} and {folder / 'logs' / 'worker.log'}")
    _show_addresses(stack)
    said.print("\nTry:")
    said.print(f"  curl '{stack['api']}/data/latest?asset=bitcoin'")
    said.print(f"  curl '{stack['api']}/stats'")
    said.print(
        f"  curl -X POST {stack['api']}/runs -H 'Authorization: Bearer {stack['token']}'"
        " -H 'Content-Type: application/json' -d '{\"source\": \"coingecko\"}'"
    )
    said.print("\n`make logs` shows what it does, `make down` stops it.")


def _show_addresses(stack: Mapping[str, Any]) -> None:
    said.print(f"\n  API      {stack['api']}")
    said.print(f"  Docs     {stack['api']}/docs")
    said.print(f"  Flower   {stack['flower']}   user {stack['flower_user']}, password {stack['flower_password']}")
    said.print(f"  Token    {stack['token']}   (needed to write)")
    if stack["upstream"] != LIVE:
        said.print(
            "\n  The upstream APIs are replayed from sample_data/: recorded answers, with times moved to now and"
        )
        said.print("  prices that walk. `make up UPSTREAM=live` asks the real ones.")


def interruptible() -> None:
    """SIGINT, SIGTERM and SIGHUP raise Interrupted, also where SIGINT came ignored; once, so that stopping is not."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: Any) -> NoReturn:
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, lambda *_: None)
    raise Interrupted
