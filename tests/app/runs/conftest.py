"""Provide rejects of two sources."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest

from tests.app.rows import NOON, Rows

NUMBER = ("price", "not_a_number", "expected a number")
SYMBOL = ("symbol", "missing", 'expected "text",\nof some length')


@pytest.fixture
def run_with_rejects(rows: Rows) -> uuid.UUID:
    """Insert three rejects of two sources, one hour apart. Return the run of the last two."""
    rows.reject(rows.page(rows.run(), body=b"a", rejected=1))
    run = rows.run(source="coinpaprika")
    digest = rows.page(run, body=b"b", source="coinpaprika", rejected=2)
    rows.reject(
        digest, 0, "coinpaprika", item='{"id": "x"}', reasons=[NUMBER, SYMBOL], rejected_at=NOON + timedelta(hours=1)
    )
    replayed = {"state": "replayed", "replayed_at": NOON + timedelta(hours=3)}
    rows.reject(digest, 1, "coinpaprika", reasons=[SYMBOL], rejected_at=NOON + timedelta(hours=2), **replayed)
    return run
