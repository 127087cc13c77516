"""Request runs over the API."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient

BACKFILL = {"source": "coingecko", "kind": "backfill", "assets": ["bitcoin"], "observed_from": "2025-01-01T00:00:00Z"}


def post_run(api: FlaskClient, token: dict[str, str], body: Any, **headers: str) -> Any:
    return api.post("/runs", json=body, headers={**token, **headers})
