"""Test that one transaction stores the quotes, rejects, body and checkpoint of a page, each once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from settings import secrets_in
from sources.contract import Page, Reject
from sources.reject_codes import MAX_REJECTS_PER_PAGE
from tasks.pipeline.page_row import MAX_LISTINGS_PER_PAGE
from tasks.runtime.safe_text import MAX_DETAIL_CHARS
from tests.tasks.conftest import Bench
from tests.tasks.counters import counters
from tests.tasks.pipeline.conftest import OpenRunOf
from tests.upstreams import FETCHED, OBSERVED, canned, item

HOUR = timedelta(hours=1)


# Quotes


def test_loading_a_page_twice_changes_nothing(bench: Bench, content: Callable[[Engine], str]) -> None:
    source = canned([item(0), item(1)], [item(2)])
    first = bench.ingest(source)
    loaded = content(bench.engine)
    second = bench.ingest(source)
    assert (first["status"], second["status"]) == ("succeeded", "succeeded")
    assert counters(bench, first["id"]) == (3, 3, 0, 0, 0, 0)
    assert counters(bench, second["id"]) == (3, 0, 0, 3, 0, 0)
    assert content(bench.engine) == loaded
    assert bench.one("SELECT count(*) FROM raw_bodies") == 2
    assert bench.one("SELECT count(*) FROM pages") == 4


def test_an_unchanged_quote_is_not_written_again(bench: Bench) -> None:
    bench.ingest(canned([item()]))
    before = bench.rows("SELECT xmin::text, run FROM quotes")
    bench.ingest(canned([item()], fetched_at=FETCHED + HOUR))
    assert bench.rows("SELECT xmin::text, run FROM quotes") == before


def test_a_later_fetch_corrects_a_quote_and_an_earlier_fetch_does_not(bench: Bench) -> None:
    bench.ingest(canned([item(price="1")]))
    corrected = bench.ingest(canned([item(price="2")], fetched_at=FETCHED + HOUR))
    assert counters(bench, corrected["id"])[2] == 1
    late = bench.ingest(canned([item(price="3")], fetched_at=FETCHED + HOUR / 2))
    assert bench.one("SELECT superseded FROM pages WHERE run = :run", run=late["id"]) == 1
    assert bench.one("SELECT price FROM quotes") == 2
    assert bench.one("SELECT run FROM quotes") == corrected["id"]


def test_a_page_without_corrections_adds_quotes_and_keeps_the_stored_quotes(bench: Bench, open_run: OpenRunOf) -> None:
    bench.ingest(canned([item(0, price="1")]))
    run = open_run(canned(parse=lambda _: [item(0, price="2"), item(1)]))
    _, counted = run.commit(bench, Page(b"[]", "", {}, FETCHED + HOUR, {"next": 1}, corrects=False))
    assert (counted.inserted, counted.updated, counted.unchanged, counted.superseded) == (1, 0, 0, 1)
    assert bench.one("SELECT price FROM quotes ORDER BY listing_id LIMIT 1") == 1


def test_a_page_without_corrections_adds_quotes_between_many_stored_quotes(bench: Bench, open_run: OpenRunOf) -> None:
    """More quotes are stored in the page's span than are compared in the worker."""
    minutes = [(OBSERVED + timedelta(minutes=minute)).isoformat() for minute in range(0, 4000, 2)]
    bench.ingest(canned([item(observed_at=at) for at in minutes]))
    between = (OBSERVED + timedelta(minutes=1)).isoformat()
    page = [item(observed_at=minutes[0]), item(observed_at=minutes[-1], price="2"), item(observed_at=between)]
    run = open_run(canned(parse=lambda _: page))
    _, counted = run.commit(bench, Page(b"[]", "", {}, FETCHED + HOUR, {"next": 1}, corrects=False))
    assert (counted.inserted, counted.updated, counted.unchanged, counted.superseded) == (1, 0, 1, 1)
    assert bench.one("SELECT count(*) FROM quotes") == len(minutes) + 1


def test_an_earlier_fetch_of_the_same_values_is_unchanged(bench: Bench) -> None:
    bench.ingest(canned([item(0), item(1)], fetched_at=FETCHED + HOUR))
    run = bench.ingest(canned([item(0), item(1, price="2")], fetched_at=FETCHED))
    [page] = bench.rows("SELECT unchanged, superseded FROM pages WHERE run = :run", run=run["id"])
    assert tuple(page.values()) == (1, 1)


def test_a_page_is_never_stored_as_fetched_after_its_commit(bench: Bench) -> None:
    """A source whose own clock is ahead would keep its later corrections out."""
    bench.ingest(canned([item(price="1")], fetched_at=datetime.now(UTC) + HOUR))
    corrected = bench.ingest(canned([item(price="2")], fetched_at=datetime.now(UTC) + HOUR / 2))
    assert counters(bench, corrected["id"])[2] == 1
    assert bench.one("SELECT max(fetched_at) <= clock_timestamp() FROM quotes")
    assert bench.one("SELECT every(fetched_at <= committed_at) FROM pages")


def test_prices_are_stored_exactly(bench: Bench) -> None:
    prices = ["3e-9", "1E-8", "30538.078793975994", "420000000000000000", "4.2e17", "0.1"]
    bench.ingest(canned([item(number, price=price) for number, price in enumerate(prices)]))
    stored = bench.rows("SELECT price FROM quotes ORDER BY listing_id")
    assert [row["price"] for row in stored] == [Decimal(price) for price in prices]


def test_the_newest_quote_of_a_listing_is_recorded_in_any_order_of_arrival(bench: Bench) -> None:
    days = [(OBSERVED + timedelta(days=day)).isoformat() for day in (1, 3, 2)]
    bench.ingest(canned([item(observed_at=days[0])], [item(observed_at=days[1])], [item(observed_at=days[2])]))
    assert bench.one("SELECT observed_at FROM latest_quotes") == OBSERVED + timedelta(days=3)
    assert bench.one("SELECT count(*) FROM quotes") == 3


def test_every_row_references_existing_rows(bench: Bench) -> None:
    """The table `quotes` has no foreign keys, so this test verifies its references."""
    bench.ingest(canned([item(0), item(1)], [item(2, price=None)]))
    assert (
        bench.one("""
        SELECT (SELECT count(*) FROM quotes q LEFT JOIN listings l ON l.id = q.listing_id WHERE l.id IS NULL)
             + (SELECT count(*) FROM quotes q LEFT JOIN runs r ON r.id = q.run WHERE r.id IS NULL)
             + (SELECT count(*) FROM latest_quotes n LEFT JOIN quotes q USING (listing_id, observed_at)
                 WHERE q.listing_id IS NULL)
             + (SELECT count(*) FROM quotes q WHERE NOT EXISTS
                 (SELECT FROM latest_quotes n WHERE n.listing_id = q.listing_id AND n.observed_at >= q.observed_at))
             + (SELECT count(*) FROM rejects r LEFT JOIN raw_bodies b USING (source, digest) WHERE b.digest IS NULL)
    """)
        == 0
    )


# Rejects


def test_an_invalid_item_becomes_a_reject_and_its_run_is_partial(bench: Bench) -> None:
    run = bench.ingest(canned([item(0), item(1, price="much"), item(2)]))
    assert run["status"] == "partial"
    assert counters(bench, run["id"]) == (3, 2, 0, 0, 0, 1)
    [reject] = bench.rows("SELECT * FROM rejects")
    assert reject["item_index"] == 1
    assert '"coin-1"' in reject["item"]
    assert reject["reasons"] == [
        {"field": "price", "code": "not_a_number", "detail": "expected a number, got 'much'"},
    ]


def test_the_same_reject_of_the_same_body_is_stored_once(bench: Bench) -> None:
    source = canned([item(0), item(1, price="much")])
    bench.ingest(source)
    assert bench.ingest(source)["status"] == "partial"
    assert bench.one("SELECT count(*) FROM rejects") == 1


def test_of_a_million_rejects_the_first_are_stored_and_the_others_counted(bench: Bench) -> None:
    source = canned([item(0), *(item(n, price="x") for n in range(1, MAX_REJECTS_PER_PAGE + 10))])
    with capture_logs() as events:
        run = bench.ingest(source)
    assert run["status"] == "partial"
    assert bench.one("SELECT count(*) FROM rejects") == MAX_REJECTS_PER_PAGE
    assert bench.one("SELECT rejected FROM pages") == MAX_REJECTS_PER_PAGE + 9
    [event] = [event for event in events if event["event"] == "rejects_dropped"]
    assert (event["rejected"], event["kept"]) == (MAX_REJECTS_PER_PAGE + 9, MAX_REJECTS_PER_PAGE)
    assert '"coin-1"' in event["first"]
    # An earlier version stored all rejects of a page. They are not released.
    bench.rows("UPDATE rejects SET item_index = :last WHERE item_index = 1", last=MAX_REJECTS_PER_PAGE + 5)
    bench.rows("DELETE FROM validators")
    bench.ingest(source, full_refresh=True)
    assert bench.rows("SELECT DISTINCT state FROM rejects") == [{"state": "quarantined"}]


def test_a_corrected_mapping_loads_the_earlier_rejects(bench: Bench) -> None:
    broken = canned([item(0), item(1, price="1,5")])
    assert bench.ingest(broken)["status"] == "partial"
    corrected = replace(broken, normalize=lambda fields: fields | {"price": fields["price"].replace(",", ".")})
    assert bench.ingest(corrected)["status"] == "succeeded"
    assert bench.one("SELECT state FROM rejects") == "replayed"
    assert bench.one("SELECT count(*) FROM quotes") == 2


# Reject reasons that quote errors of mappings and parsers


def fail_with(text: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a mapping that raises an error with this text for each item with the price `odd`."""

    class MappingError(Exception):
        def __repr__(self) -> str:
            return text

    def normalize(fields: dict[str, Any]) -> dict[str, Any]:
        if fields["price"] == "odd":
            raise MappingError
        return fields

    return normalize


def stored_detail(bench: Bench, **changes: Any) -> str:
    """Ingest a valid item and an item with the price `odd`. Return the detail of the only reject reason."""
    run = bench.ingest(canned([item(0), item(1, price="odd")], **changes))
    assert (run["status"], counters(bench, run["id"])) == ("partial", (2, 1, 0, 0, 0, 1))
    [reason] = bench.one("SELECT reasons FROM rejects")
    return str(reason["detail"])


def test_a_secret_in_a_mappings_error_is_not_stored(bench: Bench) -> None:
    [secret, *_] = secrets_in(os.environ)

    def normalize(fields: dict[str, str]) -> dict[str, str]:
        if fields["price"] == "odd":
            raise KeyError(f"{'x' * 1990}{secret}")
        return fields

    bench.ingest(canned([item(0), item(1, price="odd")], normalize=normalize))
    [reason] = bench.one("SELECT reasons FROM rejects")
    assert "x" * 1000 in reason["detail"]
    assert secret[:5] not in reason["detail"]


def test_only_the_secrets_in_a_mappings_error_are_hidden(bench: Bench) -> None:
    secrets = secrets_in(os.environ)
    detail = stored_detail(bench, normalize=fail_with(f"before {' '.join(secrets)} after"))
    assert [secret for secret in secrets if secret in detail] == []
    assert "before" in detail
    assert "after" in detail


def test_a_nul_and_an_invalid_character_in_a_mappings_error_do_not_fail_the_page(bench: Bench) -> None:
    detail = stored_detail(bench, normalize=fail_with("a\x00b \ud800 c"))
    assert detail.startswith("the mapping of canned failed: ab \\ud800 c (tests/")


def test_a_very_long_error_of_a_mapping_is_truncated(bench: Bench) -> None:
    detail = stored_detail(bench, normalize=fail_with("x" * 2**20))
    assert len(detail) == MAX_DETAIL_CHARS
    assert detail.startswith("the mapping of canned failed: xxx")


def test_a_very_long_parse_error_is_truncated(bench: Bench) -> None:
    [secret, *_] = secrets_in(os.environ)
    unreadable = Reject("", "unreadable", f"expected 4 cells, got \x00 {secret} {'y' * MAX_DETAIL_CHARS}", item="a;b")
    detail = stored_detail(bench, parse=lambda _: [item(0), unreadable])
    assert len(detail) == MAX_DETAIL_CHARS
    assert detail.startswith("expected 4 cells, got ")
    assert detail.endswith("yyy")
    assert secret not in detail


@pytest.mark.parametrize("name", ["a\x00b", "\ud800"])
def test_an_unknown_field_with_a_name_that_postgres_refuses_rejects_only_its_item(bench: Bench, name: str) -> None:
    run = bench.ingest(canned([item(0), {**item(1), name: 1}]))
    assert (run["status"], counters(bench, run["id"])) == ("partial", (2, 1, 0, 0, 0, 1))
    assert bench.one("SELECT reasons->0->>'code' FROM rejects") == "unknown_field"


# The page


def test_a_page_with_too_many_listings_does_not_record_its_listings(bench: Bench) -> None:
    few, many = (
        [item(number) for number in range(count)] for count in (MAX_LISTINGS_PER_PAGE, MAX_LISTINGS_PER_PAGE + 1)
    )
    bench.ingest(canned(few, many, [item(0, price=None)]))
    rows = bench.rows("SELECT listings, observed_from, filled FROM pages ORDER BY seq")
    assert [row["listings"] and len(row["listings"]) for row in rows] == [MAX_LISTINGS_PER_PAGE, None, None]
    assert [row["observed_from"] for row in rows] == [OBSERVED, OBSERVED, None]
    assert [row["filled"] for row in rows] == [{"price": len(few)}, {"price": len(many)}, None]


def test_a_page_with_a_failed_confirmation_stores_nothing(bench: Bench, open_run: OpenRunOf) -> None:
    run = open_run(canned(parse=lambda _: [item(0), item(1, price="much")]))

    def fail() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run.commit(bench, Page(b"[]", "", {}, FETCHED, {"next": 1}, confirm=fail))
    for table in ("quotes", "latest_quotes", "rejects", "raw_bodies", "pages"):
        assert bench.one(f"SELECT count(*) FROM {table}") == 0, table
    assert dict(bench.rows("SELECT version, cursor FROM checkpoints")[0]) == {"version": 0, "cursor": None}
