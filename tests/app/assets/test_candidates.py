"""Test that /candidates lists pairs of assets that the rematch could not decide."""

from __future__ import annotations

from flask.testing import FlaskClient
from sqlalchemy import Engine

from tasks.identity.rematch import rematch_assets
from tests.app.rows import Rows


def test_candidates_are_listed_page_by_page(api: FlaskClient, engine: Engine, rows: Rows) -> None:
    for number in range(3):
        rows.listing(f"acme-rockets-{number}", "coingecko", symbol=f"ACM{number}")
        rows.listing(f"acme-{number}", "coinpaprika", symbol=f"ACM{number}")
        rows.listing(f"runner-{number}", "coinpaprika", symbol=f"ACM{number}")
    rematch_assets(engine, {})
    first = api.get("/candidates?limit=2").json
    rest = api.get(f"/candidates?limit=2&cursor={first['pagination']['next_cursor']}").json
    pairs = [(row["older"], row["newer"]) for row in [*first["data"], *rest["data"]]]
    assert pairs == [(f"acme-rockets-{number}", f"acme-{number}") for number in range(3)]
    assert first["data"][0]["evidence"]["alike"] == "symbol_and_part_of_name"
