"""Test that /stats accounts for every item of every source, and shows the durations of runs."""

from __future__ import annotations

from datetime import timedelta

from flask.testing import FlaskClient

from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows


def test_stats_account_for_every_item_of_every_source(api: FlaskClient, rows: Rows) -> None:
    gecko, failed = rows.run(), rows.run(status="failed", error_code="x", error_detail="no")
    paprika = rows.run("coinpaprika", "partial", finished_at=NOON + timedelta(seconds=11))
    rows.page(gecko, inserted=5, unchanged=2)
    rows.page(paprika, source="coinpaprika", inserted=1, rejected=2)
    stats = get(api, "/stats")
    assert stats["total"]["conservation"] == {"fetched": 10, "accounted": 10, "holds": True}
    assert stats["total"]["counters"]["inserted"] == 6
    assert stats["total"]["runs"]["failed"] == 1
    by_source = {source["source"]: source for source in stats["sources"]}
    assert by_source["coingecko"]["counters"]["fetched"] == 7
    assert by_source["coingecko"]["last_failure"]["run"] == str(failed)
    assert by_source["coinpaprika"]["durations"] == {"last_seconds": 10.0, "average_seconds": 10.0, "p95_seconds": 10.0}
    assert by_source["csv_history"]["durations"] == {"last_seconds": None, "average_seconds": None, "p95_seconds": None}
    assert by_source["csv_history"]["conservation"]["holds"] is True


def test_a_source_that_is_no_longer_registered_keeps_its_statistics(api: FlaskClient, rows: Rows) -> None:
    rows.page(rows.run("retired"), source="retired", inserted=3)
    rows.quote(rows.listing("bitcoin", "retired"))
    stats = get(api, "/stats")
    assert stats["sources"][-1]["source"] == "retired"
    assert stats["sources"][-1]["counters"]["inserted"] == 3
    assert stats["total"]["counters"]["inserted"] == 3
    assert stats["total"]["quotes_estimate"] == 1


def test_durations_cover_live_runs_from_start_to_end(api: FlaskClient, rows: Rows) -> None:
    for hour, seconds in enumerate((2, 4, 12)):
        start = NOON + timedelta(hours=hour)
        rows.run(requested_at=start, started_at=start, finished_at=start + timedelta(seconds=seconds))
    rows.run(kind="replay", requested_at=NOON + timedelta(days=1), finished_at=NOON + timedelta(days=2))
    [durations] = [source["durations"] for source in get(api, "/stats")["sources"] if source["source"] == "coingecko"]
    assert durations == {"last_seconds": 12.0, "average_seconds": 6.0, "p95_seconds": 11.2}
