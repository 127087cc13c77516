"""Test that a batch moves the latest quotes, and uses the indexes of its tables."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import event, text

from tests.processes import until
from tests.tasks.retraction.whole_truth import Truth, days, row


def latest(truth: Truth) -> dict[str, int]:
    rows = truth.bench.rows("""
        SELECT source_asset_id AS coin, extract(day FROM observed_at AT TIME ZONE 'UTC')::int AS day
          FROM latest_quotes JOIN listings ON listings.id = listing_id
    """)
    return {row["coin"]: row["day"] for row in rows}


def test_the_latest_quote_becomes_the_newest_one_that_is_left_or_none(truth: Truth) -> None:
    truth.write("a.csv", *days("btc", range(1, 6)), *days("eth", range(1, 6)), row("gone", 1), row("old", 3))
    truth.load()
    assert latest(truth) == {"btc": 5, "eth": 5, "gone": 1, "old": 3}
    truth.write("a.csv", *days("btc", range(1, 4)), *days("eth", range(2, 6)), row("old", 3))
    truth.refresh()
    assert latest(truth) == {"btc": 3, "eth": 5, "old": 3}
    truth.assert_consistent()


def test_a_batch_looks_up_each_quote_in_the_primary_keys(truth: Truth) -> None:
    """Without statistics, the planner must not read or sort more than the batch."""
    truth.write("a.csv", *(row(f"c{coin}", day) for coin in range(20) for day in range(1, 29)))
    truth.load()
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "seen_quotes AS seen" in statement and not statement.startswith("EXPLAIN"):
            plans.append("\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars()))

    event.listen(truth.bench.engine, "before_cursor_execute", explain)
    truth.refresh()
    event.remove(truth.bench.engine, "before_cursor_execute", explain)
    assert "Index Only Scan using quotes_pkey" in plans[0]
    assert "Index Only Scan using seen_quotes_pkey" in plans[0]
    assert [name for name in ("Seq Scan", "Bitmap") if name in plans[0]] == []
    # Only the rows of the batch itself are sorted.
    assert plans[0].count("Sort") <= 2


def test_retention_that_deletes_the_next_newest_quote_leaves_a_right_pointer(truth: Truth) -> None:
    """Retention and a batch may delete quotes of one listing at the same time."""
    truth.write("a.csv", *days("btc", range(1, 10)))
    truth.load()
    truth.write("a.csv", *days("btc", range(1, 9)))
    retention = truth.bench.engine.connect()
    retention.execute(text("DELETE FROM quotes WHERE extract(day FROM observed_at AT TIME ZONE 'UTC') = 8"))
    with ThreadPoolExecutor(1) as thread:
        refresh = thread.submit(truth.refresh)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        until(lambda: truth.bench.one(waiting) == 1)
        retention.execute(text("UPDATE sources SET quotes_dropped = quotes_dropped + 1"))
        retention.commit()
        assert refresh.result(20)["status"] == "succeeded"
    retention.close()
    assert latest(truth) == {"btc": 7}
    truth.assert_consistent()


def test_each_batch_of_a_long_history_takes_far_less_than_a_transaction_may(truth: Truth) -> None:
    """Without statistics, a join would read the whole table for each batch."""
    rows = [f"btc,1,2026-01-{1 + m // 1440:02}T{m // 60 % 24:02}:{m % 60:02}:00Z\n" for m in range(20_000)]
    truth.write("a.csv", *rows)
    truth.load()
    truth.write("a.csv", *rows[8_000:])
    run = truth.refresh()
    assert (run["status"], run["retraction"]["deleted"], run["claims"]) == ("succeeded", 8_000, 1)
    truth.assert_consistent()
