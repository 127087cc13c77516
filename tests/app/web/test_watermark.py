"""Test that a client that continues from the watermark misses no late commit."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from app.web.context import context_of
from app.web.watermark import Watermark
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


def test_the_watermark_is_reused(app: Flask) -> None:
    watermark = Watermark()
    with context_of(app).reader.connect() as connection:
        assert watermark.ingested_until(connection) == watermark.ingested_until(connection)
