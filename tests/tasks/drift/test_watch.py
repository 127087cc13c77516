"""Test that changed fields are detected in live pages and handled by the drift policy."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from sources.coingecko import source as coingecko
from sources.contract import DriftPolicy, Source
from tasks.runs.parameters import ReplayParameters
from tests.tasks.conftest import Bench
from tests.tasks.counters import counters
from tests.tasks.drift.changing_items import COINS, KIND, coin, mapped, page, stored_changes
from tests.tasks.feed import Feed
from tests.upstreams import canned, item


def market_caps(bench: Bench, run: object) -> set[Any]:
    return {row["market_cap"] for row in bench.rows("SELECT market_cap FROM quotes WHERE run = :run", run=run)}


# The status of the run and the numbers of inserted and rejected items, by change and policy.
OUTCOMES = {
    # Without the field, the mapping returns null, which is valid. A list is not a valid number, and is dropped.
    ("rename", "evolve"): ("succeeded", COINS, 0),
    ("remove", "evolve"): ("succeeded", COINS, 0),
    ("retype", "evolve"): ("succeeded", COINS, 0),
    ("add", "evolve"): ("succeeded", COINS, 0),
    ("rename", "discard"): ("succeeded", COINS, 0),
    ("remove", "discard"): ("succeeded", COINS, 0),
    ("retype", "discard"): ("succeeded", COINS, 0),
    ("add", "discard"): ("succeeded", COINS, 0),
    ("rename", "quarantine"): ("failed", 0, COINS),
    ("remove", "quarantine"): ("failed", 0, COINS),
    ("retype", "quarantine"): ("failed", 0, COINS),
    ("add", "quarantine"): ("succeeded", COINS, 0),
    ("rename", "freeze"): ("failed", 0, 0),
    ("remove", "freeze"): ("failed", 0, 0),
    ("retype", "freeze"): ("failed", 0, 0),
    # The mapping does not read the new field.
    ("add", "freeze"): ("succeeded", COINS, 0),
}


@pytest.mark.parametrize(("change", "policy"), OUTCOMES)
def test_a_change_has_the_outcome_of_its_policy(
    bench: Bench, httpserver: HTTPServer, change: str, policy: DriftPolicy
) -> None:
    status, inserted, rejected = OUTCOMES[change, policy]
    feed = Feed(httpserver, [page(0, "none")])
    source = feed.source(normalize=mapped, drift={"*": policy})
    assert bench.ingest(source)["status"] == "succeeded"
    feed.pages = [page(1, change)]
    run = bench.ingest(source)
    assert run["status"] == status
    counted = bench.rows(
        "SELECT sum(inserted) AS inserted, sum(rejected) AS rejected FROM pages WHERE run = :run", run=run["id"]
    )
    assert (counted[0]["inserted"] or 0, counted[0]["rejected"] or 0) == (inserted, rejected)
    [stored] = stored_changes(bench)
    assert (stored["kind"], stored["field"]) == (KIND[change], "all_time_high" if change == "add" else "market_cap")
    assert stored["run"] == run["id"]
    if change == "rename":
        assert stored["became"] == "marketCap"
        assert stored["confidence"] >= 0.9
    kept = {1000 + number for number in range(COINS)} if change == "add" else {None}
    assert market_caps(bench, run["id"]) == (kept if inserted else set())
    reasons = {
        (reason["code"], reason["field"])
        for row in bench.rows("SELECT reasons FROM rejects")
        for reason in row["reasons"]
    }
    if rejected:
        assert reasons == {("drift", "market_cap")}
    paused = bench.rows("SELECT paused_until, paused_reason FROM sources WHERE name = 'feed'")[0]
    if policy == "freeze" and change != "add":
        assert run["error_code"] == "schema_frozen"
        assert "`market_cap`" in run["error_detail"]
        assert paused["paused_until"] is None, "the pause lasts until a person resumes the source"
        assert paused["paused_reason"].startswith("schema_frozen: ")
    else:
        assert paused["paused_reason"] is None
    # The next page has the same change. It is stored once, and its policy applies until a person accepts it.
    bench.rows("UPDATE sources SET paused_reason = NULL")
    feed.pages = [page(2, change)]
    assert bench.ingest(source)["status"] == status
    [again] = stored_changes(bench)
    waits = policy != "evolve" and change != "add"
    assert (again["accepted_by"], again["pages"]) == ((None, 2) if waits else ("policy", 1))


def test_a_single_field_can_have_a_separate_policy(bench: Bench, httpserver: HTTPServer) -> None:
    feed = Feed(httpserver, [page(0, "none")])
    source = feed.source(normalize=mapped, drift={"*": "freeze", "market_cap": "discard"})
    bench.ingest(source)
    feed.pages = [page(1, "remove")]
    assert bench.ingest(source)["status"] == "succeeded"
    feed.pages = [[{**fields, "symbol": 7} for fields in page(2, "remove")]]
    assert bench.ingest(source)["error_code"] == "schema_frozen"


def test_only_the_affected_items_are_rejected(bench: Bench, httpserver: HTTPServer) -> None:
    feed = Feed(httpserver, [[coin(number) for number in range(20)]])
    source = feed.source(normalize=mapped, drift={"*": "quarantine"})
    bench.ingest(source)
    feed.pages = [[coin(number, 1, **({"market_cap": [number]} if number < 16 else {})) for number in range(20)]]
    run = bench.ingest(source)
    assert counters(bench, run["id"])[:6] == (20, 4, 0, 0, 0, 16)
    assert {row["reasons"][0]["code"] for row in bench.rows("SELECT reasons FROM rejects")} == {"drift"}


def test_the_policy_applies_to_a_new_field_that_the_mapping_reads(bench: Bench, httpserver: HTTPServer) -> None:
    feed = Feed(httpserver, [page(0, "none")])
    source = feed.source(normalize=mapped, drift={"*": "quarantine"})
    bench.ingest(source)
    feed.pages = [[{**fields, "rank": 3} for fields in page(1, "none")[:2]] + page(1, "none")[2:]]
    run = bench.ingest(source)
    assert counters(bench, run["id"])[:6] == (COINS, COINS - 2, 0, 0, 0, 2)


def test_a_replay_of_older_pages_detects_no_change(bench: Bench, httpserver: HTTPServer) -> None:
    feed = Feed(httpserver, [page(0, "none")])
    source = feed.source(normalize=mapped)
    bench.ingest(source)
    feed.pages = [page(1, "rename")]
    bench.ingest(source)
    bench.ingest(source, replay=ReplayParameters())
    assert len(stored_changes(bench)) == 1


def test_a_nested_field_is_named_by_its_path(bench: Bench) -> None:
    before, after = (
        [coin(number, minute, more={"usd": {"cap": cap}}) for number in range(COINS)]
        for minute, cap in ((0, 1), (1, "1"))
    )
    bench.ingest(canned(before, normalize=mapped))
    bench.ingest(canned(after, normalize=mapped))
    [stored] = stored_changes(bench)
    assert (stored["field"], stored["was"], stored["became"]) == ("more.usd.cap", "number", "number as text")


def test_each_format_of_a_source_has_its_own_profile(bench: Bench) -> None:
    pages = [[item(0)], [{**item(1), "extra": 1}]]
    bench.ingest(canned(*pages, format=lambda page: "plain" if page.request["page"] == 0 else "rich"))
    assert stored_changes(bench) == []
    assert bench.one("SELECT count(*) FROM shapes") == 2


def test_the_first_run_of_a_format_learns_its_fields(bench: Bench) -> None:
    pages = [[item(0)], [{**item(1), "roi": {"times": 1}}], [{**item(2), "roi": None}]]
    run = bench.request(canned(*pages))
    while bench.slice(run, task_slice=0)["status"] == "queued":
        pass
    bench.ingest(canned(*pages))
    assert stored_changes(bench) == []
    bench.ingest(canned([{**item(3), "more": 1}]))
    assert [row["field"] for row in stored_changes(bench)] == ["more"]


def test_the_policy_of_a_waiting_change_applies_to_pages_with_few_affected_items(
    bench: Bench, httpserver: HTTPServer
) -> None:
    feed = Feed(httpserver, [page(0, "none")])
    source = feed.source(normalize=mapped, drift={"*": "quarantine"})
    bench.ingest(source)
    for minute, affected, rejected in ((1, 5, 5), (2, 2, 2), (3, 5, 5)):
        feed.pages = [page(minute, "retype")[:affected] + page(minute, "none")[affected:]]
        assert counters(bench, bench.ingest(source)["id"])[5] == rejected
    [stored] = stored_changes(bench)
    assert stored["accepted_at"] is None


def test_a_policy_applies_even_to_changes_beyond_the_maximum_per_page(bench: Bench) -> None:
    many = {f"field_{number:03d}": number for number in range(80)}
    source = canned([coin(number, **many) for number in range(COINS)], normalize=mapped)
    bench.ingest(source)
    fewer = canned([coin(number, 1) for number in range(COINS)], normalize=mapped, drift={"field_079": "freeze"})
    assert bench.ingest(fewer)["error_code"] == "schema_frozen"
    assert "field_079" in {row["field"] for row in stored_changes(bench)}


@pytest.mark.parametrize(
    "odd", ["a\x00b", "half \ud83d of it", "x" * 5000, "a.b.c", ""], ids=["NUL", "surrogate", "long", "dots", "empty"]
)
def test_a_field_with_an_unusual_name_does_not_fail_the_run(bench: Bench, odd: str) -> None:
    bench.ingest(canned([coin(number) for number in range(COINS)], normalize=mapped))
    pages = [[coin(number, minute, **{odd: 1}) for number in range(COINS)] for minute in (1, 2)]
    assert bench.ingest(canned(*pages, normalize=mapped, drift={"*": "discard"}))["status"] == "succeeded"


def test_the_number_of_stored_fields_is_limited_if_an_upstream_keeps_adding_fields(bench: Bench) -> None:
    pages = [[coin(0, minute, **{f"f{minute}_{number}": 1 for number in range(100)})] for minute in range(12)]
    bench.ingest(canned([coin(0)], normalize=mapped))
    bench.ingest(canned(*pages, normalize=mapped))
    counts = bench.rows("SELECT (SELECT count(*) FROM jsonb_object_keys(fields)) AS fields FROM shapes")
    assert max(row["fields"] for row in counts) <= 500


def test_a_change_is_logged_once(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    source = coingecko_like(bench)
    capsys.readouterr()
    bench.ingest(source(renamed=True))
    bench.ingest(source(renamed=True))
    lines = [line for line in capsys.readouterr().out.splitlines() if "drift_detected" in line]
    [line] = [line for line in lines if "current_price" in line]
    assert "`current_price` vanished, `currentPrice` appeared: 0.9" in line or "appeared: 1.00" in line


def coingecko_like(bench: Bench) -> Callable[..., Source]:
    """Ingest a page in CoinGecko's format. Return a function that creates a source with the next page."""

    def source(*, renamed: bool = False) -> Source:
        coins = [
            {
                "id": f"c{n}",
                "symbol": "c",
                "name": f"C {n}",
                "current_price": 1.5 + n,
                "last_updated": f"2026-01-0{1 + renamed}T00:00:00Z",
            }
            for n in range(5)
        ]
        if renamed:
            coins = [
                {("currentPrice" if name == "current_price" else name): value for name, value in fields.items()}
                for fields in coins
            ]
        return canned(json.loads(json.dumps(coins)), normalize=coingecko.normalize)

    bench.ingest(source())
    return source
