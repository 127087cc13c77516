"""Start the components of the stack in order, restart those that end, and stop all of them in order."""

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
from urllib.parse import urlsplit

import psutil
import requests

from devstack import environment
from devstack.component import Component, procfile_components
from devstack.environment import CHECKOUT, WrongEnvironment
from devstack.postgres import DEFAULT_PORT as POSTGRES_PORT
from devstack.postgres import Postgres
from devstack.process import kill, listens_on
from devstack.server import Server, ServerFailed
from devstack.stack_lock import end_leftovers, lock_stack
from devstack.state_folder import NoFreePort, StateFolder, make_folder, write_private
from devstack.valkey import DEFAULT_PORT as VALKEY_PORT
from devstack.valkey import Valkey

PR_SET_CHILD_SUBREAPER = 36
MIGRATION_TIMEOUT = 300
READY_DEADLINE = 90.0
TICK = 0.2
MAX_RESTARTS, RESTART_WINDOW = 5, 60.0
UPSTREAMS = "upstreams"
"""The component that serves the recorded upstreams."""

log = logging.getLogger(__name__)


class Stop(BaseException):
    """A request to stop the stack. It is not an Exception, so that no error handler catches it."""


class StackFailed(Exception):
    """A component did not start, or lost its port.

    component: the component whose log shows the reason.
    """

    def __init__(self, detail: str, component: str | None = None):
        super().__init__(detail)
        self.component = component


class Channel:
    """The connection to the command that started the supervisor.

    The stack ends with the command, unless the command sends `keep`.
    """

    def __init__(self, connection: socket.socket):
        self._connection: socket.socket | None = connection

    def send(self, **event: Any) -> None:
        if self._connection is not None:
            with suppress(OSError):
                self._connection.sendall(json.dumps(event).encode() + b"\n")

    def listen(self, seconds: float) -> None:
        """Wait up to `seconds` for the command. Raise Stop if the command ended without sending `keep`."""
        if self._connection is None:
            time.sleep(seconds)
        elif select.select([self._connection], [], [], seconds)[0]:
            message = b""
            with suppress(OSError):
                message = self._connection.recv(100)
            self._connection.close()
            self._connection = None
            if not message.startswith(b"keep"):
                raise Stop


class Supervisor:
    """One run of the stack on one data folder."""

    def __init__(self, folder: Path, environ: Mapping[str, str], channel: Channel):
        self.folder = folder
        self.environ = environ
        self.channel = channel
        self.state = StateFolder(folder)
        self.logs = make_folder(folder / "logs")
        self.stack_file = folder / "stack.json"
        self.started: list[Server | Component] = []
        self.addresses: dict[str, Any] = {}
        self.restarts: dict[str, list[float]] = defaultdict(list)
        self.failed: dict[str, str] = {}

    def run(self) -> None:
        """Run the stack until Stop is raised. Raise StackFailed if a component does not start, or loses its port."""
        self.stack_file.unlink(missing_ok=True)  # A killed supervisor may have left it.
        with ExitStack() as stack:
            try:
                self._start(stack)
                self.channel.send(serving=True)
                while True:
                    self.channel.listen(TICK)
                    self._restart_ended()
            except (ServerFailed, WrongEnvironment, NoFreePort) as error:
                raise StackFailed(str(error)) from None
            finally:
                # The file marks the whole stack as serving, so delete it before stopping anything.
                self.stack_file.unlink(missing_ok=True)

    def _start(self, stack: ExitStack) -> None:
        env = self._environment(
            database_url=self._url("DATABASE_URL", Postgres(self.folder, POSTGRES_PORT), stack),
            redis_url=self._url("REDIS_URL", Valkey(self.folder, VALKEY_PORT), stack),
        )
        if environment.upstream(self.environ) == environment.RECORDED:
            self._start_recorded_upstreams(env, stack)
        self._migrate(env)
        self._start_procfile(env, stack)
        self._write_stack_file()

    def _url(self, variable: str, server: Server, stack: ExitStack) -> str:
        """Return the URL of the user's own server. If the variable is unset, start a server and return its URL."""
        url = self.environ.get(variable, "").strip()
        if url:
            environment.check_reachable(variable, url)
            self.channel.send(step=f"using the {server.name} at {variable}")
            return url
        started_at = time.monotonic()
        self.started.append(stack.enter_context(server))
        seconds = time.monotonic() - started_at
        self.channel.send(step=f"{server.name} is ready on 127.0.0.1:{server.port} after {seconds:.1f} s")
        return server.url

    def _environment(self, database_url: str, redis_url: str) -> dict[str, str]:
        web_port = self._choose_port("WEB_PORT", environment.WEB_PORT)
        flower_port = self._choose_port("FLOWER_PORT", environment.FLOWER_PORT)
        defaults = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "API_TOKEN": self.state.secret("api_token"),
            "WEB_PORT": str(web_port),
            "FLOWER_PORT": str(flower_port),
            "FLOWER_BASIC_AUTH": f"{environment.FLOWER_USER}:{self.state.secret('flower_password')}",
            "CSV_DIR": str(CHECKOUT / "sample_data" / "csv"),
            "LOG_FORMAT": "console",
        }
        recorded_url = None
        if environment.upstream(self.environ) == environment.RECORDED:
            recorded_url = f"http://127.0.0.1:{self.state.port(UPSTREAMS, None)}"
        env = environment.for_processes(self.environ, self.folder, defaults=defaults, recorded_url=recorded_url)
        user, _, password = env["FLOWER_BASIC_AUTH"].partition(":")
        self.addresses = {
            "api": f"http://127.0.0.1:{web_port}",
            "token": env["API_TOKEN"],
            "flower": f"http://127.0.0.1:{flower_port}",
            "flower_user": user,
            "flower_password": password,
            "database_url": database_url,
            "redis_url": redis_url,
            "upstream": recorded_url or environment.LIVE,
        }
        if recorded_url and (ignored := environment.ignored_variables(self.environ)):
            self.addresses["ignored"] = ignored
            log.warning("without effect, because the upstreams are recorded: %s", ", ".join(ignored))
        return env

    def _choose_port(self, variable: str, default: int) -> int:
        port = environment.choose_port(self.environ, self.state, variable, default)
        if reason := environment.explain_port(self.environ, variable, port, default):
            self.channel.send(step=reason)
        return port

    def _start_recorded_upstreams(self, env: Mapping[str, str], stack: ExitStack) -> None:
        url = self.addresses["upstream"]
        command = [sys.executable, "-m", "devstack.recorded_upstreams", "--port", url.rpartition(":")[2]]
        self._start_components([Component(UPSTREAMS, command, env, self.logs)], stack)
        self._wait_until_ready(f"{url}/healthz", UPSTREAMS)
        self.channel.send(step=f"recorded upstreams are ready on {url}")

    def _migrate(self, env: Mapping[str, str]) -> None:
        with (self.logs / "migrate.log").open("ab") as output:
            command = [sys.executable, "-m", "alembic", "upgrade", "head"]
            try:
                process = subprocess.run(
                    command, cwd=CHECKOUT, env=env, stdout=output, stderr=output, timeout=MIGRATION_TIMEOUT, check=False
                )
            except subprocess.TimeoutExpired:
                raise StackFailed(
                    f"The migration did not finish within {MIGRATION_TIMEOUT} s and was stopped. "
                    "Check whether another session holds locks, then run `make up` again.",
                    "migrate",
                ) from None
        if process.returncode:
            raise StackFailed("The migration of the database failed.", "migrate")
        self.channel.send(step="database tables are up to date")

    def _start_procfile(self, env: Mapping[str, str], stack: ExitStack) -> None:
        components = procfile_components(environment.procfile(self.environ), env, self.logs)
        self._start_components(components, stack)
        self.channel.send(step=f"started {', '.join(component.name for component in components)}")
        self._wait_until_ready(f"{self.addresses['api']}/health", "web")
        self._wait_until_ready(self.addresses["flower"], "flower")
        self.channel.send(step=f"the API is ready on {self.addresses['api']}")

    def _start_components(self, components: list[Component], stack: ExitStack) -> None:
        """Start components. At the end, send SIGTERM to all of them before waiting for the first."""
        for component in components:
            stack.callback(component.stop)
        stack.callback(_request_stop, components)
        for component in components:
            component.start()
            self.started.append(component)

    def _wait_until_ready(self, url: str, component: str) -> None:
        """Wait until a component is ready. A 401 also counts as ready, since Flower needs a password.

        A response of another program that took the port does not count. Otherwise that program would get the token.
        """
        deadline = time.monotonic() + READY_DEADLINE
        [server] = [started for started in self.started if started.name == component]
        outcome = "none"
        while time.monotonic() < deadline:
            for started in self.started:
                if not started.running:
                    raise StackFailed(f"{started.name} ended during its start.", started.name)
            with suppress(requests.RequestException):
                response = requests.get(url, timeout=5)
                is_ready = response.status_code in (requests.codes.ok, requests.codes.unauthorized)
                if is_ready and listens_on(server.own_pid, urlsplit(url).port or 0):
                    return
                outcome = f"{response.status_code} {response.text[:500]}" if not is_ready else "sent by another program"
            self.channel.listen(0.1)
        raise StackFailed(
            f"{component} was not ready within {READY_DEADLINE:g} s. "
            f"GET {url} must return 200 or 401; the last response was: {outcome}",
            component,
        )

    def _restart_ended(self) -> None:
        """Restart ended components, and kill processes that they left.

        After too many restarts, a component stays down, and the other components keep running.
        """
        ended = [started for started in self.started if not started.running]
        restarting = [component for component in ended if self._may_restart(component)]
        self._kill_orphans()
        for component in restarting:
            port = component.port if isinstance(component, Server) else None
            component.start()
            if isinstance(component, Server) and component.port != port:
                raise StackFailed(
                    f"{component.name} ended, and another program now uses its port {port}. Run `make up` again.",
                    component.name,
                )
        if ended:
            self._write_stack_file()

    def _may_restart(self, component: Server | Component) -> bool:
        """Stop an ended component. Return whether it may be restarted; if not, record that it has failed."""
        name, now = component.name, time.monotonic()
        recent = [restart for restart in self.restarts[name] if now - restart < RESTART_WINDOW]
        self.restarts[name] = [*recent, now]
        component.stop()
        if len(recent) < MAX_RESTARTS:
            log.warning("%s ended and is being restarted", name)
            return True
        self.failed[name] = f"ended {len(recent) + 1} times within {RESTART_WINDOW:g} s and stays down"
        self.started.remove(component)
        log.error("%s %s", name, self.failed[name])
        return False

    def _kill_orphans(self) -> None:
        """Kill the processes of a killed component, such as worker processes that would continue a run.

        As a subreaper, the supervisor becomes the parent of these processes.
        """
        own_pids = {started.own_pid for started in self.started}
        _kill_children([child for child in psutil.Process().children() if child.pid not in own_pids])

    def _write_stack_file(self) -> None:
        pids = {started.name: started.pid for started in self.started} | {"supervisor": os.getpid()}
        content = {**self.addresses, "pids": pids, "failed": self.failed}
        write_private(self.stack_file, json.dumps(content, indent=2) + "\n")


def _request_stop(components: Iterable[Component]) -> None:
    for component in components:
        component.request_stop()


def _kill_children(processes: list[psutil.Process]) -> None:
    kill(processes)
    for process in processes:
        with suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


def supervise(folder: Path, environ: Mapping[str, str], connection: socket.socket) -> int:
    """Run the supervisor, and return its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    channel = Channel(connection)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop_once)
    try:
        with lock_stack(folder):
            end_leftovers(folder)
            try:
                Supervisor(folder, environ, channel).run()
            finally:
                _kill_children(psutil.Process().children(recursive=True))
    except Stop:
        log.info("stopped")
        return 0
    except Exception as error:
        log.exception("failed")
        channel.send(failed=str(error), component=getattr(error, "component", None))
    return 1


def _stop_once(number: int, frame: Any) -> None:
    for later in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(later, _log_stopping)
    raise Stop


def _log_stopping(number: int, frame: Any) -> None:
    log.info("already stopping")
