"""Test the environment of the stack's processes, and the errors in it that prevent a start."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.environment import (
    WrongEnvironment,
    check_reachable,
    choose_port,
    explain_port,
    for_processes,
    ignored_variables,
    read_environment,
    upstream,
)
from devstack.state_folder import StateFolder, free_port


@pytest.fixture
def used_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_the_environment_overrides_dotenv_and_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=from-file\nB='from file'\nC=from-file\n")
    environ = read_environment({"A": "real", "C": " "}, tmp_path)
    assert environ == {"A": "real", "B": "from file", "C": "from-file"}


def test_an_invalid_dotenv_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A='never closed\n")
    with pytest.raises(WrongEnvironment, match=r"\.env cannot be read"):
        read_environment({}, tmp_path)


def test_with_recorded_upstreams_processes_get_neither_keys_nor_real_addresses(tmp_path: Path) -> None:
    real = {"COINGECKO_API_KEY": "k", "COINGECKO_PLAN": "pro", "COINPAPRIKA_URL": "https://api.coinpaprika.com/v1"}
    env = for_processes(real, tmp_path, defaults={}, recorded_url="http://127.0.0.1:1")
    assert env.keys().isdisjoint({"COINGECKO_API_KEY", "COINGECKO_PLAN"})
    assert env["COINPAPRIKA_URL"] == "http://127.0.0.1:1/coinpaprika/v1"
    assert for_processes(real, tmp_path, defaults={}, recorded_url=None).items() >= real.items()


def test_the_variables_that_the_recorded_upstreams_replace_are_listed() -> None:
    real = {"COINGECKO_URL": "https://x.example", "COINPAPRIKA_API_KEY": "k", "COINGECKO_PLAN": " ", "DESK_URL": "y"}
    assert ignored_variables(real) == ["COINGECKO_URL", "COINPAPRIKA_API_KEY"]


def test_a_default_is_used_only_for_a_variable_without_a_value(tmp_path: Path) -> None:
    env = for_processes({"A": "a", "B": " "}, tmp_path, defaults={"A": "x", "B": "b"}, recorded_url=None)
    assert (env["A"], env["B"]) == ("a", "b")


@pytest.mark.parametrize(("value", "kind"), [(None, "replay"), ("", "replay"), ("replay", "replay"), ("live", "live")])
def test_the_upstreams_are_recorded_unless_live_is_requested(value: str | None, kind: str) -> None:
    assert upstream({} if value is None else {"UPSTREAM": value}) == kind


def test_an_unknown_upstream_is_refused_with_the_allowed_values() -> None:
    with pytest.raises(WrongEnvironment, match=r"UPSTREAM is 'real'\. Expected `replay` .* or `live`"):
        upstream({"UPSTREAM": "real"})


@pytest.mark.parametrize("value", ["0", "65536", "http", "-1"])
def test_an_invalid_port_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(WrongEnvironment, match=r"WEB_PORT is .*Expected a whole number from 1 to 65535"):
        choose_port({"WEB_PORT": value}, StateFolder(tmp_path), "WEB_PORT", 8000)


def test_a_configured_port_must_be_free(tmp_path: Path, used_port: int) -> None:
    with pytest.raises(WrongEnvironment, match="is in use"):
        choose_port({"WEB_PORT": str(used_port)}, StateFolder(tmp_path), "WEB_PORT", 8000)


def test_a_default_port_in_use_is_replaced_permanently(tmp_path: Path, used_port: int) -> None:
    port = choose_port({}, StateFolder(tmp_path), "WEB_PORT", used_port)
    assert port != used_port
    assert choose_port({}, StateFolder(tmp_path), "WEB_PORT", used_port) == port


def test_a_chosen_port_is_explained_unless_it_is_the_default_or_configured(used_port: int) -> None:
    free = free_port()
    assert explain_port({}, "WEB_PORT", 8000, 8000) is None
    assert explain_port({"WEB_PORT": "8010"}, "WEB_PORT", 8010, 8000) is None
    explanation = explain_port({}, "WEB_PORT", 8010, used_port)
    assert explanation
    assert explanation.startswith(f"WEB_PORT is 8010, because port {used_port} is in use; ")
    explanation = explain_port({"WEB_PORT": ""}, "WEB_PORT", 8010, free)
    assert explanation
    assert explanation.startswith("WEB_PORT is 8010, because an earlier start chose 8010; ")


def test_an_unreachable_server_is_named_without_its_password(used_port: int) -> None:
    check_reachable("REDIS_URL", f"redis://:secret@127.0.0.1:{used_port}/0")
    with pytest.raises(WrongEnvironment, match=r"REDIS_URL: cannot connect to 127\.0\.0\.1") as refused:
        check_reachable("REDIS_URL", f"redis://:secret@127.0.0.1:{free_port()}/0")
    assert "secret" not in str(refused.value)
