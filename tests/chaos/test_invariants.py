"""Test each invariant of the fault-injection suite by violating it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, text

from settings import Settings
from tests.chaos.invariants import INVARIANTS, asset_differences, assets, compare, content_by_source, violations
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

VIOLATIONS = {
    "a page's counters do not add up": [
        "ALTER TABLE pages DROP CONSTRAINT pages_conservation_check",
        "UPDATE pages SET fetched = fetched + 1 WHERE seq = 0",
    ],
    "the number of quotes differs from the number that the pages inserted": ["DELETE FROM quotes WHERE price = 3"],
    "a run has more quotes than its pages wrote": ["UPDATE quotes SET run = gen_random_uuid() WHERE price = 3"],
    "the number of rejects differs from the number that a page counts": ["DELETE FROM rejects"],
    "a quote has no listing": ["UPDATE quotes SET listing_id = -1 WHERE price = 3"],
    "the latest quote of a listing is not its newest one": ["DELETE FROM latest_quotes"],
    "a checkpoint does not match its committed pages": ["UPDATE checkpoints SET version = 0"],
    "a validator belongs to a response that was not loaded": [
        """
        INSERT INTO validators (source, partition, request, etag, digest, mapping)
        VALUES ('canned', '', 'asked', 'v1', 'nowhere', 'unchanged')
        """
    ],
    "a run's page numbers in a partition have a gap": ["UPDATE pages SET seq = 5 WHERE seq = 1"],
    "a run's pages of a partition were committed out of order": [
        "UPDATE pages SET committed_at = committed_at - interval '1h' WHERE seq = 1"
    ],
    "two runs wrote to a partition at the same time": [
        """
        UPDATE pages SET committed_at = (SELECT max(committed_at) FROM pages) + interval '1s'
         WHERE seq = 1 AND run = (SELECT id FROM runs ORDER BY requested_at LIMIT 1)
        """
    ],
    "a finished run holds a lease": [
        """
        UPDATE checkpoints SET lease_run = (SELECT id FROM runs LIMIT 1),
                               lease_expires = clock_timestamp() + interval '1h'
        """
    ],
    "a finished run lacks its end or its error code": ["UPDATE runs SET finished_at = NULL"],
    "a slot has more than one run": [
        "ALTER TABLE runs DROP CONSTRAINT runs_source_scheduled_for_key",
        "UPDATE runs SET scheduled_for = '2026-01-01T00:00Z'",
    ],
}


@pytest.fixture
def loaded(engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, broker: object) -> Iterator[Connection]:
    """Yield a connection after two runs of two pages each. Each page has a quote and a reject. Roll back at the end."""
    bench = Bench(engine, settings, monkeypatch)
    for first in (1, 3):
        pages = [[item(n, price=f"{n}"), {"bad": n}] for n in (first, first + 1)]
        assert bench.ingest(canned(*pages))["status"] == "partial"
    with engine.connect() as connection:
        yield connection


def test_correct_data_violates_no_invariant(loaded: Connection) -> None:
    assert list(violations(loaded)) == []


def test_each_invariant_has_a_test() -> None:
    assert list(VIOLATIONS) == list(INVARIANTS)


@pytest.mark.parametrize("invariant", VIOLATIONS)
def test_a_violated_invariant_is_reported(loaded: Connection, invariant: str) -> None:
    for statement in VIOLATIONS[invariant]:
        loaded.execute(text(statement))
    assert any(violation.startswith(f"{invariant}: ") for violation in violations(loaded))


@pytest.mark.parametrize(
    ("statement", "lost", "duplicated", "message"),
    [
        ("SELECT 1", 0, 0, ""),
        ("DELETE FROM quotes WHERE price = 3", 1, 0, "canned: 1 rows lost, such as .*coin-3"),
        ("DELETE FROM rejects", 4, 0, "canned: 4 rows lost"),
        ("UPDATE quotes SET observed_at = '2026-01-03T00:00Z' WHERE price = 3", 1, 1, "canned: 1 rows too many"),
        ("UPDATE quotes SET price = 4 WHERE price = 3", 0, 0, "canned: 1 rows have other values, such as .*price=4"),
        (
            "UPDATE pages SET request = '{}', body_digest = (SELECT min(digest) FROM raw_bodies)",
            0,
            8,
            "loaded twice",
        ),
    ],
)
def test_differences_from_the_undisturbed_run_are_counted_and_reported(
    loaded: Connection, statement: str, lost: int, duplicated: int, message: str
) -> None:
    expected = content_by_source(loaded)
    loaded.execute(text(statement))
    difference = compare(loaded, expected, ["canned"])
    assert (difference.lost, difference.duplicated) == (lost, duplicated)
    assert re.search(message, "\n".join(difference.failures)), difference.failures
    assert bool(difference.failures) == bool(message)


def test_a_run_may_load_the_pages_of_a_changed_file_again(loaded: Connection) -> None:
    expected = content_by_source(loaded)
    loaded.execute(text("UPDATE pages SET partition = 'a.csv//8192', request = '{}', seq = seq + 10"))
    loaded.execute(text("UPDATE pages SET body_digest = (SELECT min(digest) FROM raw_bodies)"))
    assert compare(loaded, expected, ["canned"], ["b.csv"]).duplicated == 8
    assert compare(loaded, expected, ["canned"], ["a.csv"]).duplicated == 0


def test_a_source_without_expected_rows_fails(loaded: Connection) -> None:
    assert compare(loaded, {}, ["canned"]).failures == ["canned: no rows of an undisturbed run are known"]


def test_a_listing_with_another_asset_than_in_the_undisturbed_run_is_reported(loaded: Connection) -> None:
    expected = assets(loaded)
    loaded.execute(text("UPDATE listings SET asset = (SELECT min(id) FROM assets) WHERE source_asset_id = 'coin-3'"))
    assert any("canned coin-3 USD" in line for line in asset_differences(assets(loaded), expected, ["canned"]))


def test_assets_of_sources_without_a_run_are_not_compared(loaded: Connection) -> None:
    expected = [*assets(loaded), {"another coin-1 USD"}]
    assert not list(asset_differences(assets(loaded), expected, ["canned"]))
