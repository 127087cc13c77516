"""Copy the data folder of a running Postgres, and set the server back to the copy later."""

from __future__ import annotations

import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from devstack.postgres import Postgres
from devstack.process import family


class DataCopy:
    """A copy of a server's data, as a snapshot of its disk would be. The timeline of Postgres remains the same."""

    def __init__(self, server: Postgres):
        self._server = server
        self._folder = server.data.with_name("copy")

    def take(self) -> None:
        """Replace the copy with the present data. The server is frozen meanwhile."""
        shutil.rmtree(self._folder, ignore_errors=True)
        signal_server(self._server, signal.SIGSTOP)
        try:
            _copy(self._server.data, self._folder)
        finally:
            signal_server(self._server, signal.SIGCONT)
        # The lock file names a process that may still run.
        (self._folder / "postmaster.pid").unlink(missing_ok=True)

    def restore(self) -> None:
        """Kill the server, and start it with the copied data."""
        self._server.kill()
        shutil.rmtree(self._server.data)
        _copy(self._folder, self._server.data)
        self._server.start()


def signal_server(server: Postgres, signum: int) -> None:
    """Send a signal to all processes of a server."""
    assert server.own_pid
    for process in family(server.own_pid):
        with suppress(psutil.NoSuchProcess):  # The backend has just exited.
            process.send_signal(signum)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)  # It also keeps the owner.
