"""Test what a page says about the response that it was made from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from sources.pages import Page, Response, Window

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
RESPONSE = Response(b'{"usd": 1}', 200, "application/json", {"method": "GET", "url": "/prices"}, NOW, etag='"1"')


def test_the_latest_time_of_a_window_includes_the_clock_skew() -> None:
    assert Window("run", "partition", None, NOW, skew=timedelta(seconds=30)).latest == NOW + timedelta(seconds=30)
    assert Window("run", "partition", None, NOW).latest == NOW


def test_a_page_of_a_response_has_its_body_and_its_request() -> None:
    page = Page.of(RESPONSE, {"next": 2})
    assert (page.body, page.request, page.status, page.fetched_at) == (RESPONSE.body, RESPONSE.request, 200, NOW)
    assert page.cursor == {"next": 2}
    assert page.digest == sha256(RESPONSE.body).digest()


@pytest.mark.parametrize("change", [{"body": b"[]"}, {"request": {"part": 1}}, {"response": None}], ids=str)
def test_a_page_with_another_body_or_request_is_not_a_whole_response(change: dict[str, object]) -> None:
    page = Page.of(replace(RESPONSE, unchanged=True), None)
    assert page.is_whole_response
    assert page.unchanged
    changed = replace(page, **change)
    assert not changed.is_whole_response
    assert not changed.unchanged


def test_a_whole_response_that_is_new_is_not_unchanged() -> None:
    page = Page.of(RESPONSE, None)
    assert page.is_whole_response
    assert not page.unchanged
