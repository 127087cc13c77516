"""Test that the environment selects a plan with its base URL and the header for its key."""

from __future__ import annotations

import pytest
import requests

from settings import SettingsError
from sources.coingecko import source as coingecko
from sources.http.authentication import Authenticator
from sources.http.plans import Address, upstream_address
from tests.sources.conftest import KEY, NOW
from tests.upstreams import canned


@pytest.mark.parametrize(
    ("environ", "url", "headers"),
    [
        ({}, "https://api.coingecko.com/api/v3", {}),
        ({"API_KEY": KEY}, "https://api.coingecko.com/api/v3", {"x-cg-demo-api-key": KEY}),
        ({"API_KEY": KEY, "PLAN": "pro"}, "https://pro-api.coingecko.com/api/v3", {"x-cg-pro-api-key": KEY}),
        ({"PLAN": "free"}, "https://api.coingecko.com/api/v3", {}),
        ({"PLAN": " ", "API_KEY": ""}, "https://api.coingecko.com/api/v3", {}),
        ({"API_KEY": KEY, "URL": "http://127.0.0.1:1/"}, "http://127.0.0.1:1", {"x-cg-demo-api-key": KEY}),
    ],
)
def test_a_plan_has_a_base_url_and_a_header_for_its_key(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], url: str, headers: dict[str, str]
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(f"COINGECKO_{name}", value)
    address = upstream_address(coingecko)
    request = requests.Request("GET", "http://host/").prepare()
    assert address.url == url
    assert dict(Authenticator(address.credentials, lambda: NOW)(request).headers) == headers


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"PLAN": "gold"}, "COINGECKO_PLAN or COINGECKO_API_KEY: no plan fits them; the plans are: free, demo, pro."),
        ({"PLAN": "pro"}, "COINGECKO_API_KEY: the plan 'pro' needs a key; set it."),
        (
            {"PLAN": "free", "API_KEY": KEY},
            "COINGECKO_API_KEY: the plan 'free' takes no key; unset it, or choose another plan.",
        ),
    ],
)
def test_a_plan_that_contradicts_the_key_is_an_error(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], message: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(f"COINGECKO_{name}", value)
    with pytest.raises(SettingsError) as caught:
        upstream_address(coingecko)
    assert str(caught.value) == message


def test_a_source_without_upstreams_has_no_url_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANNED_API_KEY", KEY)
    assert upstream_address(canned()) == Address()
