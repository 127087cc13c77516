"""Each invariant of the fault suite is seen to break: one that cannot would prove nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, text

from settings import Settings
from tests.chaos.invariants import BROKEN_BY, assets, broken, compare, content_by_source, of_other_assets
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

SPOILED = {
    "a page's counters do not add up": [
        "ALTER TABLE pages DROP CONSTRAINT pages_conservation_check",
        "UPDATE pages SET fetched = fetched + 1 WHERE seq = 0",
    ],
    "the quotes there are not those that the pages say they inserted": ["DELETE FROM quotes WHERE price = 3"],
    "a quote is of a run that says it wrote fewer": ["UPDATE quotes SET run = gen_random_uuid() WHERE price = 3"],
    "the rejects there are not those that a page counts": ["DELETE FROM rejects"],
    "a quote has no listing": ["UPDATE quotes SET listing_id = -1 WHERE price = 3"],
    "the latest quote of a listing is not its newest": ["DELETE FROM latest_quotes"],
    "a checkpoint is not where its committed pages are": ["UPDATE checkpoints SET version = version + 1"],
    "what an upstream is told we have is not in": [
        """
        INSERT INTO validators (source, partition, request, etag, digest, mapping)
        VALUES ('canned', '', 'asked', 'v1', 'nowhere', 'as ever')
        """
    ],
    "a run's pages of a partition are not numbered without a gap": ["UPDATE pages SET seq = 5 WHERE seq = 1"],
    "a run's pages of a partition were not committed in their order": [
        "UPDATE pages SET committed_at = committed_at - interval '1h' WHERE seq = 1"
    ],
    "two runs wrote to a partition at the same time": [
        """
        UPDATE pages SET committed_at = (SELECT max(committed_at) FROM pages) + interval '1s'
         WHERE seq = 1 AND run = (SELECT id FROM runs ORDER BY requested_at LIMIT 1)
        """
    ],
    "a lease is held for a run that has ended": [
        """
        UPDATE checkpoints SET lease_run = (SELECT id FROM runs LIMIT 1),
                               lease_expires = clock_timestamp() + interval '1h'
        """
    ],
    "a run that ended does not say when, or how": ["UPDATE runs SET finished_at = NULL"],
    "a slot has more than one run": [
        "ALTER TABLE runs DROP CONSTRAINT runs_source_scheduled_for_key",
        "UPDATE runs SET scheduled_for = '2026-01-01T00:00Z'",
    ],
}


@pytest.fixture
def loaded(engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, broker: object) -> Iterator[Connection]:
    """Two runs of a source, of two pages each, a quote and a reject on each page; what a test does is taken back."""
    bench = Bench(engine, settings, monkeypatch)
    for first in (1, 3):
        pages = [[item(n, price=f"{n}"), {"bad": n}] for n in (first, first + 1)]
        assert bench.ingest(canned(*pages))["status"] == "partial"
    with engine.connect() as connection:
        yield connection


def test_no_invariant_is_broken_by_what_is_right(loaded: Connection) -> None:
    assert list(broken(loaded)) == []


def test_each_invariant_is_spoiled_below() -> None:
    assert list(SPOILED) == list(BROKEN_BY)


@pytest.mark.parametrize("what", SPOILED)
def test_what_breaks_an_invariant_is_named(loaded: Connection, what: str) -> None:
    for statement in SPOILED[what]:
        loaded.execute(text(statement))
    assert any(words.startswith(f"{what}: ") for words in broken(loaded))


@pytest.mark.parametrize(
    ("statement", "lost", "doubled", "words"),
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
            "brought in twice",
        ),
    ],
)
def test_what_differs_from_the_undisturbed_run_is_counted_and_named(
    loaded: Connection, statement: str, lost: int, doubled: int, words: str
) -> None:
    undisturbed = content_by_source(loaded)
    loaded.execute(text(statement))
    difference = compare(loaded, undisturbed, ["canned"])
    assert (difference.lost, difference.doubled) == (lost, doubled)
    assert re.search(words, "\n".join(difference.broken)), difference.broken
    assert bool(difference.broken) == bool(words)


def test_a_source_that_nothing_is_known_of_is_not_taken_for_whole(loaded: Connection) -> None:
    assert compare(loaded, {}, ["canned"]).broken == ["canned: nobody knows what its data is undisturbed"]


def test_a_listing_that_is_of_another_asset_than_undisturbed_is_named(loaded: Connection) -> None:
    undisturbed = assets(loaded)
    loaded.execute(text("UPDATE listings SET asset = (SELECT min(id) FROM assets) WHERE source_asset_id = 'coin-3'"))
    assert any("canned coin-3 USD" in words for words in of_other_assets(assets(loaded), undisturbed, ["canned"]))


def test_the_assets_of_sources_that_did_not_run_are_not_missed(loaded: Connection) -> None:
    undisturbed = [*assets(loaded), {"another coin-1 USD"}]
    assert not list(of_other_assets(assets(loaded), undisturbed, ["canned"]))
