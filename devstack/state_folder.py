"""Store the ports and secrets that a stack chooses once, in files that only their owner can read."""

from __future__ import annotations

import os
import random
import secrets
import socket
from pathlib import Path

# These ports are below the range of outgoing ports. Otherwise a client that reconnects to a stopped server could get
# the server's port as its own outgoing port, and would connect to itself.
FREE_PORTS = range(20_000, 32_000)
PORT_ATTEMPTS = 200


class NoFreePort(Exception):
    """None of the tried ports on 127.0.0.1 is free."""


def make_folder(path: Path, mode: int = 0o700) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    return path


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically. Only its owner can read it."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


def is_port_free(port: int) -> bool:
    """Return whether a server can listen on 127.0.0.1:port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    # Some systems allow this bind although another server listens on all addresses.
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def free_port() -> int:
    """Return a free port outside the range of outgoing ports. Raise NoFreePort."""
    for port in random.sample(FREE_PORTS, PORT_ATTEMPTS):
        if is_port_free(port):
            return port
    raise NoFreePort(
        f"Found no free port on 127.0.0.1: all {PORT_ATTEMPTS} ports tried from {FREE_PORTS.start} to "
        f"{FREE_PORTS.stop - 1} are in use. Stop programs that listen on these ports, then try again."
    )


class StateFolder:
    """The stored ports and secrets of a data folder. Only one launcher at a time writes them."""

    def __init__(self, folder: Path):
        make_folder(folder, 0o711)  # Let servers of another user reach their subfolder.
        self.folder = make_folder(folder / "kept")

    def read(self, name: str) -> str | None:
        path = self.folder / name
        return path.read_text().strip() if path.exists() else None

    def write(self, name: str, text: str) -> None:
        write_private(self.folder / name, f"{text}\n")

    def secret(self, name: str) -> str:
        """Return a secret, and generate it at the first call. It is URL-safe, so it fits into a DATABASE_URL."""
        value = self.read(name)
        if not value:
            value = secrets.token_urlsafe(32)
            self.write(name, value)
        return value

    def port(self, name: str, default: int | None) -> int:
        """Return and store the first free port: the stored port, the default, or any other port."""
        stored = self.read(f"{name}_port")
        for port in (int(stored) if stored and stored.isdigit() else None, default):
            if port is not None and is_port_free(port):
                break
        else:
            port = free_port()
        if str(port) != stored:
            self.write(f"{name}_port", str(port))
        return port
