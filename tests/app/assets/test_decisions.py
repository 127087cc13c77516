"""What people decide over the API: which assets are one, which listings are of which, and what was decided before."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine

from app.web.context import context_of
from tasks.identity.rematch import rematch_assets
from tests.app.rows import Rows

WHY = {"reason": "It is so."}


@pytest.fixture(autouse=True)
def two(rows: Rows) -> None:
    """Bitcoin in two sources, and another asset of its symbol in one."""
    for source, asset in (("coingecko", "bitcoin"), ("coinpaprika", "bitcoin"), ("coingecko", "bitcoin-two")):
        rows.quote(rows.listing(asset, source))


def decide(api: FlaskClient, token: dict[str, str], path: str, **body: Any) -> Any:
    answer = api.post(path, json={**WHY, **body}, headers=token)
    assert answer.status_code == 200, answer.json
    return answer.json


def sources(asset: Any) -> list[str]:
    return [f"{listing['source']}:{listing['source_asset_id']}" for listing in asset["listings"]]


def test_merged_assets_answer_to_both_slugs_until_it_is_undone(api: FlaskClient, token: dict[str, str]) -> None:
    merged = decide(api, token, "/assets/bitcoin-two/merge", into="bitcoin")
    assert sources(merged) == ["coingecko:bitcoin", "coingecko:bitcoin-two", "coinpaprika:bitcoin"]
    assert api.get("/assets/bitcoin-two").json["slug"] == "bitcoin"
    assert [asset["slug"] for asset in api.get("/assets").json["data"]] == ["bitcoin"]
    quotes = api.get("/data?asset=bitcoin-two&fields=asset").json["data"]
    assert quotes == [{"asset": "bitcoin"}] * 3
    decide(api, token, f"/decisions/{merged['change']}/undo")
    assert sources(api.get("/assets/bitcoin-two").json) == ["coingecko:bitcoin-two"]


def test_a_decision_makes_an_answer_another(api: FlaskClient, token: dict[str, str]) -> None:
    tag = api.get("/data?asset=bitcoin").headers["ETag"]
    decide(api, token, "/assets/bitcoin-two/merge", into="bitcoin")
    answer = api.get("/data?asset=bitcoin", headers={"If-None-Match": tag})
    assert answer.status_code == 200
    assert len(answer.json["data"]) == 3


def test_listings_are_split_off_and_pinned(api: FlaskClient, token: dict[str, str]) -> None:
    listings = [{"source": "coinpaprika", "source_asset_id": "bitcoin"}]
    left = decide(api, token, "/assets/bitcoin/split", listings=listings)
    assert sources(left) == ["coingecko:bitcoin"]
    assert left["made"] == "bitcoin-btc"
    assert sources(api.get("/assets/bitcoin-btc").json) == ["coinpaprika:bitcoin"]
    pinned = decide(api, token, "/assets/bitcoin-two/pin", listings=listings)
    assert sources(pinned) == ["coingecko:bitcoin-two", "coinpaprika:bitcoin"]
    assert [listing["method"] for listing in pinned["listings"]] == ["symbol_and_name", "pinned"]


def test_every_decision_can_be_looked_up(api: FlaskClient, token: dict[str, str]) -> None:
    change = decide(api, token, "/assets/bitcoin-two/merge", into="bitcoin")["change"]
    [merged] = api.get(f"/decisions?change={change}").json["data"]
    assert merged | {"decided_at": ""} == {
        "change": change,
        "source": "coingecko",
        "source_asset_id": "bitcoin-two",
        "quote_currency": "USD",
        "asset": "bitcoin",
        "method": "merged",
        "confidence": 1.0,
        "evidence": {},
        "decided_by": "api",
        "reason": "It is so.",
        "decided_at": "",
    }
    of_listing = api.get("/decisions?source=coingecko&source_asset_id=bitcoin-two").json["data"]
    assert [row["asset"] for row in of_listing] == ["bitcoin", "bitcoin-two"]
    first = api.get("/decisions?limit=3").json
    rest = api.get(f"/decisions?limit=3&cursor={first['pagination']['next_cursor']}").json
    assert [len(first["data"]), len(rest["data"])] == [3, 1]
    assert rest["pagination"]["has_more"] is False


def test_decisions_are_of_the_asset_that_a_slug_stands_for(api: FlaskClient, token: dict[str, str]) -> None:
    decide(api, token, "/assets/bitcoin-two/merge", into="bitcoin")
    of_both = [api.get(f"/decisions?asset={slug}").json["data"] for slug in ("bitcoin", "bitcoin-two")]
    assert [row["asset"] for row in of_both[0]] == ["bitcoin"] * 3
    assert of_both[0] == of_both[1]
    answer = api.get("/decisions?asset=bitcoins")
    assert answer.status_code == 422
    assert answer.json["errors"] == [
        {"in": "query", "name": "asset", "detail": "there is no asset 'bitcoins'; did you mean 'bitcoin'?"}
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "detail"),
    [
        ("/assets/nothing/merge", {"into": "bitcoin"}, 404, "unknown_asset", "There is no asset 'nothing'."),
        (
            "/assets/bitcoin/merge",
            {"into": "bitcoin"},
            409,
            "decision_conflict",
            "bitcoin and bitcoin are already the same asset.",
        ),
        ("/assets/bitcoin/merge", {"into": "bitcoin", "reason": ""}, 422, "invalid_body", "reason"),
        ("/assets/bitcoin/split", {"listings": []}, 422, "invalid_body", "listings"),
        (
            "/assets/bitcoin/pin",
            {"listings": [{"source": "coingecko", "source_asset_id": "x"}]},
            422,
            "invalid_body",
            "There is no listing 'x' of coingecko.",
        ),
        ("/decisions/00000000-0000-0000-0000-000000000000/undo", {}, 404, "unknown_change", "There is no change"),
    ],
)
def test_what_cannot_be_decided_is_refused(
    api: FlaskClient, token: dict[str, str], path: str, body: dict[str, Any], status: int, code: str, detail: str
) -> None:
    answer = api.post(path, json={**WHY, **body}, headers=token)
    assert (answer.status_code, answer.json["code"]) == (status, code)
    assert detail in answer.json["detail"]


def test_a_change_that_is_made_is_answered_whatever_becomes_of_reading(
    app: Flask, api: FlaskClient, token: dict[str, str]
) -> None:
    reader = context_of(app).reader
    with ExitStack() as busy:
        for _ in range(reader.pool.size()):  # type: ignore[attr-defined]  # a QueuePool
            busy.enter_context(reader.connect())
        merged = decide(api, token, "/assets/bitcoin-two/merge", into="bitcoin")
    assert sources(merged) == ["coingecko:bitcoin", "coingecko:bitcoin-two", "coinpaprika:bitcoin"]
    decide(api, token, f"/decisions/{merged['change']}/undo")


def test_each_listing_that_is_not_there_is_named(api: FlaskClient, token: dict[str, str]) -> None:
    listings = [{"source": "coingecko", "source_asset_id": id_} for id_ in ("bitcoin", "x", "y")]
    answer = api.post("/assets/bitcoin/split", json={**WHY, "listings": listings}, headers=token)
    assert answer.json["errors"] == [
        {"in": "body", "name": "listings", "detail": f"There is no listing {id_!r} of coingecko."} for id_ in ("x", "y")
    ]


def test_deciding_needs_the_token(api: FlaskClient) -> None:
    for path in ("/assets/bitcoin/merge", "/assets/bitcoin/split", "/assets/bitcoin/pin"):
        assert api.post(path, json=WHY).status_code == 401


def test_candidates_are_listed_page_by_page(api: FlaskClient, engine: Engine, rows: Rows) -> None:
    for number in range(3):
        rows.listing(f"acme-rockets-{number}", "coingecko", symbol=f"ACM{number}")
        rows.listing(f"acme-{number}", "coinpaprika", symbol=f"ACM{number}")
        rows.listing(f"runner-{number}", "coinpaprika", symbol=f"ACM{number}")
    rematch_assets(engine, {})
    first = api.get("/candidates?limit=2").json
    rest = api.get(f"/candidates?limit=2&cursor={first['pagination']['next_cursor']}").json
    found = [(row["one"], row["other"]) for row in [*first["data"], *rest["data"]]]
    assert found == [(f"acme-rockets-{number}", f"acme-{number}") for number in range(3)]
    assert first["data"][0]["evidence"]["alike"] == "symbol_and_part_of_name"
