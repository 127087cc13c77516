"""Test GET /data/origin: the file and line of a quote, and its run without a stored page."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from settings import Settings
from tasks.ingest import work_on
from tasks.runs.claims import claim_run
from tasks.runs.requests import RunRequest, request_runs
from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows
from tests.sources.csv_folder import environment

QUOTE = {
    "source": "csv_history",
    "source_asset_id": "Long",
    "quote_currency": "usd",
    "observed_at": "2020-01-02T00:00:00Z",
}
HEADER = "Name,Symbol,Date,High,Low,Open,Close,Volume,Marketcap\n"


def test_the_origin_of_a_quote_from_a_file_names_its_file_and_line(
    api: FlaskClient, engine: Engine, settings: Settings, broker: Any, tmp_path: Any
) -> None:
    (tmp_path / "coin_history").mkdir()
    rows = "".join(f"Long,LNG,2020-01-0{day},3,1,2,{day}.5,70,900\n" for day in (1, 2, 3))
    (tmp_path / "coin_history" / "coin_Long.csv").write_text(HEADER + rows)
    with environment(CSV_DIR=str(tmp_path)):
        [requested] = request_runs(engine, [RunRequest("csv_history")], requested_by="test")
        claim = claim_run(engine, requested.run)
        assert claim
        work_on(engine, settings, claim)
    origin = get(api, "/data/origin", **QUOTE)["data"]
    page = origin["page"]
    assert origin["run"] == str(requested.run)
    assert (page["file"], page["line"], page["item_index"]) == ("coin_history/coin_Long.csv", 3, 1)
    assert '"Close": "2.5"' in page["item"]
    assert page["request"]["offset"] == 0


def test_a_quote_without_a_stored_page_has_only_its_run(api: FlaskClient, rows: Rows) -> None:
    rows.quote(rows.listing())
    origin = get(
        api,
        "/data/origin",
        source="coingecko",
        source_asset_id="bitcoin",
        quote_currency="USD",
        observed_at=NOON.isoformat(),
    )
    assert origin["data"] == {
        "run": "00000000-0000-0000-0000-000000000001",
        "fetched_at": "2026-01-31T12:00:00Z",
        "page": None,
    }


@pytest.mark.parametrize(("changes", "status"), [({}, 404), ({"source": "nobody"}, 422), ({"observed_at": "x"}, 422)])
def test_the_origin_of_an_unknown_quote_is_an_error(api: FlaskClient, changes: dict[str, str], status: int) -> None:
    response = api.get("/data/origin", query_string={**QUOTE, **changes})
    assert response.status_code == status
    assert response.json
    assert response.json["code"] == ("unknown_quote" if status == 404 else "invalid_parameter")
