"""/sources, /assets and /stats: what is known of each upstream, each asset, and all that was done."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from flask.testing import FlaskClient

from sources.contract import Retention
from sources.registry import SOURCES
from tests.app.quotes.test_data import get, pages
from tests.app.rows import NOON, Rows


def test_every_source_of_the_registry_is_listed(api: FlaskClient) -> None:
    assert [source["name"] for source in get(api, "/sources")["data"]] == list(SOURCES)


def test_the_next_run_is_at_the_next_slot(api: FlaskClient) -> None:
    source = get(api, "/sources/coingecko")
    following = datetime.fromisoformat(source["next_run_at"])
    assert following.timestamp() % source["every_seconds"] == 0
    assert timedelta(0) < following - datetime.now(UTC) <= timedelta(seconds=source["every_seconds"])
    assert source["catch_up"] == "latest"


def test_a_source_tells_of_its_checkpoint_lease_budget_and_runs(api: FlaskClient, rows: Rows) -> None:
    good = rows.run(requested_at=NOON)
    rows.run(requested_at=NOON + timedelta(hours=1), status="failed", error_code="x", error_detail="y" * 900)
    live = rows.run(requested_at=NOON + timedelta(hours=2), status="running")
    soon = datetime.now(UTC) + timedelta(minutes=1)
    rows.checkpoint(cursor={"page": 3}, version=7, lease_run=live, lease_expires=soon, updated_at=NOON)
    rows.checkpoint(partition="old", lease_run=good, lease_expires=NOON, updated_at=NOON)
    source = get(api, "/sources/coingecko")
    whole, old = source["checkpoints"]
    assert (whole["partition"], whole["cursor"], whole["version"]) == ("", {"page": 3}, 7)
    assert whole["lease"]["run"] == str(live)
    assert old["lease"] is None
    assert source["last_success"] == {
        "run": str(good),
        "status": "succeeded",
        "finished_at": "2026-01-31T12:00:03Z",
    }
    assert len(source["last_failure"]["detail"]) == 500
    assert source["live_run"]["run"] == str(live)
    assert source["rate"]["used_this_month"] == 0


def test_a_source_tells_how_its_circuit_breaker_stands(api: FlaskClient, rows: Rows) -> None:
    now = datetime.now(UTC)
    rows.breaker("coingecko", failures=5, opened_at=now)
    rows.breaker("coinpaprika", failures=6, opened_at=now - timedelta(hours=1))
    opened = get(api, "/sources/coingecko")["breaker"]
    assert (opened["state"], opened["failures"]) == ("open", 5)
    assert datetime.fromisoformat(opened["until"]) == now + timedelta(seconds=60)
    assert get(api, "/sources/coinpaprika")["breaker"] == {"state": "half_open", "failures": 6, "until": None}
    assert get(api, "/sources/csv_history")["breaker"] == {"state": "closed", "failures": 0, "until": None}


def test_a_source_that_is_being_tried_says_until_when_others_wait(api: FlaskClient, rows: Rows) -> None:
    now = datetime.now(UTC)
    rows.breaker(failures=5, opened_at=now - timedelta(hours=1), probe_until=now + timedelta(seconds=40))
    tried = get(api, "/sources/coingecko")["breaker"]
    assert tried["state"] == "half_open"
    assert datetime.fromisoformat(tried["until"]) == now + timedelta(seconds=40)


def test_a_source_tells_how_long_things_are_kept_and_what_was_dropped(
    api: FlaskClient, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = replace(SOURCES["coingecko"], retention=Retention(quotes=timedelta(days=30)))
    monkeypatch.setitem(SOURCES, "coingecko", kept)  # type: ignore[arg-type]  # a dict, to everyone a Mapping
    rows.dropped(quotes=12, bodies=3)
    assert get(api, "/sources/coingecko")["retention"] == {
        "quotes_seconds": 2592000,
        "bodies_seconds": None,
        "quotes_dropped": 12,
        "bodies_dropped": 3,
    }
    for_ever = {"quotes_seconds": None, "bodies_seconds": None, "quotes_dropped": 0, "bodies_dropped": 0}
    assert get(api, "/sources/coinpaprika")["retention"] == for_ever


def test_a_source_is_paused_with_a_reason_until_it_is_resumed(api: FlaskClient, token: dict[str, str]) -> None:
    paused = api.post("/sources/coingecko/pause", json={"reason": "It moves."}, headers=token)
    assert paused.json is not None
    assert (paused.json["paused"], paused.json["paused_reason"], paused.json["next_run_at"]) == (
        True,
        "It moves.",
        None,
    )
    later = datetime.now(UTC) + timedelta(days=2)
    until = api.post(
        "/sources/coingecko/pause", json={"reason": "It moves.", "until": later.isoformat()}, headers=token
    )
    assert until.json is not None
    assert datetime.fromisoformat(until.json["next_run_at"]) > later
    resumed = api.post("/sources/coingecko/resume", headers=token)
    assert resumed.json is not None
    assert (resumed.json["paused"], resumed.json["paused_reason"]) == (False, None)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": ""},
        {"reason": "x\0"},
        {"reason": "x", "until": "soon"},
        {"reason": "x", "until": "2020-01-01T00:00:00Z"},
        {"reason": "x", "until": "9999-12-31T23:59:59Z"},
        {"why": "x"},
    ],
)
def test_a_pause_without_a_proper_reason_or_end_is_refused(
    api: FlaskClient, token: dict[str, str], body: dict[str, str]
) -> None:
    assert api.post("/sources/coingecko/pause", json=body, headers=token).status_code == 422


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("/sources/coingeko", "unknown_source", "did you mean 'coingecko'?"),
        ("/sources/%00", "not_found", "There is nothing"),
        ("/assets/bitcion", "unknown_asset", "did you mean 'bitcoin'?"),
        ("/assets/%00", "not_found", "There is nothing"),
        ("/assets/%ed%a0%80", "unknown_asset", "There is no asset"),
    ],
)
def test_a_name_that_is_not_there_is_a_404_with_the_nearest(
    api: FlaskClient, rows: Rows, path: str, code: str, said: str
) -> None:
    rows.listing("bitcoin")
    answer = api.get(path)
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"]) == (404, code)
    assert said in answer.json["detail"]


def test_an_asset_shows_its_listings_and_how_each_was_matched(api: FlaskClient, rows: Rows) -> None:
    rows.listing("bitcoin", "coinpaprika")
    rows.quote(rows.listing("bitcoin", "coingecko"), NOON)
    asset = get(api, "/assets/bitcoin")
    assert (asset["slug"], asset["symbol"], asset["name"]) == ("bitcoin", "BTC", "Bitcoin")
    gecko, paprika = asset["listings"]
    assert (gecko["source"], gecko["method"], gecko["confidence"]) == ("coingecko", "symbol_and_name", 0.9)
    assert (gecko["newest"], paprika["newest"]) == ("2026-01-31T12:00:00Z", None)


def test_assets_are_listed_by_slug_each_once(api: FlaskClient, rows: Rows) -> None:
    for number in range(5):
        rows.listing(f"coin-{number}", source="coinpaprika" if number == 4 else "coingecko", symbol=f"C{number}")
    slugs = [asset["slug"] for page in pages(api, "/assets", limit=2) for asset in page]
    assert slugs == [f"coin-{number}" for number in range(5)]
    assert [asset["slug"] for asset in get(api, "/assets", source="coinpaprika")["data"]] == ["coin-4"]
    assert [asset["slug"] for asset in get(api, "/assets", symbol=["c1", "C2"])["data"]] == ["coin-1", "coin-2"]


def test_stats_account_for_every_item_of_every_source(api: FlaskClient, rows: Rows) -> None:
    gecko, failed = rows.run(), rows.run(status="failed", error_code="x", error_detail="no")
    paprika = rows.run("coinpaprika", "partial", finished_at=NOON + timedelta(seconds=11))
    rows.page(gecko, inserted=5, unchanged=2)
    rows.page(paprika, source="coinpaprika", inserted=1, rejected=2)
    stats = get(api, "/stats")
    assert stats["total"]["conservation"] == {"fetched": 10, "accounted": 10, "holds": True}
    assert stats["total"]["counters"]["inserted"] == 6
    assert stats["total"]["runs"]["failed"] == 1
    by_source = {source["source"]: source for source in stats["sources"]}
    assert by_source["coingecko"]["counters"]["fetched"] == 7
    assert by_source["coingecko"]["last_failure"]["run"] == str(failed)
    assert by_source["coinpaprika"]["durations"] == {"last_seconds": 10.0, "average_seconds": 10.0, "p95_seconds": 10.0}
    assert by_source["csv_history"]["durations"] == {"last_seconds": None, "average_seconds": None, "p95_seconds": None}
    assert by_source["csv_history"]["conservation"]["holds"] is True


def test_a_confidence_is_kept_as_it_was_given(api: FlaskClient, rows: Rows) -> None:
    rows.listing("bitcoin")
    assert Decimal(str(get(api, "/assets/bitcoin")["listings"][0]["confidence"])) == Decimal("0.9")
