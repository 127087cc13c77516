"""Test that every registered source fulfills the contract."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sources import coingecko
from sources.contract import DeclarationError, Page, Source, TerminalError, TransientError, Upstream
from sources.registry import MODULES, SOURCES
from tests.upstreams import canned

INVALID_BODIES = {
    "nothing": b"",
    "an HTML page": b"<!DOCTYPE html><title>Attention Required!</title>",
    "an error object": b'{"status": {"error_code": 429, "error_message": "slow down"}}',
    "a number": b"42",
    "bytes": b"\xff\xfe\x00\x01",
    "half a list": b'[{"id": "bitcoin", "na',
}

every_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
every_upstream = pytest.mark.parametrize(
    "source",
    [source for source in SOURCES.values() if source.upstreams],
    ids=[name for name, source in SOURCES.items() if source.upstreams],
)


def test_a_source_has_the_name_of_its_module() -> None:
    assert [f"sources.{name}" for name in SOURCES] == list(MODULES)


@every_source
def test_a_source_name_is_valid_in_environment_variables_labels_and_urls(source: Source) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", source.name)


@every_source
def test_a_source_runs_at_most_once_a_minute(source: Source) -> None:
    assert source.every >= timedelta(minutes=1)


@every_upstream
def test_an_upstream_has_an_https_url_and_a_declared_limit(source: Source) -> None:
    for upstream in source.upstreams.values():
        assert re.fullmatch(r"https://[a-z0-9.-]+(/[a-z0-9]+)*", upstream.url)
    assert source.rate.per_minute or source.rate.per_month


@every_upstream
@pytest.mark.parametrize("body", INVALID_BODIES.values(), ids=INVALID_BODIES)
def test_an_invalid_body_is_an_error_and_never_an_empty_page(source: Source, body: bytes) -> None:
    page = Page(body, "application/json", {}, datetime(2026, 1, 1, tzinfo=UTC), None)
    with pytest.raises((TransientError, TerminalError)):
        list(source.parse(page))


def test_only_a_source_that_yields_everything_can_replace() -> None:
    yields_all = canned()
    assert replace(yields_all, replaces=True).replaces
    history = coingecko.source.history
    for other in ({"upstreams": {"open": Upstream("https://example.com")}}, {"history": history}):
        with pytest.raises(DeclarationError, match="replaces=True needs a source that yields all its quotes"):
            replace(yields_all, **other, replaces=True)  # type: ignore[arg-type]
