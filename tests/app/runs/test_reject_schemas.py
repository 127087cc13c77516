"""Test that every filter selects the matching rejects."""

from __future__ import annotations

import csv
import io
import uuid
from hashlib import sha256
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.app.quotes.test_data import get


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"source": "coingecko"}, {"coingecko 0"}),
        ({"source": ["coingecko", "coinpaprika"]}, {"coingecko 0", "coinpaprika 0", "coinpaprika 1"}),
        ({"state": "replayed"}, {"coinpaprika 1"}),
        ({"code": "missing"}, {"coinpaprika 0", "coinpaprika 1"}),
        ({"code": "missing", "state": "quarantined"}, {"coinpaprika 0"}),
        ({"field": "price"}, {"coingecko 0", "coinpaprika 0"}),
        ({"field": "price", "code": "missing"}, set()),
        ({"body": sha256(b"a").hexdigest()}, {"coingecko 0"}),
        ({"run": "theirs"}, {"coinpaprika 0", "coinpaprika 1"}),
        ({"rejected_from": "2026-01-31T13:00:00Z"}, {"coinpaprika 0", "coinpaprika 1"}),
        ({"rejected_to": "2026-01-31T13:00:00Z"}, {"coingecko 0"}),
    ],
)
def test_filters_select_matching_rejects_in_json_and_in_csv(
    api: FlaskClient, run_with_rejects: uuid.UUID, query: dict[str, Any], expected: set[str]
) -> None:
    if "run" in query:
        query = {"run": str(run_with_rejects)}
    rejects = get(api, "/rejects", **query)["data"]
    assert {f"{reject['source']} {reject['item_index']}" for reject in rejects} == expected
    rows = list(csv.DictReader(io.StringIO(api.get("/rejects", query_string={**query, "format": "csv"}).text)))
    assert {f"{row['source']} {row['item_index']}" for row in rows} == expected
