"""Test that after a set-back each source requests its bodies again, and is named until it has completed a run."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tasks.set_backs.history import watch_history
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

OPEN = "SELECT source FROM anomalies WHERE kind = 'set_back' AND over_at IS NULL ORDER BY source"


def open_sources(bench: Bench) -> list[str]:
    watch_history(bench.engine)
    return [row["source"] for row in bench.rows(OPEN)]


@pytest.fixture
def set_back(bench: Bench) -> Bench:
    """Return a bench whose database was set back, with the sources `canned` and `other`, and an unregistered one."""
    for name in ("canned", "other"):
        bench.ingest(canned([item()], name=name))
    bench.rows("INSERT INTO sources (name) VALUES ('unregistered')")
    bench.rows("""
        INSERT INTO validators (source, partition, request, etag, digest, mapping)
        SELECT name, '', 'asked', 'v1', 'digest', 'mapping' FROM sources
    """)
    watch_history(bench.engine)
    bench.rows("UPDATE timelines SET timeline = 9")
    return bench


def test_each_registered_source_is_named_until_it_completes_a_run(set_back: Bench) -> None:
    bench = set_back
    started_before = bench.request(canned([item(1)]))
    bench.rows("UPDATE runs SET started_at = clock_timestamp() WHERE id = :run", run=started_before)
    assert open_sources(bench) == ["canned", "other"]
    bench.slice(started_before)
    assert open_sources(bench) == ["canned", "other"]
    bench.ingest(canned([item(2)]))
    with capture_logs() as logs:
        assert open_sources(bench) == ["other"]
    assert [(log["event"], log["source"]) for log in logs] == [("anomaly_ended", "canned")]


def test_the_next_runs_send_no_conditional_requests(set_back: Bench) -> None:
    assert open_sources(set_back)
    assert [row["source"] for row in set_back.rows("SELECT source FROM validators")] == ["unregistered"]
