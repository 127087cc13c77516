"""Test that settings are read from the environment, errors are reported together, and no secret is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields

import pytest

from settings import (
    Settings,
    SettingsError,
    SourceSettings,
    read_settings,
    read_source_settings,
    secrets_in,
    table,
)
from tests.processes import Process

PASSWORD = "p4ssw0rd%2Fof%40the-database"
TOKEN = "t0ken-of-the-operator-32-characters"
KEY = "k3y-of-an-upstream"
REQUIRED = {
    "DATABASE_URL": f"postgresql://kasparro:{PASSWORD}@127.0.0.1:5432/kasparro",
    "REDIS_URL": "redis://:v4lkey@127.0.0.1:6379/0",
}


def error_messages(**environ: str) -> dict[str, str]:
    """Return the error message for each invalid variable."""
    with pytest.raises(SettingsError) as caught:
        read_settings({**REQUIRED, **environ})
    return dict(line.strip().split(": ", 1) for line in str(caught.value).splitlines()[1:])


def contradictions(**environ: str) -> list[str]:
    """Return the first variable in each contradiction message."""
    with pytest.raises(SettingsError, match="contradict each other") as caught:
        read_settings({**REQUIRED, **environ})
    return [line.split()[0] for line in str(caught.value).splitlines()[1:]]


def test_only_the_addresses_of_the_servers_are_required() -> None:
    settings = read_settings(REQUIRED)
    assert settings.database_url == REQUIRED["DATABASE_URL"]
    assert settings.api_token is None
    assert settings.task_slice == 240


def test_all_errors_are_reported_together_with_the_names_of_their_variables() -> None:
    messages = error_messages(
        DATABASE_URL="mysql://localhost/x",
        REDIS_URL="localhost:6379",
        API_TOKEN="short",
        READS_NEED_TOKEN="perhaps",
        LOG_FORMAT="xml",
        LOG_LEVEL="loud",
        LEASE="0",
        TASK_SLICE="-1",
        SWEEP_EVERY="soon",
        CLOCK_SKEW="inf",
        STATEMENT_TIMEOUT="nan",
        RETRY_AFTER_FAILURE="1e12",
        MAX_ATTEMPTS="2.5",
        MAX_WAITS="0",
        MAX_BODY_BYTES="64MB",
    )
    assert messages == {
        "DATABASE_URL": "must be a URL that starts with postgresql:// or postgres://",
        "REDIS_URL": "must be a URL that starts with redis:// or rediss://",
        "API_TOKEN": "must have at least 16 characters; `openssl rand -hex 32` generates one",
        "READS_NEED_TOKEN": "Not a valid boolean.",
        "LOG_FORMAT": "Must be one of: auto, json, console.",
        "LOG_LEVEL": "Must be one of: DEBUG, INFO, WARNING, ERROR.",
        "LEASE": "must be more than 0 and at most 31622400, which is a year",
        "TASK_SLICE": "must be more than 0 and at most 31622400, which is a year",
        "SWEEP_EVERY": "Not a valid number.",
        "CLOCK_SKEW": "Special numeric values (nan or infinity) are not permitted.",
        "STATEMENT_TIMEOUT": "Special numeric values (nan or infinity) are not permitted.",
        "RETRY_AFTER_FAILURE": "must be more than 0 and at most 31622400, which is a year",
        "MAX_ATTEMPTS": "Not a valid integer.",
        "MAX_WAITS": "must be more than 0",
        "MAX_BODY_BYTES": "Not a valid integer.",
    }


def test_a_missing_required_variable_is_reported() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({"DATABASE_URL": " "})
    assert re.findall(r"^  (\w+): ", str(caught.value), re.MULTILINE) == ["DATABASE_URL", "REDIS_URL"]


@pytest.mark.parametrize(
    "name", [setting.name.upper() for setting in fields(Settings) if setting.name.upper() not in REQUIRED]
)
@pytest.mark.parametrize("empty", ["", " ", "\n"], ids=ascii)
def test_an_empty_variable_counts_as_unset(name: str, empty: str) -> None:
    assert read_settings({**REQUIRED, name: empty}) == read_settings(REQUIRED)


def test_spaces_around_a_value_are_ignored() -> None:
    assert read_settings({**REQUIRED, "API_TOKEN": f"{TOKEN}\n", "LOG_LEVEL": " DEBUG "}).api_token == TOKEN
    assert read_source_settings("coingecko", {"COINGECKO_API_KEY": f" {KEY}\r\n"}).api_key == KEY


@pytest.mark.parametrize(
    ("environ", "megabytes"),
    [
        ({"RESPONSE_CACHE_MB": "3"}, 3),
        ({"ANSWER_CACHE_MB": "4"}, 4),
        ({"ANSWER_CACHE_MB": "4", "RESPONSE_CACHE_MB": " "}, 4),
        ({"ANSWER_CACHE_MB": "4", "RESPONSE_CACHE_MB": "3"}, 3),
    ],
)
def test_a_renamed_variable_is_accepted_under_both_names(environ: dict[str, str], megabytes: int) -> None:
    assert read_settings({**REQUIRED, **environ}).response_cache_mb == megabytes


def test_an_error_names_the_old_variable_if_only_that_is_set() -> None:
    assert error_messages(ANSWER_CACHE_MB="-1") == {"ANSWER_CACHE_MB": "must be from 0 to 1024"}


def test_variables_that_are_not_settings_are_ignored() -> None:
    assert read_settings({**REQUIRED, "PATH": "/bin", "LEASES": "many"}) == read_settings(REQUIRED)


# Contradictions between settings


def test_the_defaults_do_not_contradict_each_other() -> None:
    settings = read_settings(REQUIRED)
    assert settings.lease > settings.request_deadline + 2.5 * settings.transaction_timeout


@pytest.mark.parametrize(
    ("environ", "variables"),
    [
        ({"LEASE": "172.5"}, ["LEASE"]),
        ({"LEASE": "172.6"}, []),
        ({"REQUEST_DEADLINE": "65", "LEASE": "177"}, ["LEASE"]),
        ({"TRANSACTION_TIMEOUT": "47", "LEASE": "177"}, ["LEASE"]),
        ({"TASK_SLICE": "247.5"}, []),
        ({"TASK_SLICE": "247.6"}, ["TASK_SOFT_LIMIT"]),
        ({"TASK_SOFT_LIMIT": "450"}, ["TASK_HARD_LIMIT"]),
        ({"TASK_HARD_LIMIT": "480"}, ["VISIBILITY_TIMEOUT"]),
        ({"TASK_HARD_LIMIT": "479"}, []),
        ({"LEASE": "1", "TASK_SLICE": "400"}, ["LEASE", "TASK_SOFT_LIMIT"]),
        (
            {"LEASE": "1", "TASK_SLICE": "500", "TASK_HARD_LIMIT": "300", "VISIBILITY_TIMEOUT": "600"},
            ["LEASE", "TASK_SOFT_LIMIT", "TASK_HARD_LIMIT", "VISIBILITY_TIMEOUT"],
        ),
    ],
)
def test_all_contradicting_time_limits_are_reported(environ: dict[str, str], variables: list[str]) -> None:
    assert (contradictions(**environ) if variables else read_settings({**REQUIRED, **environ}) and []) == variables


# Settings of one source


DRIFT = {"*": "quarantine", "a.b": "freeze"}


def test_every_variable_of_a_source_starts_with_its_name() -> None:
    environ = {
        "COINGECKO_URL": "http://127.0.0.1:8080/api",
        "COINGECKO_PLAN": "pro",
        "COINGECKO_API_KEY": KEY,
        "COINGECKO_EVERY": "60",
        "COINGECKO_CATCH_UP": "all",
        "COINGECKO_CALLS_PER_MINUTE": "5",
        "COINGECKO_CALLS_PER_MONTH": "1000",
        "COINGECKO_QUOTE_CURRENCIES": "usd, EUR",
        "COINGECKO_PAGES": "2",
        "COINGECKO_FRESH": "7200",
        "COINGECKO_DRIFT": "quarantine, a.b = freeze",
        "COINGECKO_QUOTES_KEPT": "86400",
        "COINGECKO_BODIES_KEPT": "172800",
        "COINGECKO_API_SECRET": "s3cret",
        "COINGECKO_API_PASSPHRASE": "w0rds",
    }
    assert read_source_settings("coingecko", environ) == SourceSettings(
        *("http://127.0.0.1:8080/api", "pro", KEY, 60, "all", 5, 1000, "usd, EUR", 2, 7200, DRIFT, 86400, 172800),
        *("s3cret", "w0rds"),
    )
    assert read_source_settings("coinpaprika", environ) == SourceSettings(*[None] * 15)


@pytest.mark.parametrize("drift", ["ignore", "evolve, freeze", "evolve, =freeze", "evolve, a=b", ","])
def test_an_unknown_drift_policy_is_refused(drift: str) -> None:
    with pytest.raises(SettingsError, match="COINGECKO_DRIFT: expected one of evolve, discard, quarantine, freeze"):
        read_source_settings("coingecko", {"COINGECKO_DRIFT": drift})


@pytest.mark.parametrize("kept", ["0", "90", "86399", "3162240001"])
def test_an_implausible_retention_is_refused(kept: str) -> None:
    """Refuse 90, which probably means days. As seconds, it would delete nearly everything."""
    with pytest.raises(SettingsError, match="COINGECKO_QUOTES_KEPT: must be at least 86400, which is a day"):
        read_source_settings("coingecko", {"COINGECKO_QUOTES_KEPT": kept})


def test_all_errors_of_a_source_are_reported_together_without_its_key() -> None:
    with pytest.raises(SettingsError) as caught:
        read_source_settings(
            "coingecko",
            {
                "COINGECKO_URL": "https://user:p4ss@host/",
                "COINGECKO_API_KEY": "kéy in two words",
                "COINGECKO_EVERY": "0",
                "COINGECKO_CALLS_PER_MINUTE": "many",
                "COINGECKO_CALLS_PER_MONTH": "-1",
                "COINGECKO_PAGES": "0",
            },
        )
    assert str(caught.value).splitlines() == [
        "These settings are wrong or missing:",
        "  COINGECKO_URL: must contain no user and no password, since it is stored with each page",
        "  COINGECKO_API_KEY: must consist of visible ASCII characters, without spaces",
        "  COINGECKO_EVERY: must be at least 1 and at most 31622400, which is a year",
        "  COINGECKO_CALLS_PER_MINUTE: Not a valid integer.",
        "  COINGECKO_CALLS_PER_MONTH: must be more than 0",
        "  COINGECKO_PAGES: must be more than 0",
    ]


# Secrets


def test_the_repr_of_the_settings_contains_no_secret() -> None:
    settings = read_settings({**REQUIRED, "API_TOKEN": TOKEN})
    upstream = read_source_settings("coingecko", {"COINGECKO_API_KEY": KEY, "COINGECKO_PLAN": "pro"})
    shown = repr(settings) + repr(upstream)
    assert "task_slice=240" in shown
    assert "plan='pro'" in shown
    for secret in (PASSWORD, "v4lkey", TOKEN, KEY):
        assert secret not in shown


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "API_TOKEN", "COINGECKO_API_KEY", "COINGECKO_URL"])
def test_error_messages_contain_no_secret(name: str) -> None:
    environ = {**REQUIRED, name: "ftp://u:s3cret@h/ x", "LEASE": "0", "COINGECKO_EVERY": "0"}
    messages = []
    for read in (lambda: read_settings(environ), lambda: read_source_settings("coingecko", environ)):
        with pytest.raises(SettingsError) as caught:
            read()
        messages.append(str(caught.value))
    assert name in "".join(messages)
    assert "s3cret" not in "".join(messages)


def test_all_secrets_in_the_environment_are_returned_longest_first() -> None:
    environ = {
        **REQUIRED,
        "API_TOKEN": TOKEN,
        "COINGECKO_API_KEY": f"{KEY}\n",
        "COINPAPRIKA_API_KEY": "",
        "POSTGRES_PASSWORD": "p0stgres",
        "FLOWER_BASIC_AUTH": "kasparro:fl0wer",
        "PROXY_URL": "http://me:pr0xy@host/",
        "https_proxy": "http://me:pr0xy2@host/",
        "DESK_URL": "https://t0ken@host/",
        "DESK_API_SECRET": "s3cret",
        "DESK_API_PASSPHRASE": "w0rds",
        "BROKEN_URL": "http://[::1",
        "COINGECKO_PLAN": "pro",
    }
    decoded = "p4ssw0rd/of@the-database"
    secrets = secrets_in(environ)
    assert set(secrets) == {PASSWORD, decoded, "v4lkey", TOKEN, KEY, "p0stgres", "fl0wer", "pr0xy"} | {
        "pr0xy2",
        "t0ken",
        "s3cret",
        "w0rds",
    }
    assert list(secrets) == sorted(secrets, key=len, reverse=True)


def test_a_process_reports_an_invalid_setting_and_exits_without_a_traceback(start: Callable[..., Process]) -> None:
    process = start("beat", LEASE="x")
    process.wait(20)
    assert process.log.read_text() == "These settings are wrong or missing:\n  LEASE: Not a valid number.\n"


@pytest.mark.parametrize("command", ["replay coingecko --diff", "decide merge one other --reason same"])
def test_a_command_reports_missing_settings_and_exits_without_a_traceback(command: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in REQUIRED}
    argv = [sys.executable, "-m", "tasks", *command.split()]
    process = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
    missing = "".join(f"  {name}: Missing data for required field.\n" for name in REQUIRED)
    assert (process.returncode, process.stderr) == (2, f"These settings are wrong or missing:\n{missing}")


# The tables of docs/reference/settings.md


@pytest.mark.parametrize("settings_class", [Settings, SourceSettings])
def test_the_table_has_a_row_with_the_meaning_of_every_setting(settings_class: type) -> None:
    rows = table(settings_class)
    assert [name for name, _, _ in rows] == [setting.name.upper() for setting in fields(settings_class)]
    assert all(about for _, _, about in rows)


def test_the_table_shows_the_defaults() -> None:
    rows = {name: default for name, default, _ in table(Settings)}
    assert (rows["LEASE"], rows["LOG_FORMAT"], rows["READS_NEED_TOKEN"]) == ("180", "auto", "False")
    assert (rows["DATABASE_URL"], rows["API_TOKEN"]) == ("", "")
