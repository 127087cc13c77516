"""Test decisions over the API: merge, split, pin and undo, and the list of all decisions."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.web.context import context_of
from tests.app.rows import Rows

REASON = {"reason": "the same coin"}


@pytest.fixture(autouse=True)
def assets(rows: Rows) -> None:
    """Insert Bitcoin in two sources, and another asset with the same symbol in one source."""
    for source, asset in (("coingecko", "bitcoin"), ("coinpaprika", "bitcoin"), ("coingecko", "bitcoin-two")):
        rows.quote(rows.listing(asset, source))


def decide(api: FlaskClient, token: dict[str, str], path: str, **body: Any) -> Any:
    response = api.post(path, json={**REASON, **body}, headers=token)
    assert response.status_code == 200, response.json
    return response.json


def listing_names(asset: Any) -> list[str]:
    return [f"{listing['source']}:{listing['source_asset_id']}" for listing in asset["listings"]]


def test_both_slugs_return_the_merged_asset_until_the_merge_is_undone(api: FlaskClient, token: dict[str, str]) -> None:
    merged = decide(api, token, "/assets/bitcoin-two/merge", into="bitcoin")
    assert listing_names(merged) == ["coingecko:bitcoin", "coingecko:bitcoin-two", "coinpaprika:bitcoin"]
    assert api.get("/assets/bitcoin-two").json["slug"] == "bitcoin"
    assert [asset["slug"] for asset in api.get("/assets").json["data"]] == ["bitcoin"]
    quotes = api.get("/data?asset=bitcoin-two&fields=asset").json["data"]
    assert quotes == [{"asset": "bitcoin"}] * 3
    decide(api, token, f"/decisions/{merged['change']}/undo")
    assert listing_names(api.get("/assets/bitcoin-two").json) == ["coingecko:bitcoin-two"]


def test_a_decision_invalidates_the_etag(api: FlaskClient, token: dict[str, str]) -> None:
    tag = api.get("/data?asset=bitcoin").headers["ETag"]
    decide(api, token, "/assets/bitcoin-two/merge", into="bitcoin")
    response = api.get("/data?asset=bitcoin", headers={"If-None-Match": tag})
    assert response.status_code == 200
    assert len(response.json["data"]) == 3


def test_listings_are_split_from_an_asset_and_pinned(api: FlaskClient, token: dict[str, str]) -> None:
    listings = [{"source": "coinpaprika", "source_asset_id": "bitcoin"}]
    remaining = decide(api, token, "/assets/bitcoin/split", listings=listings)
    assert listing_names(remaining) == ["coingecko:bitcoin"]
    assert remaining["new_asset"] == "bitcoin-btc"
    assert listing_names(api.get("/assets/bitcoin-btc").json) == ["coinpaprika:bitcoin"]
    pinned = decide(api, token, "/assets/bitcoin-two/pin", listings=listings)
    assert listing_names(pinned) == ["coingecko:bitcoin-two", "coinpaprika:bitcoin"]
    assert [listing["method"] for listing in pinned["listings"]] == ["symbol_and_name", "pinned"]


def test_every_decision_is_listed_by_change_and_by_listing(api: FlaskClient, token: dict[str, str]) -> None:
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
        "reason": "the same coin",
        "decided_at": "",
    }
    rows = api.get("/decisions?source=coingecko&source_asset_id=bitcoin-two").json["data"]
    assert [row["asset"] for row in rows] == ["bitcoin", "bitcoin-two"]
    first = api.get("/decisions?limit=3").json
    rest = api.get(f"/decisions?limit=3&cursor={first['pagination']['next_cursor']}").json
    assert [len(first["data"]), len(rest["data"])] == [3, 1]
    assert rest["pagination"]["has_more"] is False


def test_both_slugs_of_a_merged_asset_list_the_same_decisions(api: FlaskClient, token: dict[str, str]) -> None:
    decide(api, token, "/assets/bitcoin-two/merge", into="bitcoin")
    decisions = [api.get(f"/decisions?asset={slug}").json["data"] for slug in ("bitcoin", "bitcoin-two")]
    assert [row["asset"] for row in decisions[0]] == ["bitcoin"] * 3
    assert decisions[0] == decisions[1]
    response = api.get("/decisions?asset=bitcoins")
    assert response.status_code == 422
    assert response.json["errors"] == [
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
def test_an_impossible_decision_is_refused_with_the_reason(
    api: FlaskClient, token: dict[str, str], path: str, body: dict[str, Any], status: int, code: str, detail: str
) -> None:
    response = api.post(path, json={**REASON, **body}, headers=token)
    assert (response.status_code, response.json["code"]) == (status, code)
    assert detail in response.json["detail"]


def test_a_decision_returns_its_change_even_if_no_second_connection_is_free(
    app: Flask, api: FlaskClient, token: dict[str, str]
) -> None:
    reader = context_of(app).reader
    with ExitStack() as connections:
        for _ in range(reader.pool.size() - 1):  # type: ignore[attr-defined]  # a QueuePool
            connections.enter_context(reader.connect())
        merged = decide(api, token, "/assets/bitcoin-two/merge", into="bitcoin")
    assert listing_names(merged) == ["coingecko:bitcoin", "coingecko:bitcoin-two", "coinpaprika:bitcoin"]
    decide(api, token, f"/decisions/{merged['change']}/undo")


def test_each_unknown_listing_is_named(api: FlaskClient, token: dict[str, str]) -> None:
    listings = [{"source": "coingecko", "source_asset_id": id_} for id_ in ("bitcoin", "x", "y")]
    response = api.post("/assets/bitcoin/split", json={**REASON, "listings": listings}, headers=token)
    assert response.json["errors"] == [
        {"in": "body", "name": "listings", "detail": f"There is no listing {id_!r} of coingecko."} for id_ in ("x", "y")
    ]


def test_decisions_need_the_token(api: FlaskClient) -> None:
    for path in ("/assets/bitcoin/merge", "/assets/bitcoin/split", "/assets/bitcoin/pin"):
        assert api.post(path, json=REASON).status_code == 401
