"""GET /data as a file: the very rows that the pages show, every one of them, of one moment."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from app.quotes.fields import MEMBERS
from app.web.formats import instant
from tests.app.quotes.test_data import get, pages
from tests.app.rows import NOON, Rows

FORMATS = ("csv", "ndjson", "parquet")
ODD_NAME = 'Wrapped "Ether",\r\nbridged\n— 以太坊\\n'


def export(api: FlaskClient, form: str, **query: Any) -> Any:
    """The answer with the whole file."""
    answer = api.get("/data", query_string={"format": form, **query}, buffered=True)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.fixture
def begin(api: FlaskClient) -> Iterator[Callable[[str], Any]]:
    """Begins an export; gives the answer, whose file is still to be read."""
    begun: list[Any] = []

    def begin(form: str) -> Any:
        begun.append(api.get(f"/data?format={form}"))
        assert begun[-1].status_code == 200
        return begun[-1]

    yield begin
    for answer in begun:
        answer.close()


def rows_of(form: str, body: bytes) -> list[dict[str, Any]]:
    """The rows of a file as the JSON pages spell them."""
    return READ[form](body)


def _read_csv(body: bytes) -> list[dict[str, Any]]:
    rows = csv.DictReader(io.StringIO(body.decode(), newline=""))
    return [
        {name: int(value) if name == "rank" and value else value or None for name, value in row.items()} for row in rows
    ]


def _read_ndjson(body: bytes) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in body.splitlines()]
    last = rows.pop()
    assert (last["complete"], last["rows"]) == (True, len(rows))
    return rows


def _read_parquet(body: bytes) -> list[dict[str, Any]]:
    spelled = {datetime: instant}
    rows = pl.read_parquet(io.BytesIO(body)).to_dicts()
    return [{name: spelled.get(type(value), lambda it: it)(value) for name, value in row.items()} for row in rows]


READ: Mapping[str, Callable[[bytes], list[dict[str, Any]]]] = {
    "csv": _read_csv,
    "ndjson": _read_ndjson,
    "parquet": _read_parquet,
}


@pytest.fixture
def odd(rows: Rows) -> None:
    """Rows of two sources, with names, numbers and times that are easily spoiled."""
    listing = rows.listing("ether", symbol='E"')
    other = rows.listing("bitcoin", "coinpaprika")
    with rows.engine.begin() as connection:
        connection.execute(text("UPDATE listings SET name = :name WHERE id = :id"), {"name": ODD_NAME, "id": listing})
    rows.quote(listing, NOON, "0.0000000031", rank=7, max_supply=Decimal("4.2e17"), change_24h_pct=Decimal("-0.10"))
    rows.quote(listing, NOON.replace(microsecond=7), "123456789012345678901234567890.123456789", open=Decimal(1))
    rows.quote(other, datetime(1970, 1, 1, tzinfo=UTC), "1")
    rows.quote(other, NOON, "2", low=Decimal(0))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "query",
    [
        {},
        {"order": "asc"},
        {"source": "coinpaprika"},
        {"observed_from": "2026-01-31T12:00:00Z", "fields": "price,observed_at,name"},
        {"symbol": "NOBODY"},
        {"fields": "rank"},
        {"fields": "open"},
        {"fields": "name"},
    ],
    ids=str,
)
def test_a_file_has_the_rows_of_the_pages_in_their_order(
    api: FlaskClient, odd: None, form: str, query: dict[str, str]
) -> None:
    expected = [row for page in pages(api, limit=1, **query) for row in page]
    answer = export(api, form, **query)
    assert rows_of(form, answer.data) == expected
    assert answer.headers["X-Row-Count"] == str(len(expected))
    assert f"quotes.{form}" in answer.headers["Content-Disposition"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_without_rows_still_says_what_its_members_are(api: FlaskClient, form: str) -> None:
    body = export(api, form).data
    assert rows_of(form, body) == []
    if form == "csv":
        assert body.decode() == ",".join(MEMBERS) + "\n"
    if form == "parquet":
        assert list(pl.read_parquet_schema(io.BytesIO(body))) == list(MEMBERS)


def test_parquet_has_times_as_times_and_amounts_as_text_that_lost_nothing(api: FlaskClient, odd: None) -> None:
    body = export(api, "parquet", fields="observed_at,price,rank").data
    frame = pl.read_parquet(io.BytesIO(body))
    assert frame.schema == {"observed_at": pl.Datetime("us", "UTC"), "price": pl.String(), "rank": pl.Int32()}
    assert frame["price"][0] == "123456789012345678901234567890.123456789"
    said = pl.read_parquet_metadata(io.BytesIO(body))
    assert said["kasparro.rows"] == "4"
    assert said["kasparro.query"] == "format=parquet&fields=observed_at,price,rank"


def test_ndjson_ends_with_a_line_that_no_row_can_be(api: FlaskClient, odd: None) -> None:
    answer = export(api, "ndjson")
    *_, last = [json.loads(line) for line in answer.data.splitlines()]
    assert last == {"complete": True, "rows": 4, "ingested_until": answer.headers["X-Ingested-Until"]}
    assert not last.keys() & MEMBERS.keys()


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_has_the_rows_of_one_moment(
    begin: Callable[[str], Any], rows: Rows, many: Callable[[int], None], form: str
) -> None:
    many(5_000)
    answer = begin(form)
    body = next(answer.response)
    with rows.engine.begin() as connection:
        connection.execute(text("DELETE FROM quotes WHERE observed_at < :noon"), {"noon": NOON + timedelta(minutes=1)})
    body += b"".join(answer.response)
    assert len(rows_of(form, body)) == 5_000


def test_a_follower_goes_on_where_a_file_ended(api: FlaskClient, rows: Rows, engine: Engine) -> None:
    listing = rows.listing()
    with engine.connect() as slow:
        slow.execute(text("SELECT now()"))
        until = export(api, "csv").headers["X-Ingested-Until"]
        slow.execute(
            text(
                "INSERT INTO quotes (listing_id, observed_at, price, fetched_at, ingested_at, run)"
                " VALUES (:listing, now(), 1, now(), now(), gen_random_uuid())"
            ),
            {"listing": listing},
        )
        slow.commit()
    assert len(get(api, "/data", ingested_since=until)["data"]) == 1


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["limit", "cursor", "count"])
def test_what_is_for_pages_is_refused_for_a_file(api: FlaskClient, form: str, name: str) -> None:
    answer = api.get("/data", query_string={"format": form, name: "exact" if name == "count" else "5"})
    assert answer.status_code == 422
    assert answer.json is not None
    [error] = answer.json["errors"]
    assert error == {
        "in": "query",
        "name": name,
        "detail": f"expected none with format={form}, which is all rows in one file",
    }


def test_a_format_that_is_not_there_is_named_with_those_that_are(api: FlaskClient) -> None:
    answer = api.get("/data?format=jsonl")
    assert answer.json is not None
    assert "json, csv, ndjson, parquet" in answer.json["errors"][0]["detail"]


def test_a_file_whose_query_fails_at_once_is_a_problem(api: FlaskClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE quotes"))
    answer = api.get("/data?format=csv")
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"]) == (503, "database_unavailable")


def test_no_more_files_at_once_than_are_allowed_and_the_next_once_one_is_through(
    api: FlaskClient, odd: None, begin: Callable[[str], Any]
) -> None:
    first, _ = begin("csv"), begin("parquet")
    refused = api.get("/data?format=ndjson")
    assert refused.json is not None
    assert (refused.status_code, refused.json["code"]) == (503, "too_many_exports")
    assert int(refused.headers["Retry-After"]) > 0
    assert len(get(api, "/data")["data"]) == 4
    first.close()
    assert len(rows_of("ndjson", export(api, "ndjson").data)) == 4


def test_what_fails_or_has_no_body_keeps_no_place(api: FlaskClient, odd: None) -> None:
    for _ in range(3):
        assert api.head("/data?format=csv", buffered=True).status_code == 200
        assert api.get("/data?format=csv&asset=nothing").status_code == 422
    export(api, "csv")
