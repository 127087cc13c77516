"""Test that a raw body is stored compressed, once per source and digest, and is read back unchanged."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from sources.contract import Page
from store.engine import make_engine
from tasks.archive.raw_bodies import read_body, save_body, start_saving
from tests.tasks.conftest import Bench
from tests.upstreams import FETCHED, canned


@pytest.fixture(autouse=True)
def _sources(bench: Bench) -> None:
    for name in ("canned", "other"):
        bench.request(canned(name=name))


def page_of(body: bytes, content_type: str = "application/json", fetched_at: datetime = FETCHED) -> Page:
    return Page(body, content_type, {}, fetched_at, None)


def save(engine: Engine, page: Page, source: str = "canned") -> bool:
    """Store the body of a page as its transaction does. Return whether the body was written."""
    with engine.begin() as connection:
        pending = start_saving(connection, source, page)
        if pending:
            save_body(connection, source, page, pending)
        return pending is not None


def read(engine: Engine, page: Page, source: str = "canned") -> bytes | None:
    with engine.connect() as connection:
        return read_body(connection, source, page.digest)


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00", "é\ud7ff\n\t\\".encode(), bytes(range(256)) * 4, os.urandom(300_000)],
    ids=["empty", "nul", "text", "every_byte", "incompressible"],
)
def test_a_saved_body_is_read_back_unchanged(bench: Bench, body: bytes) -> None:
    page = page_of(body)
    assert save(bench.engine, page)
    assert read(bench.engine, page) == body


def test_reading_a_body_that_was_never_saved_returns_none(bench: Bench) -> None:
    assert read(bench.engine, page_of(b"[]")) is None


def test_the_row_stores_the_size_content_type_and_receipt_time_of_a_body(bench: Bench) -> None:
    elsewhere = timezone(timedelta(hours=-9, minutes=-30))
    received = datetime(2026, 3, 29, 1, 59, 59, 999_999, tzinfo=elsewhere)
    save(bench.engine, page_of(b"7" * 100_000, "text/csv; charset=utf-8", received))
    [row] = bench.rows("SELECT size, content_type, received_at, length(body) AS stored FROM raw_bodies")
    assert (row["size"], row["content_type"]) == (100_000, "text/csv; charset=utf-8")
    assert row["received_at"] == received.astimezone(UTC)
    assert row["stored"] < 1000


def test_a_repeated_body_is_stored_once_for_each_source(bench: Bench) -> None:
    page, later = page_of(b"[1]"), page_of(b"[1]", fetched_at=FETCHED + timedelta(days=1))
    assert [save(bench.engine, page), save(bench.engine, later)] == [True, False]
    assert save(bench.engine, page, "other")
    assert bench.one("SELECT count(*) FROM raw_bodies") == 2
    assert bench.one("SELECT received_at FROM raw_bodies WHERE source = 'canned'") == FETCHED


def test_a_deleted_body_is_restored_in_its_row_when_it_is_received_again(bench: Bench) -> None:
    page = page_of(b"[1]")
    save(bench.engine, page)
    bench.rows("UPDATE raw_bodies SET body = NULL")
    assert read(bench.engine, page) is None
    later = replace(page, content_type="text/plain", fetched_at=FETCHED + timedelta(days=1))
    assert save(bench.engine, later)
    assert read(bench.engine, page) == b"[1]"
    [row] = bench.rows("SELECT content_type, received_at FROM raw_bodies")
    assert tuple(row.values()) == ("text/plain", FETCHED + timedelta(days=1))


def test_a_stored_body_is_locked_against_retention_until_its_page_is_committed(bench: Bench) -> None:
    page = page_of(b"[1]")
    save(bench.engine, page)
    delete = text("UPDATE raw_bodies SET body = NULL")
    rival = make_engine(bench.settings.database_url, "rival")
    with bench.engine.begin() as connection:
        assert start_saving(connection, "canned", page) is None
        with rival.begin() as other:
            other.execute(text("SET LOCAL lock_timeout = '20ms'"))
            with pytest.raises(OperationalError, match="lock timeout"):
                other.execute(delete)
    with rival.begin() as other:
        assert other.execute(delete).rowcount == 1
    rival.dispose()
