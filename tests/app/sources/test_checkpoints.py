"""Test how the checkpoints of a source appear in responses."""

from __future__ import annotations

import uuid

from flask.testing import FlaskClient

from tests.app.quotes.test_data import get
from tests.app.rows import Rows


def test_a_checkpoint_shows_why_its_newest_content_is_not_loaded(api: FlaskClient, rows: Rows) -> None:
    verdict = {"run": str(uuid.uuid4()), "code": "nothing_loaded", "items": 3, "loaded": 0}
    rows.checkpoint("csv_history", "a.csv", verdict=verdict)
    rows.checkpoint("csv_history", "b.csv")
    shown = get(api, "/sources/csv_history")["checkpoints"]
    assert [row["verdict"] for row in shown] == [verdict, None]


def test_checkpoints_of_replays_and_backfills_are_not_shown(api: FlaskClient, rows: Rows) -> None:
    for partition in ("", "replay:x", "backfill:x"):
        rows.checkpoint(partition=partition)
    assert [row["partition"] for row in get(api, "/sources/coingecko")["checkpoints"]] == [""]
