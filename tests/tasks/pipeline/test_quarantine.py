"""Test that the number of stored rejects is bounded for each run."""

from __future__ import annotations

import pytest

from tasks.pipeline import quarantine
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item


def test_after_many_rejects_of_a_run_only_the_first_of_each_page_is_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MAX_REJECTS_PER_RUN", 5)
    pages = [[item(0), *(item(n, price=f"{name}{n}") for n in range(1, 4))] for name in "abcd"]
    run = bench.ingest(canned(*pages))
    assert run["status"] == "partial"
    assert bench.one("SELECT sum(rejected) FROM pages") == 12
    stored = bench.rows("SELECT count(*) FROM rejects GROUP BY digest ORDER BY 1 DESC")
    assert [row["count"] for row in stored] == [3, 2, 1, 1]
