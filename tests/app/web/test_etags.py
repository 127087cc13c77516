"""Test that an unchanged response is a 304, and that a changed response is always sent in full."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows

PATHS = ("/data", "/data/latest", "/assets", "/assets/bitcoin", "/data?format=csv", "/data?count=none&limit=1")


@pytest.fixture
def listing(rows: Rows) -> int:
    rows.checkpoint(version=1, updated_at=NOON)
    listing = rows.listing()
    rows.quote(listing, NOON)
    rows.quote(listing, NOON - timedelta(hours=1))
    return listing


def etag(api: FlaskClient, path: str) -> str:
    response = api.get(path, buffered=True)
    assert response.status_code == 200
    assert response.headers["ETag"].startswith('W/"')
    assert response.headers["Cache-Control"] == "private, no-cache"
    return response.headers["ETag"]


def status(api: FlaskClient, path: str, tag: str) -> int:
    return api.get(path, headers={"If-None-Match": tag}, buffered=True).status_code


@pytest.mark.parametrize("path", PATHS)
def test_a_client_with_a_current_response_gets_a_304_without_a_body(
    api: FlaskClient, uncached: FlaskClient, listing: int, path: str
) -> None:
    tag = etag(api, path)
    for client in (api, uncached):
        response = client.get(path, headers={"If-None-Match": f'"another", {tag}'})
        assert (response.status_code, response.data, response.headers["ETag"]) == (304, b"", tag)
        assert status(client, path, '"another"') == 200


def test_a_304_reads_no_rows(api: FlaskClient, listing: int, rows: Rows) -> None:
    tag = etag(api, "/data")
    with rows.engine.connect() as connection:
        connection.execute(text("LOCK TABLE quotes IN ACCESS EXCLUSIVE MODE"))
        assert status(api, "/data", tag) == 304


@pytest.mark.parametrize(
    "other", ["/data?limit=1", "/data?order=asc", "/data?fields=price", "/data?format=csv", "/data/latest", "/assets"]
)
def test_different_requests_have_different_etags(api: FlaskClient, listing: int, other: str) -> None:
    assert status(api, other, etag(api, "/data")) == 200


def test_equivalent_requests_have_the_same_etag(api: FlaskClient, listing: int) -> None:
    assert etag(api, "/data") == etag(api, "/data?order=desc&limit=100")


def committed_page(rows: Rows, listing: int) -> None:
    with rows.engine.begin() as connection:
        connection.execute(text("UPDATE checkpoints SET version = version + 1"))
        connection.execute(text("UPDATE quotes SET price = 2 WHERE observed_at = :noon"), {"noon": NOON})


def page_of_another_source(rows: Rows, listing: int) -> None:
    rows.checkpoint("coinpaprika", version=1)


def restored_dump(rows: Rows, listing: int) -> None:
    """Simulate a restored dump whose checkpoint reaches the same version again with other rows."""
    with rows.engine.begin() as connection:
        connection.execute(text("UPDATE checkpoints SET updated_at = clock_timestamp()"))


def renamed_listing(rows: Rows, listing: int) -> None:
    with rows.engine.begin() as connection:
        connection.execute(text("UPDATE listings SET name = 'Another'"))


def moved_listing(rows: Rows, listing: int) -> None:
    with rows.engine.begin() as connection:
        connection.execute(text("INSERT INTO assets (slug, symbol, name) VALUES ('other', 'X', 'Other')"))
        connection.execute(text("UPDATE listings SET asset = (SELECT max(id) FROM assets)"))


def renamed_asset(rows: Rows, listing: int) -> None:
    with rows.engine.begin() as connection:
        connection.execute(text("UPDATE assets SET slug = 'renamed'"))


def deleted_quotes(rows: Rows, listing: int) -> None:
    with rows.engine.begin() as connection:
        connection.execute(text("DELETE FROM quotes WHERE observed_at < :noon"), {"noon": NOON})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "change",
    [
        committed_page,
        page_of_another_source,
        restored_dump,
        renamed_listing,
        moved_listing,
        renamed_asset,
        deleted_quotes,
    ],
)
def test_a_changed_response_is_sent_in_full(
    api: FlaskClient, uncached: FlaskClient, rows: Rows, listing: int, path: str, change: Callable[[Rows, int], None]
) -> None:
    tag = etag(api, path)
    change(rows, listing)
    assert status(api, path, tag) != 304
    assert content(api, path) == content(uncached, path)


def content(api: FlaskClient, path: str) -> Any:
    """Return the members of a response that are the same for every request."""
    response = api.get(path, buffered=True)
    if not response.is_json:
        return response.data
    return {name: value for name, value in response.json.items() if name in ("data", "slug", "listings", "code")}


def test_a_polling_client_that_gets_a_304_misses_no_late_commit(api: FlaskClient, rows: Rows, listing: int) -> None:
    first = get(api, "/data")
    path = f"/data?ingested_since={first['ingested_until']}"
    with rows.engine.connect() as writer:
        writer.execute(text("UPDATE checkpoints SET version = version + 1"))
        writer.execute(
            text(
                "INSERT INTO quotes (listing_id, observed_at, price, fetched_at, run)"
                " VALUES (:listing, now(), 1, now(), :run)"
            ),
            {"listing": listing, "run": uuid.UUID(int=1)},
        )
        tag = etag(api, path)
        assert status(api, path, tag) == 304
        writer.commit()
    response: Any = api.get(path, headers={"If-None-Match": tag})
    assert [row["price"] for row in response.json["data"]] == ["1"]


@pytest.mark.parametrize("path", ["/data?limit=0", "/data?asset=nothing", "/assets/nothing"])
def test_an_error_response_has_no_etag(api: FlaskClient, path: str) -> None:
    assert "ETag" not in api.get(path).headers
