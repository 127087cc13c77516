"""Test that a source is late after a long time without a good run, and until the next good run."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sources.contract import Source
from tasks.anomalies import freshness
from tasks.anomalies.freshness import max_staleness, record_late_sources
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    """Return the only registered source, which is due every hour."""
    source = canned([item(0)])
    monkeypatch.setattr(freshness, "SOURCES", {"canned": source})
    return source


def age_runs(bench: Bench, time: str) -> None:
    """Move all runs into the past by this time."""
    bench.rows(
        "UPDATE runs SET requested_at = requested_at - CAST(:time AS interval),"
        " finished_at = finished_at - CAST(:time AS interval)",
        time=time,
    )


def test_a_late_source_is_an_anomaly_until_a_run_succeeds(bench: Bench, source: Source) -> None:
    record_late_sources(bench.engine)
    run = bench.ingest(source)
    record_late_sources(bench.engine)
    assert bench.rows("SELECT * FROM anomalies") == [], "the source has just had a run"
    bench.rows("UPDATE runs SET finished_at = finished_at - interval '3h 1min' WHERE id = :run", run=run["id"])
    for _ in range(2):
        record_late_sources(bench.engine)
    [late] = bench.rows("SELECT * FROM anomalies")
    assert (late["kind"], late["source"], late["over_at"], late["expected"]) == ("late", "canned", None, 10800)
    assert late["detail"] == f"no good run for {late['value']:.0f} s; one is expected at least every 10800 s"
    bench.rows("UPDATE sources SET paused_reason = 'for a while'")
    record_late_sources(bench.engine)
    assert bench.one("SELECT over_at FROM anomalies") is None, "a pause does not count as a good run"
    bench.rows("UPDATE sources SET paused_reason = NULL")
    bench.ingest(source)
    record_late_sources(bench.engine)
    assert bench.one("SELECT over_at FROM anomalies") is not None


def test_a_source_with_only_failed_runs_is_late_counted_from_its_first_request(bench: Bench, source: Source) -> None:
    bench.ingest(canned([item(0, price="much")]))
    age_runs(bench, "2h 59min")
    record_late_sources(bench.engine)
    assert bench.rows("SELECT * FROM anomalies") == []
    age_runs(bench, "2min")
    record_late_sources(bench.engine)
    assert bench.one("SELECT kind FROM anomalies") == "late"


def test_a_paused_source_is_not_late(bench: Bench, source: Source) -> None:
    bench.ingest(source)
    age_runs(bench, "10h")
    bench.rows("UPDATE sources SET paused_reason = 'for a while'")
    record_late_sources(bench.engine)
    assert bench.rows("SELECT * FROM anomalies") == []


def test_a_source_becomes_late_counted_from_the_end_of_its_pause(bench: Bench, source: Source) -> None:
    bench.ingest(source)
    age_runs(bench, "10h")
    bench.rows("UPDATE sources SET paused_reason = 'for a while', paused_until = clock_timestamp() - interval '1h'")
    record_late_sources(bench.engine)
    assert bench.rows("SELECT * FROM anomalies") == []
    bench.rows("UPDATE sources SET paused_until = clock_timestamp() - interval '4h'")
    record_late_sources(bench.engine)
    assert bench.one("SELECT kind FROM anomalies") == "late"


def test_the_maximum_staleness_is_three_intervals_unless_declared() -> None:
    assert max_staleness(canned()) == timedelta(hours=3)
    assert max_staleness(canned(fresh=timedelta(minutes=5))) == timedelta(minutes=5)
