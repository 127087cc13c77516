"""Test that an operator can accept a clock that was set back, and that no correction is lost afterwards."""

from __future__ import annotations

from contextlib import closing

import psycopg2
import pytest
from pytest_httpserver import HTTPServer

from store.engine import make_engine
from tasks.cli.clock_command import DEADLINES, MOMENTS, SLOTS, main
from tests.stepped_clock import SteppedPostgres
from tests.tasks.conftest import Bench
from tests.tasks.feed import Feed
from tests.upstreams import canned, item

DAY = 86_400
UPSTREAM_TIMES = {
    *((table, "observed_at") for table in ("quotes", "latest_quotes", "seen_quotes")),
    ("pages", "observed_from"),
}
TIME_COLUMNS = """
    SELECT table_name, column_name FROM information_schema.columns
     WHERE table_schema = 'public' AND data_type LIKE 'timestamp%'
"""


@pytest.fixture
def database_url(stepped_database_url: str) -> str:
    return stepped_database_url


def load(bench: Bench, feed: Feed, price: str) -> tuple[int, ...]:
    feed.pages = [[item(price=price)]]
    run = bench.ingest(feed.source())
    [sums] = bench.rows("SELECT inserted, updated, superseded FROM pages WHERE run = :id AND fetched > 0", id=run["id"])
    return tuple(sums.values())


@pytest.mark.usefixtures("process_settings")
def test_accepting_the_clock_leaves_no_time_in_the_future_and_loses_no_correction(
    stepped_server: SteppedPostgres, bench: Bench, httpserver: HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    feed = Feed(httpserver, [])
    stepped_server.set_clock(DAY)
    assert load(bench, feed, "1") == (1, 0, 0)
    waiting = bench.request(canned([item()]))
    bench.rows(
        "UPDATE runs SET status = 'waiting', next_attempt_at = service_time() + interval '60 s',"
        " scheduled_for = service_time() WHERE id = :id",
        id=waiting,
    )
    bench.rows("UPDATE sources SET last_slot = service_time(), breaker_opened_at = service_time() - interval '5 s'")
    stepped_server.set_clock(0)
    assert load(bench, feed, "2") == (0, 1, 0)
    assert main([]) == 0
    assert "and agrees in 8640" in capsys.readouterr().out
    assert main(["--accept"]) == 0
    assert "and now agrees" in capsys.readouterr().out
    for table, column in [(row["table_name"], row["column_name"]) for row in bench.rows(TIME_COLUMNS)]:
        limit = "61 s" if column in DEADLINES.get(table, ()) else "0 s"
        late = f"SELECT count(*) FROM {table} WHERE {column} > clock_timestamp() + interval '{limit}'"
        assert bench.one(late) == 0, f"{table}.{column}"
    assert bench.one("SELECT service_time() - clock_timestamp() < interval '1 s'")
    bench.engine = make_engine(bench.settings.database_url, "test")
    assert load(bench, feed, "3") == (0, 1, 0)
    assert not bench.rows("SELECT FROM clock")
    bench.engine.dispose()


def test_each_time_is_corrected_or_comes_from_an_upstream(bench: Bench) -> None:
    columns = {(row["table_name"], row["column_name"]) for row in bench.rows(TIME_COLUMNS)}
    corrected = {(table, column) for table, names in [*MOMENTS.items(), *DEADLINES.items()] for column in names}
    others = {("clock", "since"), ("pages", "observed_until")} | UPSTREAM_TIMES
    assert columns == corrected | set(SLOTS.items()) | others


@pytest.mark.usefixtures("process_settings")
def test_a_clock_is_not_accepted_while_workers_are_connected(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(psycopg2.connect(bench.settings.database_url, application_name="kasparro-worker")):
        assert main(["--accept"]) == 1
    assert capsys.readouterr().err == (
        "Workers, control or beat are still connected to Postgres (database sessions: 1). Stop these processes first.\n"
    )
    assert main([]) == 0
    assert "is 0.0 s ahead.\n" in capsys.readouterr().out
