"""What is chosen or generated once and kept in the data folder: ports and secrets, for their owner's eyes only."""

from __future__ import annotations

import os
import random
import secrets
import socket
from pathlib import Path

# Below the ports that systems give to outgoing connections: else, while a server is down, a client that tries again
# and again can be given the server's own port, and speak to itself.
FREE_PORTS = range(20_000, 32_000)


class NoFreePort(Exception):
    """Not one of many ports on 127.0.0.1 could be had."""


def make_folder(path: Path, mode: int = 0o700) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    return path


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner only."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


def is_port_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    with socket.socket() as probe:  # some systems let one bind beside a server on all addresses
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def free_port() -> int:
    """A port that nobody uses now, out of the way of outgoing connections."""
    for port in random.sample(FREE_PORTS, 200):
        if is_port_free(port):
            return port
    raise NoFreePort(f"No free port among 200 tried between {FREE_PORTS.start} and {FREE_PORTS.stop} on 127.0.0.1.")


class StateFolder:
    """The small files of a data folder. One launcher at a time writes them."""

    def __init__(self, folder: Path):
        make_folder(folder, 0o711)  # a server that runs as another user passes through it
        self.folder = make_folder(folder / "kept")

    def text(self, name: str) -> str | None:
        path = self.folder / name
        return path.read_text().strip() if path.exists() else None

    def keep(self, name: str, text: str) -> None:
        write_private(self.folder / name, f"{text}\n")

    def secret(self, name: str) -> str:
        """Generated at the first call; URL-safe, so that it can stand in a DATABASE_URL."""
        kept = self.text(name)
        if not kept:
            kept = secrets.token_urlsafe(32)
            self.keep(name, kept)
        return kept

    def port(self, name: str, usual: int | None) -> int:
        """The port of last time; else the usual one; else, where both are taken or there is none, a free one."""
        last = self.text(f"{name}_port")
        for port in (int(last) if last and last.isdigit() else None, usual):
            if port is not None and is_port_free(port):
                break
        else:
            port = free_port()
        if str(port) != last:
            self.keep(f"{name}_port", str(port))
        return port
