"""Test that a variable which looks like a setting of ours is noticed, and that innocent variables are left alone."""

from __future__ import annotations

import pytest

from sources.setting_names import GLOBAL_NAMES, misspelt_settings, names_of, unknown_settings

SOURCES = ["desk", "desk_two", "csv"]


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("DESK_EVRY", "did you mean DESK_EVERY?"),
        ("DESK_APIKEY", "did you mean DESK_API_KEY?"),
        ("DESK_INTERVAL", "known: URL, PLAN, API_KEY"),
    ],
)
def test_an_unknown_setting_of_a_source_is_reported(variable: str, hint: str) -> None:
    [error] = unknown_settings("desk", SOURCES, {variable: "5"}, "")
    assert error.startswith(f"{variable} is set, but a source has no setting ")
    assert hint in error


@pytest.mark.parametrize(
    "variable",
    ["DESK_EVERY", "DESK_TWO_EVERY", "DESK_TWO_EVRY", "DESKTOP_SESSION", "DESK", "DESK_SERVICE_HOST", "DESK_PORT",
     "DESK_PORT_80_TCP_ADDR", "DESK_SERVICE_PORT_HTTP", "DESK_PROXY", "DESK_VERSION", "DESK_SECRET", "desk_evry"],
)  # fmt: skip
def test_an_innocent_variable_with_the_prefix_of_a_source_is_left_alone(variable: str) -> None:
    assert list(unknown_settings("desk", SOURCES, {variable: "5"}, 'os.environ["DESK_SECRET"]')) == []


def test_a_setting_of_the_service_may_begin_with_the_name_of_a_source() -> None:
    assert list(unknown_settings("csv", SOURCES, {"CSV_DIR": "/csv", "CSV_BLOCK_BYTES": "1", "CSV_EVRY": ""}, "")) == []


@pytest.mark.parametrize(
    ("variable", "meant"),
    [("RUN_WORKRES", "RUN_WORKERS"), ("EXTRA_SOURCE", "EXTRA_SOURCES"), ("MAX_ATEMPTS", "MAX_ATTEMPTS")],
)
def test_a_variable_one_edit_away_from_a_setting_is_reported(variable: str, meant: str) -> None:
    assert list(misspelt_settings(GLOBAL_NAMES, {variable: "5"})) == [(variable, meant)]


@pytest.mark.parametrize(
    "environ",
    [
        {"REDIS_URI": "redis://x", "REDIS_URL": "redis://x"},
        {"LOGLEVEL": "debug"},
        {"RELEASE": "1", "LEASES": "1", "PATH": "/bin", "HOME": "/", "LANG": "C", "HOSTNAME": "x", "TERM": "x"},
        {"RUN_WORKRES": " "},
        {"RUN_WORKERZ_X": "5"},
    ],
)
def test_a_variable_of_other_software_is_left_alone(environ: dict[str, str]) -> None:
    assert list(misspelt_settings(GLOBAL_NAMES, environ)) == []


def test_a_misspelt_name_of_a_source_is_reported_with_the_setting() -> None:
    assert list(misspelt_settings(names_of("coingecko"), {"COINGEKO_EVERY": "5"})) == [
        ("COINGEKO_EVERY", "COINGECKO_EVERY")
    ]
