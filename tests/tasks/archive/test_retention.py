"""Test that retention deletes exactly the expired quotes and bodies, even if other workers run at the same time."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from redis import Redis
from sqlalchemy import event, text
from structlog.testing import capture_logs

from sources.contract import Retention
from store.engine import make_engine
from tasks.archive import retention
from tasks.archive.retention import delete_expired, without_expired
from tasks.celery import celery
from tests.app.rows import Rows
from tests.processes import Process, until
from tests.tasks.archive.aged_data import DAY, MONTH, NOW, at, days, delete, load, source
from tests.tasks.conftest import Bench
from tests.tasks.counters import counters

# Quotes


def test_quotes_older_than_the_retention_of_their_source_are_deleted(bench: Bench) -> None:
    load(bench, source([at(400), at(31), at(29), at(1), at(40, 1), at(2, 1)]), quotes=MONTH)
    delete(bench)
    assert days(bench) == {"C0": [1, 29], "C1": [2]}
    assert bench.one("SELECT quotes_dropped FROM sources") == 3


def test_a_source_without_a_retention_keeps_everything(bench: Bench) -> None:
    load(bench, source([at(4000), at(400), at(1)]))
    load(bench, source([at(400, 1), at(1, 1)], name="other"), quotes=MONTH)
    delete(bench)
    assert days(bench) == {"C0": [1, 400, 4000], "C1": [1]}


def test_the_newest_quote_of_a_listing_is_never_deleted(bench: Bench) -> None:
    load(bench, source([at(400), at(300), at(500, 1), at(1, 2)]), quotes=MONTH)
    for _ in range(2):
        delete(bench)
    assert days(bench) == {"C0": [300], "C1": [500], "C2": [1]}
    assert bench.one("SELECT count(*) FROM latest_quotes JOIN quotes USING (listing_id, observed_at)") == 3


def test_deleted_quotes_are_not_loaded_again_when_their_file_is_read_again(bench: Bench) -> None:
    loaded = source([at(400), at(300), at(20), at(1)])
    load(bench, loaded, quotes=MONTH)
    delete(bench)
    run = bench.ingest(replace(loaded, retention=Retention(quotes=MONTH)))
    assert counters(bench, run["id"]) == (4, 0, 0, 4, 0, 0)
    assert days(bench) == {"C0": [1, 20]}


def test_an_old_page_adds_no_expired_quotes_to_listings_with_newer_quotes(bench: Bench) -> None:
    loaded = source([at(400, number) for number in range(3)], [at(1, number) for number in range(2)])
    load(bench, loaded, quotes=MONTH)
    delete(bench)
    run = bench.ingest(replace(loaded, retention=Retention(quotes=MONTH)))
    assert counters(bench, run["id"]) == (5, 0, 0, 5, 0, 0)
    assert days(bench) == {"C0": [1], "C1": [1], "C2": [400]}


def test_a_loaded_history_contains_no_expired_quotes_except_the_newest_of_a_listing(bench: Bench) -> None:
    history = source([at(400), at(20), at(1), at(300, 1), at(200, 1)])
    run = bench.ingest(replace(history, retention=Retention(quotes=MONTH)))
    assert counters(bench, run["id"]) == (5, 3, 0, 2, 0, 0)
    assert days(bench) == {"C0": [1, 20], "C1": [200]}
    delete(bench)
    assert days(bench) == {"C0": [1, 20], "C1": [200]}


@pytest.fixture
def batches(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Limit batches to three quotes. Yield the list that collects the number of quotes that each statement deleted."""
    monkeypatch.setattr(retention, "QUOTE_BATCH_ROWS", 3)
    sizes: list[int] = []

    def record(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "DELETE FROM quotes" in statement:
            sizes.append(cursor.rowcount)

    event.listen(bench.engine, "after_cursor_execute", record)
    yield sizes
    event.remove(bench.engine, "after_cursor_execute", record)


def test_a_long_history_is_deleted_in_small_batches(bench: Bench, batches: list[int]) -> None:
    """The quotes are dense or sparse in time, and more quotes than a batch have the same time."""
    together = [at(100, number) for number in range(1, 11)]
    dense = [at(90 - minute / 1440) for minute in range(40)]
    sparse = [at(100 * century) for century in range(2, 30)]
    load(bench, source([*together, *dense, *sparse, *(at(1, number) for number in range(11))]), quotes=MONTH)
    delete(bench)
    assert days(bench) == {f"C{number}": [1] for number in range(11)}
    assert max(batches) == 3
    assert sum(batches) == bench.one("SELECT quotes_dropped FROM sources") == 78
    assert len(batches) < 78


def test_a_call_that_runs_out_of_time_leaves_the_rest_to_the_next_call(bench: Bench) -> None:
    load(bench, source([at(400), at(1)]), quotes=MONTH)
    delete(bench, seconds=0)
    assert days(bench) == {"C0": [1, 400]}
    delete(bench)
    assert days(bench) == {"C0": [1]}


@pytest.mark.usefixtures("batches")
def test_simultaneous_calls_delete_each_quote_once(bench: Bench) -> None:
    load(bench, source([at(40 + age, number) for age in range(50) for number in range(4)]), quotes=MONTH)
    with ThreadPoolExecutor(4) as calls:
        for call in [calls.submit(delete, bench) for _ in range(4)]:
            call.result(30)
    delete(bench)
    assert days(bench) == {f"C{number}": [40] for number in range(4)}
    assert bench.one("SELECT quotes_dropped FROM sources") == 49 * 4


def test_a_broken_connection_rolls_back_only_the_current_batch(bench: Bench, batches: list[int]) -> None:
    load(bench, source([at(40 + age) for age in range(50)]), quotes=MONTH)

    def terminate(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if len(batches) == 5 and "DELETE FROM quotes" in statement:
            bench.rows(
                "SELECT pg_terminate_backend(:pid)", pid=connection.connection.driver_connection.info.backend_pid
            )

    event.listen(bench.engine, "after_cursor_execute", terminate)
    delete(bench)
    event.remove(bench.engine, "after_cursor_execute", terminate)
    left = bench.one("SELECT count(*) FROM quotes")
    assert 1 < left < 50
    assert bench.one("SELECT quotes_dropped FROM sources") == 50 - left
    delete(bench)
    assert days(bench) == {"C0": [40]}
    assert bench.one("SELECT quotes_dropped FROM sources") == 49


def test_a_quote_that_another_transaction_has_locked_is_skipped(bench: Bench) -> None:
    load(bench, source([at(400), at(300), at(1), at(400, 1), at(1, 1)]), quotes=MONTH)
    with bench.engine.begin() as writer:
        writer.execute(text("SELECT FROM quotes ORDER BY observed_at LIMIT 1 FOR UPDATE"))
        delete(bench)
        assert bench.one("SELECT count(*) FROM quotes") == 3
    delete(bench)
    assert days(bench) == {"C0": [1], "C1": [1]}


@pytest.mark.parametrize("error", [timedelta(days=3650), timedelta(minutes=-10)])
def test_nothing_is_deleted_if_the_host_clock_and_the_database_clock_differ(
    bench: Bench, error: timedelta, capsys: pytest.CaptureFixture[str]
) -> None:
    load(bench, source([at(400), at(1)]), quotes=MONTH, bodies=MONTH)
    delete(bench, clock=lambda: datetime.now(UTC) - error)
    assert days(bench) == {"C0": [1, 400]}
    assert "retention_failed" in capsys.readouterr().out


# Postgres is down


def test_a_call_without_postgres_deletes_nothing_and_logs_the_reason(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    engine = make_engine(f"postgresql://nobody@127.0.0.1:{port}/nothing", "test")
    with capture_logs() as logs:
        delete_expired(engine, bench.settings)
    engine.dispose()
    [failed] = [log for log in logs if log["event"] == "retention_failed"]
    assert failed["log_level"] == "warning"
    assert "Postgres" in failed["reason"]


# Rows before they are loaded


def rows_of(*rows: tuple[int, float]) -> pl.DataFrame:
    """Return rows in the format of `arrange`. rows: pairs of a listing id and an age in days."""
    values = sorted((listing, NOW - timedelta(days=ago)) for listing, ago in rows)
    return pl.DataFrame(values, {"listing_id": pl.Int32, "observed_at": pl.Datetime("us", "UTC")}, orient="row")


def remaining(bench: Bench, frame: pl.DataFrame) -> list[tuple[int, int]]:
    rows = without_expired(bench.engine, frame, NOW - MONTH).iter_rows()
    return [(listing, (NOW - observed_at) // DAY) for listing, observed_at in rows]


def test_expired_rows_are_omitted_except_the_newest_row_of_each_listing(bench: Bench) -> None:
    frame = rows_of((1, 400), (1, 31), (1, 29), (2, 50), (2, 40), (3, 1))
    assert remaining(bench, frame) == [(1, 29), (2, 40), (3, 1)]


def test_rows_within_the_retention_are_all_loaded(bench: Bench) -> None:
    assert remaining(bench, rows_of((1, 30), (1, 1), (2, 5))) == [(1, 30), (1, 1), (2, 5)]


def test_an_expired_newest_row_is_omitted_if_a_newer_quote_is_stored(bench: Bench) -> None:
    rows = Rows(bench.engine)
    newer, same, older = (rows.listing(asset) for asset in ("newer", "same", "older"))
    for listing, ago in ((newer, 39), (same, 40), (older, 41)):
        rows.quote(listing, NOW - ago * DAY)
    frame = rows_of((newer, 40), (same, 40), (older, 40))
    assert remaining(bench, frame) == sorted([(same, 40), (older, 40)])


# The task


def test_a_control_worker_applies_the_retention_from_the_environment(
    bench: Bench, start: Callable[..., Process], broker: Redis
) -> None:
    rows = Rows(bench.engine)
    listing = rows.listing()
    for age in (400, 40, 1):
        rows.quote(listing, NOW - age * DAY)
    start("control", COINGECKO_QUOTES_KEPT=str(30 * 86400))
    celery.send_task("kasparro.retain", queue="control")
    until(lambda: bench.one("SELECT count(*) FROM quotes") == 1)
    assert bench.one("SELECT quotes_dropped FROM sources") == 2
