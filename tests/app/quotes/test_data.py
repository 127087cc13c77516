"""GET /data: each row once, whatever the order, the way to it, and what comes in meanwhile."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as some
from sqlalchemy import Engine, literal, select, text

from app.quotes import selection
from app.web.context import context_of
from app.web.formats import PLAIN_NUMBER, instant, instant_sql, number_sql
from tests.app.rows import NOON, Rows


def get(api: FlaskClient, path: str, **query: Any) -> Any:
    answer = api.get(path, query_string=query)
    assert answer.status_code == 200, answer.text
    return answer.json


def pages(api: FlaskClient, path: str = "/data", **query: Any) -> Iterator[list[dict[str, Any]]]:
    """Every page of a list, followed to its end."""
    cursor: dict[str, str] = {}
    for _ in range(1000):
        page = get(api, path, **query, **cursor)
        yield page["data"]
        if not page["pagination"]["has_more"]:
            assert page["pagination"]["next_cursor"] is None
            return
        cursor = {"cursor": page["pagination"]["next_cursor"]}
    pytest.fail("the list has no end")


def test_a_row_says_everything_that_is_known_and_null_where_nothing_is(api: FlaskClient, rows: Rows) -> None:
    rows.quote(
        rows.listing(), NOON.replace(microsecond=120000), "0.0000001", market_cap=Decimal("4.2e17"), rank=1, low=None
    )
    assert get(api, "/data")["data"] == [
        {
            "source": "coingecko",
            "asset": "bitcoin",
            "symbol": "BTC",
            "name": "Bitcoin",
            "source_asset_id": "bitcoin",
            "quote_currency": "USD",
            "observed_at": "2026-01-31T12:00:00.120000Z",
            "price": "0.0000001",
            "open": None,
            "high": None,
            "low": None,
            "volume_24h": None,
            "market_cap": "420000000000000000",
            "change_24h_pct": None,
            "rank": 1,
            "circulating_supply": None,
            "total_supply": None,
            "max_supply": None,
            "fetched_at": "2026-01-31T12:00:00Z",
            "ingested_at": "2026-01-31T12:00:00Z",
            "run": "00000000-0000-0000-0000-000000000001",
        }
    ]


def test_an_empty_database_has_an_empty_list(api: FlaskClient) -> None:
    answer = get(api, "/data")
    assert answer["data"] == []
    assert answer["pagination"] == {
        "limit": 100,
        "next_cursor": None,
        "has_more": False,
        "total": 0,
        "total_is_estimate": False,
    }


@pytest.mark.parametrize("few", [0, 50], ids=["by the time index", "by each listing's key"])
@pytest.mark.parametrize("filtered", [{}, {"source": "coingecko"}], ids=["all", "of one source"])
@pytest.mark.parametrize("order", ["desc", "asc"])
def test_pages_show_each_row_once_though_times_are_equal_and_rows_come_in(
    api: FlaskClient,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    few: int,
    filtered: dict[str, str],
    order: str,
) -> None:
    monkeypatch.setattr(selection, "FEW", few)
    listings = [rows.listing(f"coin-{number}") for number in range(4)]
    other = rows.listing("bitcoin", source="coinpaprika")
    rows.quote(other, NOON + timedelta(days=1))
    for minutes in range(5):
        for listing in listings:
            rows.quote(listing, NOON + timedelta(minutes=minutes // 2, microseconds=minutes % 2), str(listing))
    expected = [row for page in pages(api, order=order, limit=1000, **filtered) for row in page]
    assert len(expected) == 20 + (not filtered)
    seen: list[dict[str, Any]] = []
    for number, page in enumerate(pages(api, order=order, limit=3, **filtered)):
        seen += page
        # Before what was read already: newer than all for the newest first, older for the oldest first.
        away = timedelta(days=2 + number)
        rows.quote(listings[0], NOON + away if order == "desc" else NOON - away)
    assert seen == expected
    keys = [(datetime.fromisoformat(row["observed_at"]), row["price"]) for row in seen]
    assert keys == sorted(keys, reverse=order == "desc")


@pytest.mark.parametrize("few", [0, 50])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"source": "coingecko"}, {"1", "2", "4"}),
        ({"source": ["coingecko", "coinpaprika"]}, {"1", "2", "3", "4"}),
        ({"asset": "bitcoin"}, {"1", "3", "4"}),
        ({"asset": ["bitcoin", "ether"]}, {"1", "2", "3", "4"}),
        ({"symbol": "eth"}, {"2"}),
        ({"quote_currency": "eur"}, {"4"}),
        ({"source": "coingecko", "asset": "bitcoin", "quote_currency": "USD"}, {"1"}),
        ({"symbol": "NOBODY"}, set()),
        ({"observed_from": "2026-01-31T12:01:00Z"}, {"2", "3", "4"}),
        ({"observed_to": "2026-01-31T12:01:00Z"}, {"1"}),
        ({"observed_from": "2026-01-31T14:01:00+02:00", "observed_to": "2026-01-31T12:02:00Z"}, {"2"}),
        ({"ingested_since": "2026-01-31T12:02:00Z"}, {"3", "4"}),
    ],
)
def test_filters_keep_what_they_say(
    api: FlaskClient,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    few: int,
    query: dict[str, Any],
    expected: set[str],
) -> None:
    monkeypatch.setattr(selection, "FEW", few)
    listings = (
        rows.listing("bitcoin", "coingecko"),
        rows.listing("ether", "coingecko", symbol="ETH"),
        rows.listing("bitcoin", "coinpaprika"),
        rows.listing("bitcoin", "coingecko", quote_currency="EUR"),
    )
    for number, listing in enumerate(listings):
        at = NOON + timedelta(minutes=number)
        rows.quote(listing, at, str(number + 1), ingested_at=at)
    answer = get(api, "/data", **query, count="exact")
    assert {row["price"] for row in answer["data"]} == expected
    assert answer["pagination"]["total"] == len(expected)


@pytest.mark.parametrize("wrote", [3, 3_000_000])
@pytest.mark.parametrize("told", ["nothing", "from when to when", "of which listings"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_the_rows_of_a_run_are_those_it_wrote(api: FlaskClient, rows: Rows, wrote: int, told: str, order: str) -> None:
    run, listing = rows.run(), rows.listing()
    span = {"observed_from": NOON - timedelta(hours=2), "observed_until": NOON}
    of_which = {**span, "listings": [listing, rows.listing("other")]}
    telling = {"nothing": {}, "from when to when": span, "of which listings": of_which}
    rows.page(run, seq=0, told=telling[told], inserted=wrote)
    rows.page(run, seq=1, told=telling[told], updated=wrote)
    rows.page(run, seq=2, unchanged=7)
    for hour in range(3):
        rows.quote(listing, NOON - timedelta(hours=hour), str(hour), run=run, ingested_at=NOON + timedelta(seconds=2))
    rows.quote(listing, NOON + timedelta(hours=1), "9", ingested_at=NOON + timedelta(seconds=2))
    first = get(api, "/data", run=str(run), limit=2, order=order)
    rest = get(api, "/data", run=str(run), limit=2, order=order, cursor=first["pagination"]["next_cursor"])
    prices = [row["price"] for row in [*first["data"], *rest["data"]]]
    assert prices == (["0", "1", "2"] if order == "desc" else ["2", "1", "0"])
    assert get(api, "/data", run=str(run), asset="other")["data"] == []
    total = first["pagination"]["total"], first["pagination"]["total_is_estimate"]
    assert total == ((6_000_000, True) if wrote > 3 else (3, False))


def test_a_run_that_is_not_there_is_named(api: FlaskClient) -> None:
    answer = api.get(f"/data?run={uuid.UUID(int=7)}")
    assert answer.status_code == 422
    assert answer.json is not None
    assert "00000000-0000-0000-0000-000000000007" in answer.json["errors"][0]["detail"]


def test_fields_choose_members_and_their_order(api: FlaskClient, rows: Rows) -> None:
    rows.quote(rows.listing())
    assert list(get(api, "/data", fields="price,asset")["data"][0].items()) == [("price", "1.5"), ("asset", "bitcoin")]


def test_the_link_header_leads_to_the_next_page(api: FlaskClient, rows: Rows) -> None:
    listing = rows.listing()
    for minutes in range(3):
        rows.quote(listing, NOON + timedelta(minutes=minutes), str(minutes))
    first = api.get("/data?limit=2&source=coingecko&source=coinpaprika")
    target, relation = first.headers["Link"].split("; ")
    assert relation == 'rel="next"'
    second = api.get(target.strip("<>"))
    assert second.json is not None
    assert [row["price"] for row in second.json["data"]] == ["0"]
    assert "Link" not in second.headers


def test_the_total_is_an_estimate_only_where_it_says_so(api: FlaskClient, rows: Rows, engine: Engine) -> None:
    listing = rows.listing()
    rows.quote(listing, NOON)

    def total(how: str) -> tuple[int | None, bool]:
        pagination = get(api, "/data", limit=2, count=how, order="asc")["pagination"]
        return pagination["total"], pagination["total_is_estimate"]

    def fill(seconds: int) -> None:
        with engine.begin() as connection:
            connection.execute(
                text("""
                    INSERT INTO quotes (listing_id, observed_at, price, fetched_at, ingested_at, run)
                    SELECT listing_id, observed_at + make_interval(secs => it), price, fetched_at, ingested_at, run
                      FROM quotes, generate_series(1, :seconds) AS it ON CONFLICT DO NOTHING
                """),
                {"seconds": seconds},
            )

    fill(9)
    assert [total(how) for how in ("none", "exact", "estimated")] == [(None, False), (10, False), (10, False)]
    fill(20_000)
    rows.checkpoint()  # as whatever brings quotes in raises its version
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("ANALYZE quotes"))
    assert total("exact") == (20_010, False)
    assert total("estimated") == (20_010, True)


def test_following_a_cursor_leaves_a_session_to_plan_for_each_request(app: Flask, api: FlaskClient, rows: Rows) -> None:
    for hours in range(3):
        rows.quote(rows.listing(f"coin-{hours}"), NOON)
    assert [len(page) for page in pages(api, limit=1)] == [1, 1, 1]
    with context_of(app).reader.connect() as connection:
        assert connection.exec_driver_sql("SHOW plan_cache_mode").scalar() == "force_custom_plan"


def test_a_follower_misses_no_commit_that_came_late(api: FlaskClient, rows: Rows, engine: Engine) -> None:
    listing = rows.listing()
    with engine.connect() as slow:
        began = slow.execute(text("SELECT now()")).scalar_one()
        first = get(api, "/data")
        assert datetime.fromisoformat(first["ingested_until"]) <= began
        slow.execute(
            text(
                "INSERT INTO quotes (listing_id, observed_at, price, fetched_at, ingested_at, run)"
                " VALUES (:listing, now(), 1, now(), now(), :run)"
            ),
            {"listing": listing, "run": uuid.UUID(int=1)},
        )
        slow.commit()
    assert len(get(api, "/data", ingested_since=first["ingested_until"])["data"]) == 1


def test_every_page_of_a_list_has_the_first_ones_ingested_until(api: FlaskClient, rows: Rows) -> None:
    listing = rows.listing()
    rows.quote(listing, NOON)
    rows.quote(listing, NOON + timedelta(minutes=1))
    first = get(api, "/data", limit=1)
    second = get(api, "/data", limit=1, cursor=first["pagination"]["next_cursor"])
    assert second["ingested_until"] == first["ingested_until"]


@pytest.mark.parametrize(
    ("query", "name", "said"),
    [
        ("sorce=coingecko", "sorce", "did you mean 'source'?"),
        ("source=coingeko", "source", "did you mean 'coingecko'?"),
        ("asset=bitcion", "asset", "did you mean 'bitcoin'?"),
        ("fields=prise", "fields", "did you mean 'price'?"),
        ("order=descending", "order", "expected one of desc, asc"),
        ("limit=0", "limit", "from 1 to 1000"),
        ("limit=1001", "limit", "from 1 to 1000"),
        ("limit=99999999999999999999999", "limit", "from 1 to 1000"),
        ("limit=ten", "limit", "from 1 to 1000"),
        ("limit=5&limit=6", "limit", "given 2 times"),
        ("observed_from=yesterday", "observed_from", "2026-01-31T12:00:00Z"),
        ("observed_from=2026-01-31T12:00:00", "observed_from", "with its offset"),
        ("observed_to=0001-01-01T00:00:00%2B14:00", "observed_to", "with its offset"),
        ("run=7", "run", "a UUID"),
        ("symbol=%00", "symbol", "without NUL"),
        ("asset=", "asset", "Length"),
        ("cursor=nonsense", "cursor", "damaged"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_taken(
    api: FlaskClient, rows: Rows, query: str, name: str, said: str
) -> None:
    rows.listing("bitcoin")
    answer = api.get(f"/data?{query}")
    assert answer.status_code == 422
    assert answer.mimetype == "application/problem+json"
    assert answer.json is not None
    [error] = answer.json["errors"]
    assert (error["in"], error["name"]) == ("query", name)
    assert said in error["detail"]


def test_a_cursor_belongs_to_its_filters_order_and_path(api: FlaskClient, rows: Rows) -> None:
    listing = rows.listing()
    rows.quote(listing, NOON)
    rows.quote(listing, NOON + timedelta(minutes=1))
    cursor = get(api, "/data", limit=1, source="coingecko")["pagination"]["next_cursor"]
    assert len(get(api, "/data", limit=7, source="coingecko", fields="price", cursor=cursor)["data"]) == 1
    for path, query in (
        ("/data", {}),
        ("/data", {"source": "coinpaprika"}),
        ("/data", {"source": "coingecko", "order": "asc"}),
        ("/data/latest", {"source": "coingecko"}),
    ):
        answer = api.get(path, query_string={**query, "cursor": cursor})
        assert answer.status_code == 422
        assert answer.json is not None
        assert answer.json["code"] == "invalid_cursor"


def test_the_newest_of_each_listing_and_of_each_asset(api: FlaskClient, rows: Rows) -> None:
    gecko, paprika = rows.listing("bitcoin"), rows.listing("bitcoin", "coinpaprika")
    euro = rows.listing("bitcoin", quote_currency="EUR")
    rows.quote(gecko, NOON, "1")
    rows.quote(gecko, NOON + timedelta(minutes=1), "2")
    rows.quote(paprika, NOON + timedelta(minutes=2), "3")
    rows.quote(euro, NOON, "4")
    rows.quote(rows.listing("ether", symbol="ETH"), NOON, "5")

    def prices(**query: Any) -> list[str]:
        return [row["price"] for page in pages(api, "/data/latest", limit=1, **query) for row in page]

    assert prices() == ["2", "3", "4", "5"]
    assert prices(per="asset") == ["4", "3", "5"]
    assert prices(per="asset", source="coingecko") == ["4", "2", "5"]
    assert prices(asset="ether") == ["5"]


@effort(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=some.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=some.just(UTC)),  # noqa: DTZ001 — bounds are naive there
    number=some.decimals(allow_nan=False, allow_infinity=False, places=None).filter(
        lambda number: -80 < number.adjusted() < 80
    ),
)
def test_postgres_and_python_spell_times_and_numbers_alike(engine: Engine, at: datetime, number: Decimal) -> None:
    with engine.connect() as connection:
        spelled = connection.execute(select(instant_sql(literal(at)), number_sql(literal(number)))).one()
    assert spelled[0] == instant(at)
    assert spelled[1] == format(number if number else abs(number), "f")
    assert re.fullmatch(PLAIN_NUMBER, spelled[1])
