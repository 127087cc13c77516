"""Test that a source's history names its newest live run of each outcome."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine

from app.sources.run_history import MAX_DETAIL_CHARS, run_histories
from tests.app.rows import NOON, Rows


def test_the_newest_run_of_each_outcome_is_found(engine: Engine, rows: Rows) -> None:
    rows.run(requested_at=NOON)
    partial = rows.run(status="partial", requested_at=NOON + timedelta(hours=1))
    rows.run(status="failed", requested_at=NOON + timedelta(hours=2), error_code="schema_frozen")
    failed = rows.run(status="failed", requested_at=NOON + timedelta(hours=3), error_code="x", error_detail="y" * 900)
    rows.run(status="cancelled", requested_at=NOON + timedelta(hours=4))
    waiting = rows.run(status="waiting", requested_at=NOON + timedelta(hours=5))
    with engine.connect() as connection:
        history = run_histories(connection, ["coingecko"])["coingecko"]
    assert {name: run["run"] for name, run in history.items()} == {
        "last_success": partial,
        "last_failure": failed,
        "live_run": waiting,
    }
    assert (history["last_failure"]["code"], history["last_failure"]["detail"]) == ("x", "y" * MAX_DETAIL_CHARS)


def test_replays_backfills_and_other_sources_do_not_count(engine: Engine, rows: Rows) -> None:
    rows.run(kind="replay")
    rows.run(kind="backfill", status="failed", error_code="x")
    rows.run("coinpaprika", "running")
    with engine.connect() as connection:
        histories = run_histories(connection, ["coingecko", "csv_history"])
    nothing = {"last_success": None, "last_failure": None, "live_run": None}
    assert histories == {"coingecko": nothing, "csv_history": nothing}
