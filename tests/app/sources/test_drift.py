"""Test that /sources/<name>/drift lists a source's fields and changes, and that a change can be accepted."""

from __future__ import annotations

import json
from typing import Any

from flask.testing import FlaskClient

from store.tables import DriftChangeRow, ProfileRow
from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows

FIELDS = {
    "price": {"present": 8, "null": 2, "types": {"number as text": 1, "number": 5}, "size": 1.0},
    "id": {"present": 8, "null": 0, "types": {"text": 8}, "size": None},
}


def insert_drift(rows: Rows, **values: Any) -> None:
    """Insert two versions of a source's fields, an accepted change, and a pending change."""
    run = rows.run()
    rows.add(ProfileRow(source="coingecko", format="", version=1, run=run, items=1, fields={}, created_at=NOON))
    rows.add(ProfileRow(source="coingecko", format="", version=2, run=run, items=8, fields=FIELDS, created_at=NOON))
    change = {"source": "coingecko", "format": "", "version": 1, "run": run, "last_run": run, "seen_at": NOON}
    rows.add(
        DriftChangeRow(
            **change, last_seen_at=NOON, kind="new", field="id", policy="evolve", accepted_at=NOON, accepted_by="policy"
        )
    )
    rows.add(
        DriftChangeRow(
            **(change | {"version": 2}),
            last_seen_at=NOON,
            kind="renamed",
            field="price",
            was="number",
            became="usd",
            confidence="0.94",
            policy="quarantine",
            new_field=FIELDS["price"],
            pages=3,
            **values,
        )
    )


def test_fields_and_their_changes_are_listed(api: FlaskClient, rows: Rows) -> None:
    insert_drift(rows)
    drift = get(api, "/sources/coingecko/drift")
    assert drift["profiles"] == [
        {
            "format": "",
            "version": 2,
            "since": "2026-01-31T12:00:00Z",
            "items": 8,
            "fields": [
                {"field": "id", "types": ["text"], "missing_share": 0.0, "null_share": 0.0, "policy": "evolve"},
                {
                    "field": "price",
                    "types": ["number", "number as text"],
                    "missing_share": 0.0,
                    "null_share": 0.25,
                    "policy": "evolve",
                },
            ],
        }
    ]
    newest, oldest = drift["data"]
    assert (newest["kind"], newest["field"], newest["became"], newest["confidence"]) == (
        "renamed",
        "price",
        "usd",
        0.94,
    )
    assert (newest["policy"], newest["pages"], newest["accepted_at"]) == ("quarantine", 3, None)
    assert (oldest["kind"], oldest["accepted_by"]) == ("new", "policy")
    first = get(api, "/sources/coingecko/drift", limit=1)
    rest = get(api, "/sources/coingecko/drift", limit=1, cursor=first["pagination"]["next_cursor"])
    assert [change["kind"] for change in first["data"] + rest["data"]] == ["renamed", "new"]
    assert [change["kind"] for change in get(api, "/sources/coingecko/drift", state="waiting")["data"]] == ["renamed"]
    assert get(api, "/sources/coinpaprika/drift")["profiles"] == []


def test_the_first_person_to_accept_a_change_is_recorded(api: FlaskClient, rows: Rows, token: dict[str, str]) -> None:
    insert_drift(rows)
    change = get(api, "/sources/coingecko/drift")["data"][0]["id"]
    for by in ("ann", "bob"):
        response = api.post(f"/sources/coingecko/drift/{change}/accept", json={"by": by}, headers=token)
        assert (response.status_code, (response.json or {})["accepted_by"]) == (200, "ann")
    [profile] = get(api, "/sources/coingecko/drift")["profiles"]
    assert profile["version"] == 3
    missing_shares = {field["field"]: field["missing_share"] for field in profile["fields"]}
    assert missing_shares["usd"] == 0.0
    assert missing_shares["price"] > 0.02


def test_an_unknown_change_or_source_is_a_404(api: FlaskClient, rows: Rows, token: dict[str, str]) -> None:
    insert_drift(rows)
    change = get(api, "/sources/coingecko/drift")["data"][0]["id"]
    for path in (
        "coingecko/drift/7000",
        "coingecko/drift/x",
        f"coinpaprika/drift/{change}",
        f"coingecko/drift/{'9' * 30}",
    ):
        response = api.post(f"/sources/{path}/accept", json={"by": "ann"}, headers=token)
        assert (response.status_code, (response.json or {})["code"]) == (404, "unknown_change")
    assert api.get("/sources/nobody/drift").status_code == 404
    assert json.loads(api.get("/sources/coingeko/drift").text)["code"] == "unknown_source"
