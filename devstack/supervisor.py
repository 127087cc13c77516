"""Starts every part of the stack in order, keeps it running, and stops it in order, whatever happens to anybody."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import requests

from devstack import environment
from devstack.component import Component, procfile_components
from devstack.environment import CHECKOUT, WrongEnvironment
from devstack.postgres import USUAL_PORT as POSTGRES_PORT
from devstack.postgres import Postgres
from devstack.process import kill
from devstack.server import Server, ServerFailed
from devstack.stack_lock import end_leftovers, lock_stack
from devstack.state_folder import NoFreePort, StateFolder, make_folder, write_private
from devstack.valkey import USUAL_PORT as VALKEY_PORT
from devstack.valkey import Valkey

PR_SET_CHILD_SUBREAPER = 36
MIGRATION_TIMEOUT = 300
ANSWER_DEADLINE = 90.0
TICK = 0.2
MOST_RESTARTS, RESTART_WINDOW = 5, 60.0

log = logging.getLogger(__name__)


class Stop(BaseException):
    """Somebody asked the stack to stop. Not an Exception, so that nothing takes it for a failure to deal with."""


class StackFailed(Exception):
    """A part of the stack did not come up, or did not stay up. part: whose log says why."""

    def __init__(self, detail: str, part: str | None = None):
        super().__init__(detail)
        self.part = part


class Channel:
    """The line to the command that started the supervisor. Until that says `keep`, its end is the stack's end."""

    def __init__(self, line: socket.socket):
        self._line: socket.socket | None = line

    def tell(self, **event: Any) -> None:
        if self._line is not None:
            with suppress(OSError):
                self._line.sendall(json.dumps(event).encode() + b"\n")

    def listen(self, seconds: float) -> None:
        """Wait a moment. Raises Stop when the command is gone."""
        if self._line is None:
            time.sleep(seconds)
        elif select.select([self._line], [], [], seconds)[0]:
            said = b""
            with suppress(OSError):
                said = self._line.recv(100)
            self._line.close()
            self._line = None
            if not said.startswith(b"keep"):
                raise Stop


class Supervisor:
    """One run of the stack on one data folder."""

    def __init__(self, folder: Path, environ: Mapping[str, str], channel: Channel):
        self.folder = folder
        self.environ = environ
        self.channel = channel
        self.kept = StateFolder(folder)
        self.logs = make_folder(folder / "logs")
        self.stack_file = folder / "stack.json"
        self.started: list[Server | Component] = []
        self.addresses: dict[str, str] = {}
        self.restarts: dict[str, list[float]] = defaultdict(list)

    def run(self) -> None:
        """Serve until Stop is raised. Raises StackFailed when a part cannot be had."""
        self.stack_file.unlink(missing_ok=True)  # of one that was killed
        with ExitStack() as stack:
            try:
                self._start(stack)
                self.channel.tell(serving=True)
                while True:
                    self.channel.listen(TICK)
                    self._look_after()
            except (ServerFailed, WrongEnvironment, NoFreePort) as error:
                raise StackFailed(str(error)) from None
            finally:  # before anything is stopped: it says that all of it is there
                self.stack_file.unlink(missing_ok=True)

    def _start(self, stack: ExitStack) -> None:
        env = self._environment(
            database_url=self._url("DATABASE_URL", Postgres(self.folder, POSTGRES_PORT), stack),
            redis_url=self._url("REDIS_URL", Valkey(self.folder, VALKEY_PORT), stack),
        )
        if environment.upstream(self.environ) == environment.REPLAY:
            self._start_replay(env, stack)
        self._migrate(env)
        self._start_procfile(env, stack)
        self._write_stack_file()

    def _url(self, variable: str, server: Server, stack: ExitStack) -> str:
        """Where a server of the user's is; else where ours is, started."""
        given = self.environ.get(variable, "").strip()
        if given:
            environment.check_reachable(variable, given)
            self.channel.tell(step=f"Using the {server.name} of {variable}")
            return given
        began = time.monotonic()
        self.started.append(stack.enter_context(server))
        self.channel.tell(step=f"{server.name} on 127.0.0.1:{server.port}, in {time.monotonic() - began:.1f} s")
        return server.url

    def _environment(self, database_url: str, redis_url: str) -> dict[str, str]:
        web_port = environment.choose_port(self.environ, self.kept, "WEB_PORT", environment.WEB_PORT)
        flower_port = environment.choose_port(self.environ, self.kept, "FLOWER_PORT", environment.FLOWER_PORT)
        replayed = environment.upstream(self.environ) == environment.REPLAY
        chosen = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "API_TOKEN": self.kept.secret("api_token"),
            "WEB_PORT": str(web_port),
            "FLOWER_PORT": str(flower_port),
            "FLOWER_BASIC_AUTH": f"{environment.FLOWER_USER}:{self.kept.secret('flower_password')}",
            "CSV_DIR": str(CHECKOUT / "sample_data" / "csv"),
            "LOG_FORMAT": "json",
        }
        replay = f"http://127.0.0.1:{self.kept.port('replay', None)}" if replayed else None
        env = environment.for_processes(self.environ, self.folder, chosen=chosen, replay=replay)
        user, _, password = env["FLOWER_BASIC_AUTH"].partition(":")
        self.addresses = {
            "api": f"http://127.0.0.1:{web_port}",
            "token": env["API_TOKEN"],
            "flower": f"http://127.0.0.1:{flower_port}",
            "flower_user": user,
            "flower_password": password,
            "database_url": database_url,
            "redis_url": redis_url,
            "upstream": replay or environment.LIVE,
        }
        return env

    def _start_replay(self, env: Mapping[str, str], stack: ExitStack) -> None:
        url = self.addresses["upstream"]
        command = [sys.executable, "-m", "devstack.recorded_upstreams", "--port", url.rpartition(":")[2]]
        self._start_parts([Component("replay", command, env, self.logs)], stack)
        self._wait_for(f"{url}/healthz", "replay")
        self.channel.tell(step=f"recorded answers of the upstreams replayed on {url}")

    def _migrate(self, env: Mapping[str, str]) -> None:
        with (self.logs / "migrate.log").open("ab") as output:
            command = [sys.executable, "-m", "alembic", "upgrade", "head"]
            try:
                done = subprocess.run(
                    command, cwd=CHECKOUT, env=env, stdout=output, stderr=output, timeout=MIGRATION_TIMEOUT, check=False
                )
            except subprocess.TimeoutExpired:
                raise StackFailed(f"The migrations took more than {MIGRATION_TIMEOUT} s.", "migrate") from None
        if done.returncode:
            raise StackFailed("The database could not be migrated.", "migrate")
        self.channel.tell(step="tables up to date")

    def _start_procfile(self, env: Mapping[str, str], stack: ExitStack) -> None:
        parts = procfile_components(environment.procfile(self.environ), env, self.logs)
        self._start_parts(parts, stack)
        self.channel.tell(step=f"started {', '.join(part.name for part in parts)}")
        self._wait_for(f"{self.addresses['api']}/health", "web")
        self._wait_for(self.addresses["flower"], "flower")
        self.channel.tell(step=f"the API answers on {self.addresses['api']}")

    def _start_parts(self, parts: list[Component], stack: ExitStack) -> None:
        """Start parts that stop together, each having been asked before one is waited for."""
        for part in parts:
            stack.callback(part.stop)
        stack.callback(_ask_to_stop, parts)
        for part in parts:
            part.start()
            self.started.append(part)

    def _wait_for(self, url: str, part: str) -> None:
        """Wait until a part answers; a refusal for want of a password is an answer as well."""
        deadline = time.monotonic() + ANSWER_DEADLINE
        answer = "nothing"
        while time.monotonic() < deadline:
            for one in self.started:
                if not one.running:
                    raise StackFailed(f"{one.name} ended while it was started.", one.name)
            with suppress(requests.RequestException):
                response = requests.get(url, timeout=5)
                if response.status_code in (requests.codes.ok, requests.codes.unauthorized):
                    return
                answer = f"{response.status_code} {response.text[:500]}"
            self.channel.listen(0.1)
        raise StackFailed(f"GET {url} answered {answer} for {ANSWER_DEADLINE:g} s.", part)

    def _look_after(self) -> None:
        """Start again what has ended, within bounds, and end what it left behind."""
        ended = [one for one in self.started if not one.running]
        for one in ended:
            now = time.monotonic()
            recent = [at for at in self.restarts[one.name] if now - at < RESTART_WINDOW]
            if len(recent) >= MOST_RESTARTS:
                raise StackFailed(f"{one.name} ended {len(recent) + 1} times within {RESTART_WINDOW:g} s.", one.name)
            self.restarts[one.name] = [*recent, now]
            log.warning("%s ended and is started again", one.name)
            one.stop()
        self._end_orphans()
        for one in ended:
            port = one.port if isinstance(one, Server) else None
            one.start()
            if isinstance(one, Server) and one.port != port:
                raise StackFailed(f"{one.name} ended, and meanwhile somebody else took its port {port}.", one.name)
        if ended:
            self._write_stack_file()

    def _end_orphans(self) -> None:
        """What a killed part had started is our child now: no worker's child may go on with a run on its own."""
        known = {one.own_pid for one in self.started}
        _end([child for child in psutil.Process().children() if child.pid not in known])

    def _write_stack_file(self) -> None:
        pids = {one.name: one.pid for one in self.started} | {"supervisor": os.getpid()}
        write_private(self.stack_file, json.dumps({**self.addresses, "pids": pids}, indent=2) + "\n")


def _ask_to_stop(parts: Iterable[Component]) -> None:
    for part in parts:
        part.ask_to_stop()


def _end(processes: list[psutil.Process]) -> None:
    kill(processes)
    for process in processes:
        with suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


def supervise(folder: Path, environ: Mapping[str, str], line: socket.socket) -> int:
    """The supervisor's process, from start to end; returns its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    channel = Channel(line)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop_once)
    try:
        with lock_stack(folder):
            end_leftovers(folder)
            try:
                Supervisor(folder, environ, channel).run()
            finally:
                _end(psutil.Process().children(recursive=True))
    except Stop:
        log.info("stopped")
        return 0
    except Exception as error:
        log.exception("failed")
        channel.tell(failed=str(error), part=getattr(error, "part", None))
    return 1


def _stop_once(number: int, frame: Any) -> None:
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, _stopping)
    raise Stop


def _stopping(number: int, frame: Any) -> None:
    log.info("already stopping")
