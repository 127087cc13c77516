"""A schema that changes under a source: it is noticed, and what follows is what its policy says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import RowMapping

from sources.coingecko import source as coingecko
from sources.contract import DriftPolicy, Source
from tasks.drift.profile import FieldProfile, profile_changes, profile_items
from tasks.drift.watch import accept_change
from tasks.runs.parameters import ReplayParameters
from tests.tasks.conftest import Bench
from tests.tasks.counters import counters
from tests.tasks.feed import Feed
from tests.upstreams import canned, item

COINS = 5


def mapped(it: Mapping[str, Any]) -> Mapping[str, Any]:
    """A mapping that asks for what it uses, and could use a field that nobody has sent yet."""
    return {
        **{name: it.get(name) for name in ("source_asset_id", "symbol", "name", "quote_currency", "observed_at")},
        "price": it.get("price"),
        "market_cap": it.get("market_cap"),
        "rank": it.get("rank"),
    }


def coin(number: int, minute: int = 0, **edits: Any) -> dict[str, Any]:
    changed = item(number, price=f"{number + 1}.5", observed_at=f"2026-01-01T00:{minute:02d}:00+00:00")
    return {**changed, "market_cap": 1000 + number, **edits}


def page(minute: int, change: str) -> list[dict[str, Any]]:
    """What is sent a minute later, after a change of `market_cap`, of which the mapping makes a quote's."""
    coins = [coin(number, minute) for number in range(COINS)]
    for it in coins:
        if change == "rename":
            it["marketCap"] = it.pop("market_cap")
        elif change == "remove":
            del it["market_cap"]
        elif change == "retype":
            it["market_cap"] = [it["market_cap"]]
        elif change == "add":
            it["all_time_high"] = 7
    return coins


def drifts(bench: Bench) -> list[RowMapping]:
    return bench.rows("SELECT * FROM drift ORDER BY id")


def loaded(bench: Bench, run: object) -> list[RowMapping]:
    return bench.rows("SELECT market_cap FROM quotes WHERE run = :run ORDER BY listing_id", run=run)


KIND = {"rename": "renamed", "remove": "vanished", "retype": "retyped", "add": "new"}

# status of the run; inserted, rejected
OUTCOMES = {
    # Gone: the mapping finds none, and null may be. Of another type: the record refuses it, whatever the policy.
    ("rename", "evolve"): ("succeeded", COINS, 0),
    ("remove", "evolve"): ("succeeded", COINS, 0),
    ("retype", "evolve"): ("failed", 0, COINS),
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
    # The mapping does not use it.
    ("add", "freeze"): ("succeeded", COINS, 0),
}


@pytest.mark.parametrize(("change", "policy"), OUTCOMES)
def test_a_change_of_the_schema_has_the_outcome_that_its_policy_says(
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
    [found] = drifts(bench)
    assert (found["kind"], found["field"]) == (KIND[change], "all_time_high" if change == "add" else "market_cap")
    assert found["run"] == run["id"]
    if change == "rename":
        assert found["became"] == "marketCap"
        assert found["confidence"] >= 0.9
    caps = {row["market_cap"] for row in loaded(bench, run["id"])}
    assert caps == (set() if not inserted else {1000, 1001, 1002, 1003, 1004} if change == "add" else {None})
    reasons = {(it["code"], it["field"]) for row in bench.rows("SELECT reasons FROM rejects") for it in row["reasons"]}
    if rejected:
        assert reasons == ({("drift", "market_cap")} if policy == "quarantine" else {("not_a_number", "market_cap")})
    paused = bench.rows("SELECT paused_until, paused_reason FROM sources WHERE name = 'feed'")[0]
    if policy == "freeze" and change != "add":
        assert run["error_code"] == "schema_frozen"
        assert "`market_cap`" in run["error_detail"]
        assert paused["paused_until"] is None, "until somebody resumes it"
        assert paused["paused_reason"].startswith("schema_frozen: ")
    else:
        assert paused["paused_reason"] is None
    # It is said once, and what follows from it stays so until somebody accepts it.
    bench.rows("UPDATE sources SET paused_reason = NULL")
    feed.pages = [page(2, change)]
    assert bench.ingest(source)["status"] == status
    [again] = drifts(bench)
    waits = policy != "evolve" and change != "add"
    assert (again["accepted_by"], again["pages"]) == ((None, 2) if waits else ("policy", 1))


def test_a_policy_may_be_of_one_field(bench: Bench, httpserver: HTTPServer) -> None:
    feed = Feed(httpserver, [page(0, "none")])
    source = feed.source(normalize=mapped, drift={"*": "freeze", "market_cap": "discard"})
    bench.ingest(source)
    feed.pages = [page(1, "remove")]
    assert bench.ingest(source)["status"] == "succeeded"
    feed.pages = [[{**it, "symbol": 7} for it in page(2, "remove")]]
    assert bench.ingest(source)["error_code"] == "schema_frozen"


def test_only_the_items_that_a_change_affects_are_rejected(bench: Bench, httpserver: HTTPServer) -> None:
    feed = Feed(httpserver, [page(0, "none")])
    source = feed.source(normalize=mapped, drift={"*": "quarantine"})
    bench.ingest(source)
    feed.pages = [[*page(1, "retype")[:4], *page(1, "none")[4:]]]
    run = bench.ingest(source)
    assert counters(bench, run["id"])[:6] == (COINS, 1, 0, 0, 0, 4)


def test_a_new_field_that_the_mapping_uses_is_held_to_the_policy(bench: Bench, httpserver: HTTPServer) -> None:
    feed = Feed(httpserver, [page(0, "none")])
    source = feed.source(normalize=mapped, drift={"*": "quarantine"})
    bench.ingest(source)
    feed.pages = [[{**it, "rank": 3} for it in page(1, "none")[:2]] + page(1, "none")[2:]]
    run = bench.ingest(source)
    assert counters(bench, run["id"])[:6] == (COINS, COINS - 2, 0, 0, 0, 2)


def test_what_was_held_back_comes_in_by_a_replay_once_it_is_accepted(bench: Bench, httpserver: HTTPServer) -> None:
    feed = Feed(httpserver, [page(0, "none")])
    source = feed.source(normalize=mapped, drift={"*": "quarantine"})
    bench.ingest(source)
    feed.pages = [page(1, "remove")]
    bench.ingest(source)
    still = bench.ingest(source, replay=ReplayParameters(rejected=True))
    assert counters(bench, still["id"])[5] == COINS, "nobody has accepted it"
    assert accept_change(bench.engine, "feed", drifts(bench)[0]["id"], "ann")
    assert not accept_change(bench.engine, "feed", 7, "ann")
    replayed = bench.ingest(source, replay=ReplayParameters(rejected=True))
    assert counters(bench, replayed["id"])[:6] == (COINS, COINS, 0, 0, 0, 0)
    feed.pages = [page(2, "remove")]
    assert counters(bench, bench.ingest(source)["id"])[:6] == (COINS, COINS, 0, 0, 0, 0)
    assert [row["accepted_by"] for row in drifts(bench)] == ["ann"]


@pytest.mark.parametrize("change", ["rename", "retype"])
def test_a_change_is_accepted_while_a_slice_is_at_work(bench: Bench, httpserver: HTTPServer, change: str) -> None:
    feed = Feed(httpserver, [page(0, "none")])
    source = feed.source(normalize=mapped, drift={"*": "discard", "symbol": "evolve"})
    bench.ingest(source)

    def accepted(number: int) -> None:
        for row in drifts(bench) if number == 2 else ():
            accept_change(bench.engine, "feed", row["id"], "ann")

    feed.pages = [page(1, change), page(2, change), [{**it, "symbol": 7} for it in page(3, change)]]
    feed.before = accepted
    bench.ingest(source)
    kinds = [(row["kind"], row["field"], row["accepted_by"]) for row in drifts(bench)]
    assert kinds == [(KIND[change], "market_cap", "ann"), ("retyped", "symbol", "policy")]


def test_a_replay_of_what_came_before_a_change_is_no_change(bench: Bench, httpserver: HTTPServer) -> None:
    feed = Feed(httpserver, [page(0, "none")])
    source = feed.source(normalize=mapped)
    bench.ingest(source)
    feed.pages = [page(1, "rename")]
    bench.ingest(source)
    bench.ingest(source, replay=ReplayParameters())
    assert len(drifts(bench)) == 1


def test_a_field_of_a_field_is_named_by_its_path(bench: Bench) -> None:
    first, then = (
        [coin(number, minute, more={"usd": {"cap": cap}}) for number in range(COINS)]
        for minute, cap in ((0, 1), (1, "1"))
    )
    bench.ingest(canned(first, normalize=mapped))
    bench.ingest(canned(then, normalize=mapped))
    [found] = drifts(bench)
    assert (found["field"], found["was"], found["became"]) == ("more.usd.cap", "number", "number as text")


def test_what_is_known_of_fields_is_kept_with_how_often_they_are_null(bench: Bench) -> None:
    bench.ingest(canned([item(0), item(1, market_cap=None)], [item(2, market_cap="7")]))
    [shape] = bench.rows("SELECT version, items, fields FROM shapes")
    assert (shape["version"], shape["items"]) == (1, 3)
    assert shape["fields"]["market_cap"] == {"present": 2, "null": 1, "types": {"number as text": 1}, "size": 0.845}
    bench.ingest(canned([item(3, market_cap="9")]))
    newest = bench.rows("SELECT version, fields FROM shapes ORDER BY version DESC LIMIT 1")[0]
    assert newest["fields"]["market_cap"]["types"] == {"number as text": 2}


def test_the_formats_of_a_source_have_fields_of_their_own(bench: Bench) -> None:
    pages = [[item(0)], [{**item(1), "extra": 1}]]
    bench.ingest(canned(*pages, format=lambda it: "plain" if it.request["page"] == 0 else "rich"))
    assert drifts(bench) == []
    assert bench.one("SELECT count(*) FROM shapes") == 2


def test_in_the_run_that_is_the_first_nothing_is_new(bench: Bench) -> None:
    pages = [[item(0)], [{**item(1), "roi": {"times": 1}}], [{**item(2), "roi": None}]]
    run = bench.request(canned(*pages))
    while bench.slice(run, task_slice=0)["status"] == "queued":
        pass
    bench.ingest(canned(*pages))
    assert drifts(bench) == []
    bench.ingest(canned([{**item(3), "more": 1}]))
    assert [row["field"] for row in drifts(bench)] == ["more"]


def test_what_waits_stays_in_force_in_pages_that_show_little_of_it(bench: Bench, httpserver: HTTPServer) -> None:
    feed = Feed(httpserver, [page(0, "none")])
    source = feed.source(normalize=mapped, drift={"*": "quarantine"})
    bench.ingest(source)
    for minute, odd, rejected in ((1, 5, 5), (2, 2, 2), (3, 5, 5)):
        feed.pages = [page(minute, "retype")[:odd] + page(minute, "none")[odd:]]
        assert counters(bench, bench.ingest(source)["id"])[5] == rejected
    [found] = drifts(bench)
    assert found["accepted_at"] is None


def test_of_many_changes_each_is_held_to_its_policy(bench: Bench) -> None:
    many = {f"field_{number:03d}": number for number in range(80)}
    source = canned([coin(number, **many) for number in range(COINS)], normalize=mapped)
    bench.ingest(source)
    less = canned([coin(number, 1) for number in range(COINS)], normalize=mapped, drift={"field_079": "freeze"})
    assert bench.ingest(less)["error_code"] == "schema_frozen"
    assert "field_079" in {row["field"] for row in drifts(bench)}


@pytest.mark.parametrize(
    "odd", ["a\x00b", "half \ud83d of it", "x" * 5000, "a.b.c", ""], ids=["NUL", "surrogate", "long", "dots", "empty"]
)
def test_odd_names_of_fields_cost_nothing(bench: Bench, odd: str) -> None:
    bench.ingest(canned([coin(number) for number in range(COINS)], normalize=mapped))
    pages = [[coin(number, minute, **{odd: 1}) for number in range(COINS)] for minute in (1, 2)]
    assert bench.ingest(canned(*pages, normalize=mapped, drift={"*": "discard"}))["status"] == "succeeded"


def test_fields_that_are_thought_up_for_ever_fill_no_table(bench: Bench) -> None:
    pages = [[coin(0, minute, **{f"f{minute}_{number}": 1 for number in range(100)})] for minute in range(12)]
    bench.ingest(canned([coin(0)], normalize=mapped))
    bench.ingest(canned(*pages, normalize=mapped))
    counts = bench.rows("SELECT (SELECT count(*) FROM jsonb_object_keys(fields)) AS fields FROM shapes")
    assert max(row["fields"] for row in counts) <= 500


def numbers(*values: Any) -> FieldProfile:
    return profile_items([{"v": value} for value in values])


@pytest.mark.parametrize(
    ("before", "now", "kinds"),
    [
        ([1] * 250, ["n/a"] * 250, []),
        ([1] * 249 + ["odd"], ["odd"] * 250, ["retyped"]),
        (["1.5"] * 100, ["1,234.50", "$3", "7%", "1.2K"] * 25, []),
        (["0,5"] * 100, ["null", "-", ""] * 30, []),
        (["ABC"] * 100, ["42"] * 100, []),
        ([1] * 5, ["x"], []),
        ([1] * 5, ["x"] * 5, ["retyped"]),
        ([1] * 100, [True] * 100, ["retyped"]),
        (["1"] * 100, ["9" * 20_000 + "x"] * 100, ["retyped"]),
    ],
)
def test_a_type_is_another_where_that_is_no_chance(before: list[Any], now: list[Any], kinds: list[str]) -> None:
    assert [change.kind for change in profile_changes(numbers(*before), numbers(*now))] == kinds


def test_a_field_that_is_seldom_missing_has_not_vanished_from_one_item() -> None:
    before = profile_items([{"id": 1, "v": 1}] * 99 + [{"id": 1}])
    assert profile_changes(before, profile_items([{"id": 1}])) == []
    assert [change.kind for change in profile_changes(before, profile_items([{"id": 1}] * 5))] == ["vanished"]


def test_the_log_warns_once(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    source = coingecko_like(bench)
    capsys.readouterr()
    bench.ingest(source(renamed=True))
    bench.ingest(source(renamed=True))
    said = [line for line in capsys.readouterr().out.splitlines() if "drift_detected" in line]
    [line] = [it for it in said if "current_price" in it]
    assert "`current_price` vanished, `currentPrice` appeared: 0.9" in line or "appeared: 1.00" in line


def coingecko_like(bench: Bench) -> Any:
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
                {("currentPrice" if name == "current_price" else name): value for name, value in it.items()}
                for it in coins
            ]
        return canned(json.loads(json.dumps(coins)), normalize=coingecko.normalize)

    bench.ingest(source())
    return source
