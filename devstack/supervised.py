"""Start the supervisor process for a command, and pass on its progress and errors."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from devstack.environment import CHECKOUT
from devstack.process import family, kill, last_lines
from devstack.stack_lock import end_leftovers
from devstack.state_folder import make_folder

STOP_DEADLINE = 60.0
EVENT_DEADLINE = 400.0
"""Seconds to wait for the supervisor's next event. The longest step is the migration."""


class UpFailed(Exception):
    """The stack did not start, and none of its processes is still running."""


class Supervised:
    """The supervisor process that a command started. It ends with the command, unless the command calls `keep`."""

    def __init__(self, folder: Path, environ: Mapping[str, str]):
        self.folder = folder
        self.started_at = datetime.now(UTC)
        self.logs = make_folder(folder / "logs")
        self.earlier_sizes = {log: log.stat().st_size for log in self.logs.glob("*.log")}
        self.channel, supervisor_end = socket.socketpair()
        self.channel.settimeout(EVENT_DEADLINE)
        self._lines = self.channel.makefile("r", encoding="utf-8")
        with supervisor_end, (self.logs / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "devstack", "supervise", str(supervisor_end.fileno())],
                cwd=CHECKOUT,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[supervisor_end.fileno()],
                start_new_session=True,
            )

    def wait_until_serving(self, show_step: Callable[[str], None]) -> None:
        """Wait until all components are ready. Raise UpFailed if one of them fails."""
        for event in self._events():
            if "step" in event:
                show_step(event["step"])
            if "failed" in event:
                raise self._failed(event)
            if "serving" in event:
                return
        raise UpFailed("The supervisor ended without a message." + self.end_of_log("supervisor"))

    def failure(self, message: str, component: str) -> UpFailed:
        """Return the error that the supervisor reports. Without a report, return the message and a component's log."""
        # If the file is missing, the supervisor is stopping the stack, and has not reported the reason yet.
        if not (self.folder / "stack.json").exists():
            self.channel.settimeout(STOP_DEADLINE)
            with suppress(OSError):
                for event in self._events():
                    if "failed" in event:
                        return self._failed(event)
        return UpFailed(message + self.end_of_log(component))

    def end_of_log(self, component: str | None) -> str:
        """Return the last lines that a component has logged since this start."""
        if component is None:
            return ""
        log = self.logs / f"{component}.log"
        return f"\nThe end of {log}:\n{last_lines(log, since=self.earlier_sizes.get(log, 0))}"

    def keep(self) -> None:
        """Keep the stack running after this command ends."""
        self.channel.sendall(b"keep\n")

    def stop(self) -> None:
        """Stop the stack."""
        self._lines.close()
        self.channel.close()
        try:
            self.process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            kill(family(self.process.pid))
            end_leftovers(self.folder)

    def _events(self) -> Iterator[dict[str, Any]]:
        for line in self._lines:
            yield json.loads(line)

    def _failed(self, event: Mapping[str, Any]) -> UpFailed:
        return UpFailed(event["failed"] + self.end_of_log(event["component"]))
