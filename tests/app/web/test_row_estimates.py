"""Test that few rows are counted exactly, and many rows are estimated."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, select, text

from app.web import row_estimates
from app.web.context import context_of
from app.web.row_estimates import RowEstimate
from store.tables import QuoteRow
from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows


def test_the_total_is_exact_unless_it_is_marked_as_an_estimate(api: FlaskClient, rows: Rows, engine: Engine) -> None:
    listing = rows.listing()
    rows.quote(listing, NOON)

    def total(method: str) -> tuple[int | None, bool]:
        pagination = get(api, "/data", limit=2, count=method, order="asc")["pagination"]
        return pagination["total"], pagination["total_is_estimate"]

    def fill(seconds: int) -> None:
        with engine.begin() as connection:
            connection.execute(
                text("""
                    INSERT INTO quotes (listing_id, observed_at, price, fetched_at, ingested_at, run)
                    SELECT listing_id, observed_at + make_interval(secs => second), price, fetched_at, ingested_at, run
                      FROM (SELECT * FROM quotes ORDER BY observed_at DESC LIMIT 1) AS newest,
                           generate_series(1, :seconds) AS second
                """),
                {"seconds": seconds},
            )

    fill(9)
    assert [total(method) for method in ("none", "exact", "estimated")] == [(None, False), (10, False), (10, False)]
    fill(20_000)
    rows.checkpoint()  # Change the state of the data, as every page does.
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("ANALYZE quotes"))
    assert total("exact") == (20_010, False)
    assert total("estimated") == (20_010, True)


def test_a_small_number_is_counted_each_time(app: Flask, rows: Rows) -> None:
    listing, estimate = rows.listing(), RowEstimate(select(QuoteRow.listing_id))
    with context_of(app).reader.connect() as connection:
        for hour in range(2):
            rows.quote(listing, NOON.replace(hour=hour))
            assert estimate.estimate_or_count(connection, {}) == (hour + 1, False)


def test_an_estimate_is_reused(app: Flask, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_estimates, "MAX_COUNTED_ROWS", 1)
    listing, estimate = rows.listing(), RowEstimate(select(QuoteRow.listing_id))
    with context_of(app).reader.connect() as connection:
        for hour in range(3):
            rows.quote(listing, NOON.replace(hour=hour))
        first = estimate.estimate_or_count(connection, {})
        assert first[1]
        with rows.engine.begin() as writer:
            writer.execute(text("TRUNCATE quotes"))
        assert estimate.estimate_or_count(connection, {}) == first
