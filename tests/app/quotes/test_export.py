"""Test GET /data as a file: it contains every row of the pages, from one snapshot."""

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

from app.quotes.fields import AMOUNTS, MEMBERS, TIMES
from app.web.formats import instant
from tests.app.quotes.test_data import get, pages
from tests.app.rows import NOON, Rows

FORMATS = ("csv", "ndjson", "parquet")
AWKWARD_NAME = 'Wrapped "Ether",\r\nbridged\n— 以太坊\\n'


def export(api: FlaskClient, format_: str, **query: Any) -> Any:
    """Request a file, and return the response with its full content."""
    response = api.get("/data", query_string={"format": format_, **query}, buffered=True)
    assert response.status_code == 200, response.text
    return response


@pytest.fixture
def start_export(api: FlaskClient) -> Iterator[Callable[[str], Any]]:
    """Return a function that starts an export and returns the response before reading the file."""
    responses: list[Any] = []

    def start_export(format_: str) -> Any:
        responses.append(api.get(f"/data?format={format_}"))
        assert responses[-1].status_code == 200
        return responses[-1]

    yield start_export
    for response in responses:
        response.close()


def rows_of(format_: str, body: bytes) -> list[dict[str, Any]]:
    """Return the rows of a file as the JSON pages format them."""
    return READERS[format_](body)


def _read_csv(body: bytes) -> list[dict[str, Any]]:
    rows = csv.DictReader(io.StringIO(body.decode(), newline=""))
    return [
        {name: int(value) if name == "rank" and value else _as_in_pages(name, value) for name, value in row.items()}
        for row in rows
    ]


def _as_in_pages(name: str, value: Any) -> Any:
    return instant(datetime.fromisoformat(value)) if name in TIMES else value or None


def _read_ndjson(body: bytes) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in body.splitlines()]
    return [{name: _as_in_pages(name, value) for name, value in row.items()} for row in rows]


def _read_parquet(body: bytes) -> list[dict[str, Any]]:
    formatters = {datetime: instant}
    rows = pl.read_parquet(io.BytesIO(body)).to_dicts()
    return [
        {name: formatters.get(type(value), lambda plain: plain)(value) for name, value in row.items()} for row in rows
    ]


READERS: Mapping[str, Callable[[bytes], list[dict[str, Any]]]] = {
    "csv": _read_csv,
    "ndjson": _read_ndjson,
    "parquet": _read_parquet,
}


@pytest.fixture
def awkward_rows(rows: Rows) -> None:
    """Insert rows of two sources with names, numbers and times that are hard to format correctly."""
    listing = rows.listing("ether", symbol='E"')
    other = rows.listing("bitcoin", "coinpaprika")
    with rows.engine.begin() as connection:
        connection.execute(
            text("UPDATE listings SET name = :name WHERE id = :id"), {"name": AWKWARD_NAME, "id": listing}
        )
    rows.quote(listing, NOON, "0.0000000031", rank=7, max_supply=Decimal("4.2e17"), change_24h_pct=Decimal("-0.10"))
    rows.quote(listing, NOON.replace(microsecond=7), "123456789012345678901234567890.123456789", open=Decimal(1))
    rows.quote(other, datetime(1970, 1, 1, tzinfo=UTC), "1")
    rows.quote(other, NOON, "2", low=Decimal(0))


@pytest.mark.parametrize("format_", FORMATS)
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
def test_a_file_has_the_rows_of_the_pages_in_the_same_order(
    api: FlaskClient, awkward_rows: None, format_: str, query: dict[str, str]
) -> None:
    expected = [row for page in pages(api, limit=1, **query) for row in page]
    response = export(api, format_, numbers="text", **query)
    assert rows_of(format_, response.data) == expected
    assert response.headers["X-Row-Count"] == str(len(expected))
    assert f"quotes.{format_}" in response.headers["Content-Disposition"]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_without_rows_still_names_its_members(api: FlaskClient, format_: str) -> None:
    body = export(api, format_).data
    assert rows_of(format_, body) == []
    if format_ == "csv":
        assert body.decode() == ",".join(MEMBERS) + "\n"
    if format_ == "parquet":
        assert list(pl.read_parquet_schema(io.BytesIO(body))) == list(MEMBERS)


@pytest.mark.parametrize(
    ("numbers", "types", "rounded"),
    [
        ("", {"price": pl.Float64(), "low": pl.Float64()}, "price,low"),
        ("double", {"price": pl.Float64(), "low": pl.Float64()}, "price,low"),
        ("decimal", {"price": pl.Float64(), "price_text": pl.String(), "low": pl.Decimal(38, 6)}, "price"),
        ("text", {"price": pl.String(), "low": pl.String()}, ""),
    ],
)
def test_a_parquet_file_reports_its_types_and_the_columns_that_may_be_rounded(
    api: FlaskClient, awkward_rows: None, numbers: str, types: dict[str, pl.DataType], rounded: str
) -> None:
    response = export(api, "parquet", fields="observed_at,price,low,rank", **({"numbers": numbers} if numbers else {}))
    frame = pl.read_parquet(io.BytesIO(response.data))
    assert frame.schema == {"observed_at": pl.Datetime("us", "UTC"), **types, "rank": pl.Int32()}
    metadata = pl.read_parquet_metadata(io.BytesIO(response.data))
    assert (metadata["kasparro.rows"], metadata["kasparro.numbers"]) == ("4", numbers or "double")
    assert metadata["kasparro.rounded_columns"] == response.headers.get("X-Rounded-Columns", "") == rounded
    assert metadata["kasparro.query"].startswith("format=parquet&fields=observed_at,price,low,rank")


@pytest.mark.parametrize(
    ("format_", "numbers", "price", "rounded"),
    [
        ("csv", "decimal", ["2.0", "0.0000000031", "123456789012345678901234567890.123456789"], ""),
        ("csv", "text", ["2", "0.0000000031", "123456789012345678901234567890.123456789"], ""),
        ("csv", "double", ["2.0", "3.1e-09", "1.2345678901234568e+29"], ",".join(AMOUNTS)),
        ("ndjson", "double", ["2.0", "3.1e-09", "1.2345678901234568e+29"], ",".join(AMOUNTS)),
        ("ndjson", "text", ['"2"', '"0.0000000031"', '"123456789012345678901234567890.123456789"'], ""),
    ],
)
def test_numbers_are_written_as_requested(
    api: FlaskClient, awkward_rows: None, format_: str, numbers: str, price: list[str], rounded: str
) -> None:
    response = export(api, format_, numbers=numbers)
    separator = {"csv": ",{},", "ndjson": '"price":{},'}[format_]
    for number in price:
        assert separator.format(number) in response.text
    assert response.headers.get("X-Rounded-Columns", "") == rounded
    assert (
        export(api, format_, fields="price").data
        == export(api, format_, fields="price", numbers={"csv": "decimal", "ndjson": "double"}[format_]).data
    )


@pytest.mark.parametrize("format_", ["csv", "ndjson"])
def test_the_text_of_times_sorts_by_time(api: FlaskClient, awkward_rows: None, format_: str) -> None:
    times = [line.strip('{}"').rpartition('"')[2] for line in export(api, format_, fields="observed_at").text.split()]
    assert times[-4:] == sorted(times[-4:], reverse=True)
    assert times[-4] == "2026-01-31T12:00:00.000007Z"


@pytest.mark.parametrize(
    ("query", "name", "expected"),
    [
        ("numbers=double", "numbers", "expected none with format=json"),
        ("format=ndjson&numbers=decimal", "numbers", "expected double or text with format=ndjson"),
        ("format=parquet&numbers=float", "numbers", "expected one of double, decimal, text, got 'float'"),
        ("format=csv&summary=line", "summary", "expected none with format=csv; only NDJSON can have a last line"),
    ],
)
def test_an_option_that_the_format_does_not_have_is_rejected(
    api: FlaskClient, query: str, name: str, expected: str
) -> None:
    response = api.get(f"/data?{query}")
    assert response.json is not None
    assert response.status_code == 422
    [error] = response.json["errors"]
    assert (error["name"], error["detail"]) == (name, expected)


def test_ndjson_ends_with_a_summary_if_requested(api: FlaskClient, awkward_rows: None) -> None:
    response = export(api, "ndjson", summary="line")
    *_, last = [json.loads(line) for line in response.data.splitlines()]
    assert last == {"complete": True, "rows": 4, "ingested_until": response.headers["X-Ingested-Until"]}
    assert not last.keys() & MEMBERS.keys()


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_contains_the_rows_of_one_snapshot(
    start_export: Callable[[str], Any], rows: Rows, insert_quotes: Callable[[int], None], format_: str
) -> None:
    insert_quotes(5_000)
    response = start_export(format_)
    body = next(response.response)
    with rows.engine.begin() as connection:
        connection.execute(text("DELETE FROM quotes WHERE observed_at < :noon"), {"noon": NOON + timedelta(minutes=1)})
    body += b"".join(response.response)
    assert len(rows_of(format_, body)) == 5_000


def test_a_polling_client_can_continue_from_a_file(api: FlaskClient, rows: Rows, engine: Engine) -> None:
    listing = rows.listing()
    with engine.connect() as writer:
        writer.execute(text("SELECT now()"))
        until = export(api, "csv").headers["X-Ingested-Until"]
        writer.execute(
            text(
                "INSERT INTO quotes (listing_id, observed_at, price, fetched_at, ingested_at, run)"
                " VALUES (:listing, now(), 1, now(), now(), gen_random_uuid())"
            ),
            {"listing": listing},
        )
        writer.commit()
    assert len(get(api, "/data", ingested_since=until)["data"]) == 1


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("name", ["limit", "cursor", "count"])
def test_paging_parameters_are_rejected_for_a_file(api: FlaskClient, format_: str, name: str) -> None:
    response = api.get("/data", query_string={"format": format_, name: "exact" if name == "count" else "5"})
    assert response.status_code == 422
    assert response.json is not None
    [error] = response.json["errors"]
    assert error == {
        "in": "query",
        "name": name,
        "detail": f"expected none with format={format_}, which sends all rows in one file",
    }


def test_an_unknown_format_is_rejected_with_the_allowed_formats(api: FlaskClient) -> None:
    response = api.get("/data?format=jsonl")
    assert response.json is not None
    assert "json, csv, ndjson, parquet" in response.json["errors"][0]["detail"]


def test_a_file_whose_query_fails_immediately_is_a_503(api: FlaskClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE quotes"))
    response = api.get("/data?format=csv")
    assert response.json is not None
    assert (response.status_code, response.json["code"]) == (503, "database_unavailable")


def test_concurrent_exports_are_limited_and_a_finished_export_frees_its_slot(
    api: FlaskClient, awkward_rows: None, start_export: Callable[[str], Any]
) -> None:
    first, _ = start_export("csv"), start_export("parquet")
    rejected = api.get("/data?format=ndjson")
    assert rejected.json is not None
    assert (rejected.status_code, rejected.json["code"]) == (503, "too_many_exports")
    assert int(rejected.headers["Retry-After"]) > 0
    assert len(get(api, "/data")["data"]) == 4
    first.close()
    assert len(rows_of("ndjson", export(api, "ndjson").data)) == 4


def test_a_failed_or_bodyless_export_frees_its_slot(api: FlaskClient, awkward_rows: None) -> None:
    for _ in range(3):
        assert api.head("/data?format=csv", buffered=True).status_code == 200
        assert api.get("/data?format=csv&asset=nothing").status_code == 422
    export(api, "csv")
