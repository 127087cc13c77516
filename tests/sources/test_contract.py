"""What holds for every source of the registry, present and future."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from sources.contract import LONGEST_WAIT, Page, Source, TerminalError, TransientError
from sources.registry import MODULES, SOURCES

NOT_AN_ANSWER = {
    "nothing": b"",
    "an HTML page": b"<!DOCTYPE html><title>Attention Required!</title>",
    "an error object": b'{"status": {"error_code": 429, "error_message": "slow down"}}',
    "a number": b"42",
    "bytes": b"\xff\xfe\x00\x01",
    "half an answer": b'[{"id": "bitcoin", "na',
}

every_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
every_upstream = pytest.mark.parametrize(
    "source",
    [it for it in SOURCES.values() if it.upstreams],
    ids=[name for name, it in SOURCES.items() if it.upstreams],
)


def test_a_source_is_named_as_its_module() -> None:
    assert [f"sources.{name}" for name in SOURCES] == list(MODULES)


@every_source
def test_a_name_fits_into_a_variable_a_label_and_a_url(source: Source) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", source.name)


@every_source
def test_a_source_is_not_asked_more_than_once_a_minute(source: Source) -> None:
    assert source.every >= timedelta(minutes=1)


@every_upstream
def test_an_upstream_is_spoken_to_in_https_and_its_limits_are_declared(source: Source) -> None:
    for upstream in source.upstreams.values():
        assert re.fullmatch(r"https://[a-z0-9.-]+(/[a-z0-9]+)*", upstream.url)
    assert source.rate.per_minute
    assert source.rate.per_month


@every_upstream
@pytest.mark.parametrize("body", NOT_AN_ANSWER.values(), ids=NOT_AN_ANSWER)
def test_what_is_no_answer_is_never_an_empty_page(source: Source, body: bytes) -> None:
    page = Page(body, "application/json", {}, datetime(2026, 1, 1, tzinfo=UTC), None)
    with pytest.raises((TransientError, TerminalError)):
        list(source.parse(page))


@pytest.mark.parametrize(
    ("asked", "waited"),
    [(5.0, 5.0), (0.0, 0.0), (None, None), (-1.0, None), (float("nan"), None), (1e300, LONGEST_WAIT)],
)
def test_a_time_to_wait_is_one_that_can_be_waited(asked: float | None, waited: float | None) -> None:
    assert TransientError("later", retry_after=asked).retry_after == waited
