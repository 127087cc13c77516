"""Test that profiles are stored in versions, and that changes wait until a person accepts them."""

from __future__ import annotations

import pytest
from pytest_httpserver import HTTPServer
from structlog.testing import capture_logs

from tasks.drift.stored_profiles import MAX_VERSIONS, accept_change, first_run, known_profile, waiting_changes
from tasks.runs.parameters import ReplayParameters
from tests.tasks.conftest import Bench
from tests.tasks.counters import counters
from tests.tasks.drift.changing_items import COINS, KIND, coin, mapped, page, stored_changes
from tests.tasks.feed import Feed
from tests.upstreams import canned, item


def test_a_replay_loads_rejected_items_after_their_change_is_accepted(bench: Bench, httpserver: HTTPServer) -> None:
    feed = Feed(httpserver, [page(0, "none")])
    source = feed.source(normalize=mapped, drift={"*": "quarantine"})
    bench.ingest(source)
    feed.pages = [page(1, "remove")]
    bench.ingest(source)
    too_early = bench.ingest(source, replay=ReplayParameters(rejected=True))
    assert counters(bench, too_early["id"])[5] == COINS, "the change is not accepted yet"
    assert accept_change(bench.engine, "feed", stored_changes(bench)[0]["id"], "ann")
    assert not accept_change(bench.engine, "feed", 7, "ann")
    replayed = bench.ingest(source, replay=ReplayParameters(rejected=True))
    assert counters(bench, replayed["id"])[:6] == (COINS, COINS, 0, 0, 0, 0)
    feed.pages = [page(2, "remove")]
    assert counters(bench, bench.ingest(source)["id"])[:6] == (COINS, COINS, 0, 0, 0, 0)
    assert [row["accepted_by"] for row in stored_changes(bench)] == ["ann"]


@pytest.mark.parametrize("change", ["rename", "retype"])
def test_a_change_can_be_accepted_during_a_slice(bench: Bench, httpserver: HTTPServer, change: str) -> None:
    feed = Feed(httpserver, [page(0, "none")])
    source = feed.source(normalize=mapped, drift={"*": "discard", "symbol": "evolve"})
    bench.ingest(source)

    def accept_before_second_page(number: int) -> None:
        for row in stored_changes(bench) if number == 2 else ():
            accept_change(bench.engine, "feed", row["id"], "ann")

    feed.pages = [page(1, change), page(2, change), [{**fields, "symbol": 7} for fields in page(3, change)]]
    feed.before = accept_before_second_page
    bench.ingest(source)
    kinds = [(row["kind"], row["field"], row["accepted_by"]) for row in stored_changes(bench)]
    assert kinds == [(KIND[change], "market_cap", "ann"), ("retyped", "symbol", "policy")]


def test_the_profile_is_stored_with_types_and_nulls(bench: Bench) -> None:
    bench.ingest(canned([item(0), item(1, market_cap=None)], [item(2, market_cap="7")]))
    [profile] = bench.rows("SELECT version, items, fields FROM shapes")
    assert (profile["version"], profile["items"]) == (1, 3)
    assert profile["fields"]["market_cap"] == {"present": 2, "null": 1, "types": {"number as text": 1}, "size": 0.845}
    bench.ingest(canned([item(3, market_cap="9")]))
    newest = bench.rows("SELECT version, fields FROM shapes ORDER BY version DESC LIMIT 1")[0]
    assert newest["fields"]["market_cap"]["types"] == {"number as text": 2}


def test_an_unknown_format_has_no_profile(bench: Bench) -> None:
    bench.ingest(canned([item(0)]))
    with bench.engine.connect() as connection:
        version, profile = known_profile(connection, "canned", "another")
        assert (version, profile.items, profile.fields) == (0, 0, {})
        assert first_run(connection, "canned", "another") is None
        assert waiting_changes(connection, "canned", "another") == []


def test_accepting_a_change_creates_the_next_version_of_the_profile(bench: Bench) -> None:
    first = bench.ingest(canned([coin(number) for number in range(COINS)], normalize=mapped))
    source = canned(page(1, "rename"), normalize=mapped, drift={"*": "discard"})
    bench.ingest(source)
    with bench.engine.connect() as connection:
        assert known_profile(connection, "canned", "")[0] == 1
        [waiting] = waiting_changes(connection, "canned", "")
    assert (waiting.kind, waiting.field, waiting.became) == ("renamed", "market_cap", "marketCap")
    with capture_logs() as logs:
        assert accept_change(bench.engine, "canned", stored_changes(bench)[0]["id"], "ann")
        assert accept_change(bench.engine, "canned", stored_changes(bench)[0]["id"], "bob"), (
            "accepting it again succeeds"
        )
    assert [(line["event"], line["by"]) for line in logs] == [("drift_accepted", "ann")]
    with bench.engine.connect() as connection:
        version, profile = known_profile(connection, "canned", "")
        assert version == 2
        assert profile.fields["marketCap"].present == COINS
        assert first_run(connection, "canned", "") == first["id"]
        assert waiting_changes(connection, "canned", "") == []


def test_only_the_first_and_the_newest_versions_are_kept(bench: Bench) -> None:
    bench.ingest(canned([coin(0)], normalize=mapped))
    count = MAX_VERSIONS + 3
    pages = [[coin(0, minute, **{f"extra_{minute}": 1})] for minute in range(1, count)]
    bench.ingest(canned(*pages, normalize=mapped))
    versions = [row["version"] for row in bench.rows("SELECT version FROM shapes ORDER BY version")]
    assert versions == [1, *range(count - MAX_VERSIONS + 1, count + 1)]
