"""What sources need not keep any longer is dropped, and nothing else is, whoever else is at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from redis import Redis
from sqlalchemy import event, text

from sources.contract import Http, Page, Retention, Source, Window
from tasks.archive import retention
from tasks.archive.raw_bodies import read_body
from tasks.archive.retention import delete_expired
from tasks.celery import celery
from tests.app.rows import Rows
from tests.processes import Process, until
from tests.tasks.conftest import Bench
from tests.tasks.feed import Feed
from tests.tasks.pipeline.test_slice import counters
from tests.upstreams import canned, item

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
MONTH = 30 * DAY
"""How long these sources keep things."""


def at(days: float, number: int = 0, **changes: Any) -> dict[str, Any]:
    """A quote observed so many days ago."""
    return item(number, observed_at=(NOW - days * DAY).isoformat(), **changes)


def source(*pages: list[Any], ago: timedelta = timedelta(), **declared: Any) -> Source:
    """One whose pages are fetched so long ago."""
    return canned(*pages, fetched_at=NOW - ago, **declared)


def days(bench: Bench) -> dict[str, list[int]]:
    """How many days ago each listing's quotes were observed, newest first."""
    rows = bench.rows(
        """
        SELECT symbol,
               array_agg(round(extract(epoch FROM :now - observed_at) / 86400)::int ORDER BY observed_at DESC) AS ago
          FROM quotes JOIN listings ON id = listing_id GROUP BY symbol
        """,
        now=NOW,
    )
    return {row["symbol"]: row["ago"] for row in rows}


def load(bench: Bench, loaded: Source, **kept: timedelta) -> None:
    """Loaded while all was kept for ever, and kept for less from now on."""
    assert bench.ingest(loaded)["status"] == "succeeded"
    bench.register(replace(loaded, retention=Retention(**kept)))


def drop(bench: Bench, **how: Any) -> None:
    delete_expired(bench.engine, bench.settings, **how)


# Quotes


def test_quotes_older_than_their_source_keeps_them_are_dropped(bench: Bench) -> None:
    load(bench, source([at(400), at(31), at(29), at(1), at(40, 1), at(2, 1)]), quotes=MONTH)
    drop(bench)
    assert days(bench) == {"C0": [1, 29], "C1": [2]}
    assert bench.one("SELECT quotes_dropped FROM sources") == 3


def test_a_source_that_says_nothing_keeps_everything(bench: Bench) -> None:
    load(bench, source([at(4000), at(400), at(1)]))
    load(bench, source([at(400, 1), at(1, 1)], name="other"), quotes=MONTH)
    drop(bench)
    assert days(bench) == {"C0": [1, 400, 4000], "C1": [1]}


def test_the_newest_quote_of_a_listing_stays_however_old_it_is(bench: Bench) -> None:
    load(bench, source([at(400), at(300), at(500, 1), at(1, 2)]), quotes=MONTH)
    for _ in range(2):
        drop(bench)
    assert days(bench) == {"C0": [300], "C1": [500], "C2": [1]}
    assert bench.one("SELECT count(*) FROM latest_quotes JOIN quotes USING (listing_id, observed_at)") == 3


def test_what_was_dropped_does_not_come_back_when_its_file_is_read_again(bench: Bench) -> None:
    """It would be there until the next turn, time and again."""
    loaded = source([at(400), at(300), at(20), at(1)])
    load(bench, loaded, quotes=MONTH)
    drop(bench)
    run = bench.ingest(replace(loaded, retention=Retention(quotes=MONTH)))
    assert counters(bench, run["id"]) == (4, 0, 0, 4, 0, 0)
    assert days(bench) == {"C0": [1, 20]}


def test_an_old_page_of_a_file_leaves_nothing_behind_where_its_listings_have_newer_quotes(bench: Bench) -> None:
    loaded = source([at(400, number) for number in range(3)], [at(1, number) for number in range(2)])
    load(bench, loaded, quotes=MONTH)
    drop(bench)
    run = bench.ingest(replace(loaded, retention=Retention(quotes=MONTH)))
    assert counters(bench, run["id"]) == (5, 0, 0, 5, 0, 0)
    assert days(bench) == {"C0": [1], "C1": [1], "C2": [400]}


def test_of_a_history_only_what_is_kept_is_loaded_and_of_each_listing_the_newest(bench: Bench) -> None:
    history = source([at(400), at(20), at(1), at(300, 1), at(200, 1)])
    run = bench.ingest(replace(history, retention=Retention(quotes=MONTH)))
    assert counters(bench, run["id"]) == (5, 3, 0, 2, 0, 0)
    assert days(bench) == {"C0": [1, 20], "C1": [200]}
    drop(bench)
    assert days(bench) == {"C0": [1, 20], "C1": [200]}


@pytest.fixture
def bites(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many quotes each statement dropped, where three are the most."""
    monkeypatch.setattr(retention, "QUOTE_BATCH_ROWS", 3)
    sizes: list[int] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "DELETE FROM quotes" in statement:
            sizes.append(cursor.rowcount)

    event.listen(bench.engine, "after_cursor_execute", note)
    yield sizes
    event.remove(bench.engine, "after_cursor_execute", note)


def test_a_long_history_goes_a_little_at_a_time(bench: Bench, bites: list[int]) -> None:
    """Quotes lie close together and far apart; in one moment lie more than are dropped at once."""
    together = [at(100, number) for number in range(1, 11)]
    dense = [at(90 - minute / 1440) for minute in range(40)]
    sparse = [at(100 * century) for century in range(2, 30)]
    load(bench, source([*together, *dense, *sparse, *(at(1, number) for number in range(11))]), quotes=MONTH)
    drop(bench)
    assert days(bench) == {f"C{number}": [1] for number in range(11)}
    assert max(bites) == 3
    assert sum(bites) == bench.one("SELECT quotes_dropped FROM sources") == 78
    assert len(bites) < 78


def test_a_turn_whose_time_is_up_leaves_the_rest_to_the_next(bench: Bench) -> None:
    load(bench, source([at(400), at(1)]), quotes=MONTH)
    drop(bench, seconds=0)
    assert days(bench) == {"C0": [1, 400]}
    drop(bench)
    assert days(bench) == {"C0": [1]}


@pytest.mark.usefixtures("bites")
def test_turns_at_the_same_time_drop_each_quote_once(bench: Bench) -> None:
    load(bench, source([at(40 + age, number) for age in range(50) for number in range(4)]), quotes=MONTH)
    with ThreadPoolExecutor(4) as turns:
        for turn in [turns.submit(drop, bench) for _ in range(4)]:
            turn.result(30)
    drop(bench)
    assert days(bench) == {f"C{number}": [40] for number in range(4)}
    assert bench.one("SELECT quotes_dropped FROM sources") == 49 * 4


def test_a_connection_that_breaks_in_the_middle_costs_nothing_but_its_turn(bench: Bench, bites: list[int]) -> None:
    load(bench, source([at(40 + age) for age in range(50)]), quotes=MONTH)

    def cut_off(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if len(bites) == 5 and "DELETE FROM quotes" in statement:
            bench.rows(
                "SELECT pg_terminate_backend(:pid)", pid=connection.connection.driver_connection.info.backend_pid
            )

    event.listen(bench.engine, "after_cursor_execute", cut_off)
    drop(bench)
    event.remove(bench.engine, "after_cursor_execute", cut_off)
    left = bench.one("SELECT count(*) FROM quotes")
    assert 1 < left < 50
    assert bench.one("SELECT quotes_dropped FROM sources") == 50 - left
    drop(bench)
    assert days(bench) == {"C0": [40]}
    assert bench.one("SELECT quotes_dropped FROM sources") == 49


def test_a_quote_that_somebody_writes_is_not_waited_for(bench: Bench) -> None:
    load(bench, source([at(400), at(300), at(1), at(400, 1), at(1, 1)]), quotes=MONTH)
    with bench.engine.begin() as writer:
        writer.execute(text("SELECT FROM quotes ORDER BY observed_at LIMIT 1 FOR UPDATE"))
        drop(bench)
        assert bench.one("SELECT count(*) FROM quotes") == 3
    drop(bench)
    assert days(bench) == {"C0": [1], "C1": [1]}


@pytest.mark.parametrize("wrong", [timedelta(days=3650), timedelta(minutes=-10)])
def test_nothing_is_dropped_by_a_clock_that_may_be_wrong(
    bench: Bench, wrong: timedelta, capsys: pytest.CaptureFixture[str]
) -> None:
    load(bench, source([at(400), at(1)]), quotes=MONTH, bodies=MONTH)
    drop(bench, clock=lambda: datetime.now(UTC) - wrong)
    assert days(bench) == {"C0": [1, 400]}
    assert "retention_failed" in capsys.readouterr().out


# Raw bodies


def kept(bench: Bench) -> list[bytes]:
    """The bodies that are there, in the order in which they were received."""
    digests = bench.rows("SELECT source, digest FROM raw_bodies ORDER BY received_at")
    with bench.engine.connect() as connection:
        bodies = [read_body(connection, row["source"], bytes(row["digest"])) for row in digests]
    return [body for body in bodies if body is not None]


def test_a_body_is_dropped_and_what_is_known_of_it_stays(bench: Bench) -> None:
    bench.ingest(source([at(61), at(62, price="much")], ago=60 * DAY))
    load(bench, source([at(1)]), bodies=MONTH)
    before = bench.rows("SELECT * FROM pages ORDER BY fetched_at"), bench.rows("SELECT * FROM rejects")
    drop(bench)
    [body] = kept(bench)
    assert (NOW - DAY).isoformat().encode() in body
    assert (bench.rows("SELECT * FROM pages ORDER BY fetched_at"), bench.rows("SELECT * FROM rejects")) == before
    assert bench.rows("SELECT size, received_at FROM raw_bodies WHERE body IS NULL") == [
        {"size": before[0][0]["bytes"], "received_at": NOW - 60 * DAY}
    ]
    assert bench.one("SELECT bodies_dropped FROM sources") == 1
    assert days(bench) == {"C0": [1, 61]}


def test_a_body_that_came_again_lately_stays(bench: Bench) -> None:
    bench.ingest(source([at(61)], [at(62)], ago=60 * DAY))
    load(bench, source([at(61)], ago=DAY), bodies=MONTH)
    drop(bench)
    assert len(kept(bench)) == 1
    assert bench.one("SELECT bodies_dropped FROM sources") == 1


def test_a_body_that_comes_again_after_it_was_dropped_is_kept_again(bench: Bench) -> None:
    loaded = source([at(61)], ago=60 * DAY)
    load(bench, loaded, bodies=MONTH)
    [body] = kept(bench)
    drop(bench)
    assert kept(bench) == []
    load(bench, source([at(61)]), bodies=MONTH)
    drop(bench)
    assert kept(bench) == [body]


def test_a_body_is_not_dropped_while_a_page_that_has_it_is_on_its_way(bench: Bench) -> None:
    """Nor waited for: another goes meanwhile."""
    load(bench, source([at(61)], [at(62)], ago=60 * DAY), bodies=MONTH)
    plain = source([at(61)])

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for page in plain.fetch(window, http):
            yield replace(page, confirm=lambda: drop(bench))

    bench.ingest(replace(plain, fetch=fetch, retention=Retention(bodies=MONTH)))
    [body] = kept(bench)
    assert (NOW - 61 * DAY).isoformat().encode() in body


def test_an_upstream_is_not_asked_whether_a_body_changed_that_was_dropped(bench: Bench, httpserver: HTTPServer) -> None:
    feed = Feed(httpserver, [[item()]])
    loaded = feed.source()
    load(bench, loaded, bodies=MONTH)
    bench.rows("UPDATE pages SET fetched_at = fetched_at - interval '60 days'")
    bench.rows("UPDATE raw_bodies SET received_at = received_at - interval '60 days'")
    drop(bench)
    assert kept(bench) == []
    bench.ingest(loaded)
    assert feed.conditions == [None] * 4
    assert len(kept(bench)) == 2


def test_many_bodies_go_a_few_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BODY_BATCH_ROWS", 2)
    load(bench, source(*([at(61 + number)] for number in range(7)), ago=60 * DAY), bodies=MONTH)
    drop(bench)
    assert kept(bench) == []
    assert bench.one("SELECT bodies_dropped FROM sources") == 7


# The task


def test_a_control_worker_deletions_what_the_environment_says(
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
