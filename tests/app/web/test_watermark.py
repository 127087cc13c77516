"""Test that a client that continues from the watermark misses no late commit."""

from __future__ import annotations

import uuid
from contextlib import closing
from datetime import datetime, timedelta

import psycopg2
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from app.web.context import context_of
from app.web.watermark import Watermark
from settings import Settings
from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows
from tests.processes import until


def test_a_polling_client_misses_no_late_commit(api: FlaskClient, rows: Rows, engine: Engine) -> None:
    listing = rows.listing()
    with engine.connect() as writer:
        started = writer.execute(text("SELECT now()")).scalar_one()
        first = get(api, "/data")
        assert datetime.fromisoformat(first["ingested_until"]) <= started
        writer.execute(
            text(
                "INSERT INTO quotes (listing_id, observed_at, price, fetched_at, ingested_at, run)"
                " VALUES (:listing, now(), 1, now(), now(), :run)"
            ),
            {"listing": listing, "run": uuid.UUID(int=1)},
        )
        writer.commit()
    assert len(get(api, "/data", ingested_since=first["ingested_until"])["data"]) == 1


def test_every_page_of_a_list_has_the_ingested_until_of_the_first_page(api: FlaskClient, rows: Rows) -> None:
    listing = rows.listing()
    rows.quote(listing, NOON)
    rows.quote(listing, NOON + timedelta(minutes=1))
    first = get(api, "/data", limit=1)
    second = get(api, "/data", limit=1, cursor=first["pagination"]["next_cursor"])
    assert second["ingested_until"] == first["ingested_until"]


def test_the_watermark_lags_a_second_and_waits_for_the_oldest_writer(app: Flask, engine: Engine) -> None:
    with context_of(app).reader.connect() as connection, engine.connect() as writer:
        started = writer.execute(text("SELECT now()")).scalar_one()
        with engine.connect() as other:
            late = started + timedelta(seconds=1)
            until(lambda: other.execute(text("SELECT clock_timestamp()")).scalar_one() > late, what="a second passed")
        assert Watermark().ingested_until(connection) == started
        writer.rollback()
        now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        assert started < Watermark().ingested_until(connection) <= now


def test_a_foreign_transaction_does_not_hold_the_watermark_back(app: Flask, api_settings: Settings) -> None:
    with closing(psycopg2.connect(api_settings.database_url, application_name="pg_dump")) as foreign:
        with foreign.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id(), now()")
            [_, started] = cursor.fetchone() or (None, None)

        def is_past() -> bool:
            with context_of(app).reader.connect() as connection:
                return Watermark().ingested_until(connection) > started

        until(is_past)


def test_the_watermark_is_never_later_than_the_newest_stored_time(app: Flask, engine: Engine) -> None:
    """A process that does not notice a step of the clock continues after that time."""
    with engine.begin() as connection:
        beaten_at = connection.execute(
            text("INSERT INTO heartbeats VALUES ('beat', service_time() - interval '1 h') RETURNING beaten_at")
        ).scalar_one()
    with context_of(app).reader.connect() as connection:
        assert Watermark().ingested_until(connection) == beaten_at


def test_the_watermark_is_reused(app: Flask) -> None:
    watermark = Watermark()
    with context_of(app).reader.connect() as connection:
        assert watermark.ingested_until(connection) == watermark.ingested_until(connection)
