"""Test the ports and secrets of a data folder: chosen once, stored, and readable only by their owner."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import quote

from devstack.state_folder import FREE_PORTS, StateFolder, free_port, is_port_free, write_private


def test_a_secret_is_generated_once_and_safe_in_a_url(tmp_path: Path) -> None:
    secret = StateFolder(tmp_path).secret("token")
    assert len(secret) >= 32
    assert quote(secret, safe="") == secret
    assert StateFolder(tmp_path).secret("token") == secret
    assert StateFolder(tmp_path).secret("password") != secret


def test_only_the_owner_can_read_the_files_and_others_can_pass_through_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    state = StateFolder(folder)
    state.write("name", "text")
    assert state.read("name") == "text"
    assert state.read("missing") is None
    assert folder.stat().st_mode & 0o777 == 0o711
    assert state.folder.stat().st_mode & 0o777 == 0o700
    assert (state.folder / "name").stat().st_mode & 0o777 == 0o600


def test_replacing_a_public_file_makes_it_private(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    file.chmod(0o644)
    write_private(file, "new")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [file]


def test_a_used_port_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_port_free(port)
    assert is_port_free(port)


def test_a_port_used_on_all_addresses_is_not_free() -> None:
    with socket.create_server(("", 0)) as server:
        assert not is_port_free(server.getsockname()[1])


def test_a_free_port_is_outside_the_range_of_outgoing_ports() -> None:
    assert free_port() in FREE_PORTS


def test_the_stored_port_is_preferred_to_the_default_while_it_is_free(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    stored, default = state.port("web", None), free_port()
    assert state.port("web", default) == stored
    with socket.create_server(("127.0.0.1", stored)):
        assert state.port("web", default) == default
    assert state.port("web", None) == default
