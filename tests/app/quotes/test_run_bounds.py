"""Test that the quotes of one run are found through the times and listings that its pages recorded."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows


@pytest.mark.parametrize("wrote", [3, 3_000_000])
@pytest.mark.parametrize("recorded", ["nothing", "times", "times and listings"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_run_selects_only_the_rows_that_it_wrote(
    api: FlaskClient, rows: Rows, wrote: int, recorded: str, order: str
) -> None:
    run, listing = rows.run(), rows.listing()
    times = {"observed_from": NOON - timedelta(hours=2), "observed_until": NOON}
    times_and_listings = {**times, "listings": [listing, rows.listing("other")]}
    columns = {"nothing": {}, "times": times, "times and listings": times_and_listings}[recorded]
    rows.page(run, seq=0, recorded=columns, inserted=wrote)
    rows.page(run, seq=1, recorded=columns, updated=wrote)
    rows.page(run, seq=2, unchanged=7)
    for hour in range(3):
        rows.quote(listing, NOON - timedelta(hours=hour), str(hour), run=run, ingested_at=NOON + timedelta(seconds=2))
    rows.quote(listing, NOON + timedelta(hours=1), "9", ingested_at=NOON + timedelta(seconds=2))
    first = get(api, "/data", run=str(run), limit=2, order=order)
    rest = get(api, "/data", run=str(run), limit=2, order=order, cursor=first["pagination"]["next_cursor"])
    prices = [row["price"] for row in [*first["data"], *rest["data"]]]
    assert prices == (["0", "1", "2"] if order == "desc" else ["2", "1", "0"])
    assert get(api, "/data", run=str(run), asset="other")["data"] == []
    total = first["pagination"]["total"], first["pagination"]["total_is_estimate"]
    assert total == ((6_000_000, True) if wrote > 3 else (3, False))


def test_an_unknown_run_is_named_in_the_error(api: FlaskClient) -> None:
    response = api.get(f"/data?run={uuid.UUID(int=7)}")
    assert response.status_code == 422
    assert response.json is not None
    assert "00000000-0000-0000-0000-000000000007" in response.json["errors"][0]["detail"]
