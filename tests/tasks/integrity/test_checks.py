"""Test that each check finds its violation, and none in data that the service wrote."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from tasks.integrity.checks import CHECKS
from tasks.integrity.verify import verify_data
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

VIOLATIONS = {
    "quotes_without_listing": (
        "DELETE FROM decisions WHERE listing = 2; DELETE FROM listings WHERE id = 2",
        "listing 2",
    ),
    "listings_with_wrong_latest": (
        "UPDATE latest_quotes SET observed_at = observed_at - interval '1h' WHERE listing_id = 2",
        "listing 2",
    ),
    "latest_without_quote": ("INSERT INTO latest_quotes VALUES (99, now())", "listing 99"),
    "runs_with_too_many_quotes": ("UPDATE pages SET inserted = 0, unchanged = inserted", "run "),
}


def results(bench: Bench) -> dict[str, int]:
    verify_data(bench.engine)
    return {row["name"]: row["violations"] for row in bench.rows("SELECT name, violations FROM integrity")}


def test_the_checks_find_nothing_in_data_that_the_service_wrote(bench: Bench) -> None:
    bench.ingest(canned([item(0), item(1)], [item(1, price="7"), item(2, price="much")]))
    bench.ingest(canned([item(0, price="8")]))
    assert results(bench) == {check.name: 0 for check in CHECKS}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_check_finds_its_violation(bench: Bench, name: str) -> None:
    bench.ingest(canned([item(0), item(1)]))
    statement, example = VIOLATIONS[name]
    bench.rows(statement)
    with capture_logs() as logs:
        assert results(bench)[name] == 1
    events: list[Any] = [log for log in logs if log["event"] == "integrity_violated" and log["check"] == name]
    assert [(log["count"], log["example"].startswith(example)) for log in events] == [(1, True)]
