"""Test that a changed key, plan, URL or contact is recognized, and that the fingerprint reveals none of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from settings import get_settings
from sources.coingecko import source as coingecko
from sources.contract import Upstream
from sources.http.configuration import configuration_fingerprint, configuration_settings, is_same_configuration
from tests.sources.conftest import KEY


@pytest.fixture(autouse=True)
def with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINGECKO_API_KEY", KEY)


def test_an_unchanged_configuration_has_its_fingerprint_and_no_two_are_equal() -> None:
    first, second = (configuration_fingerprint(coingecko) for _ in range(2))
    assert first != second
    assert is_same_configuration(coingecko, first)
    assert is_same_configuration(coingecko, second)
    assert KEY.encode() not in first


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COINGECKO_API_KEY", KEY + "x"),
        ("COINGECKO_API_KEY", ""),
        ("COINGECKO_API_SECRET", "another"),
        ("COINGECKO_API_PASSPHRASE", "another"),
        ("COINGECKO_PLAN", "pro"),
        ("COINGECKO_URL", "https://proxy.example.com"),
        ("USER_AGENT_CONTACT", "ops@example.com"),
    ],
)
def test_each_changed_setting_changes_the_configuration(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    fingerprint = configuration_fingerprint(coingecko)
    monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    try:
        assert not is_same_configuration(coingecko, fingerprint)
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()


def test_other_settings_and_a_declared_url() -> None:
    fingerprint = configuration_fingerprint(coingecko)
    assert is_same_configuration(replace(coingecko, every=2 * coingecko.every), fingerprint)
    assert not is_same_configuration(replace(coingecko, upstreams={"free": Upstream("https://other")}), fingerprint)


def test_the_settings_that_may_lift_a_pause_are_named() -> None:
    assert configuration_settings(coingecko) == [
        "COINGECKO_API_KEY",
        "COINGECKO_PLAN",
        "COINGECKO_URL",
        "USER_AGENT_CONTACT",
    ]
