"""Test that a check continues in bites at its stored position, by any process."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tasks.integrity import verify
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

QUERY = "SELECT position, found, violations FROM integrity WHERE name = 'latest_without_quote'"


@pytest.fixture
def large(bench: Bench) -> Bench:
    """Return a bench with more latest quotes than two bites, all of them without a quote."""
    bench.rows("INSERT INTO latest_quotes SELECT n, now() FROM generate_series(1, 4500) AS n")
    return bench


def test_a_check_continues_at_its_position(large: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "CHECK_SECONDS", 0.0)  # one bite at each call
    states = []
    for _ in range(4):
        verify.verify_data(large.engine)
        states.append(tuple(large.rows(QUERY)[0].values()))
    assert states == [("2000", 2000, None), ("4000", 4000, None), ("4500", 4500, None), (None, 0, 4500)]
    large.rows("DELETE FROM latest_quotes")
    verify.verify_data(large.engine)
    assert large.one("SELECT violations FROM integrity WHERE name = 'latest_without_quote'") == 0


def test_a_bite_of_another_process_is_not_repeated(large: Bench) -> None:
    verify.verify_data(large.engine)
    with large.engine.begin() as other:
        other.execute(text("UPDATE integrity SET found = 7"))
        verify.verify_data(large.engine)
    assert large.one("SELECT found FROM integrity WHERE name = 'latest_without_quote'") == 7


def test_a_run_that_takes_too_long_to_count_is_skipped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.ingest(canned([item(0)]))
    bench.rows("UPDATE pages SET inserted = 0, unchanged = inserted")
    monkeypatch.setattr(verify, "BITE_TIMEOUT_MS", 1)
    slow = verify.CHECKS[-1].query.replace("count(*) AS number", "count(*) + 0 * count(pg_sleep(0.1)) AS number")
    monkeypatch.setattr(verify, "CHECKS", [verify.Check("runs_with_too_many_quotes", verify.CHECKS[-1].start, 1, slow)])
    verify.verify_data(bench.engine)
    assert bench.one("SELECT violations FROM integrity") == 0
