"""Test that retention deletes expired raw bodies, but not their pages, rejects and quotes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from pytest_httpserver import HTTPServer

from sources.contract import Http, Page, Retention, Window
from tasks.archive import retention
from tasks.archive.raw_bodies import read_body
from tests.tasks.archive.aged_data import DAY, MONTH, NOW, at, days, delete, load, source
from tests.tasks.conftest import Bench
from tests.tasks.feed import Feed
from tests.upstreams import item


def stored_bodies(bench: Bench) -> list[bytes]:
    """Return the stored bodies in the order of their receipt."""
    digests = bench.rows("SELECT source, digest FROM raw_bodies ORDER BY received_at")
    with bench.engine.connect() as connection:
        bodies = [read_body(connection, row["source"], bytes(row["digest"])) for row in digests]
    return [body for body in bodies if body is not None]


def test_deleting_an_expired_body_keeps_its_pages_rejects_and_quotes(bench: Bench) -> None:
    bench.ingest(source([at(61), at(62, price="much")], ago=60 * DAY))
    load(bench, source([at(1)]), bodies=MONTH)
    before = bench.rows("SELECT * FROM pages ORDER BY fetched_at"), bench.rows("SELECT * FROM rejects")
    delete(bench)
    [body] = stored_bodies(bench)
    assert (NOW - DAY).isoformat().encode() in body
    assert (bench.rows("SELECT * FROM pages ORDER BY fetched_at"), bench.rows("SELECT * FROM rejects")) == before
    assert bench.rows("SELECT size, received_at FROM raw_bodies WHERE body IS NULL") == [
        {"size": before[0][0]["bytes"], "received_at": NOW - 60 * DAY}
    ]
    assert bench.one("SELECT bodies_dropped FROM sources") == 1
    assert days(bench) == {"C0": [1, 61]}


def test_a_body_that_was_recently_received_again_is_not_deleted(bench: Bench) -> None:
    bench.ingest(source([at(61)], [at(62)], ago=60 * DAY))
    load(bench, source([at(61)], ago=DAY), bodies=MONTH)
    delete(bench)
    assert len(stored_bodies(bench)) == 1
    assert bench.one("SELECT bodies_dropped FROM sources") == 1


def test_a_deleted_body_is_stored_again_when_it_is_received_again(bench: Bench) -> None:
    loaded = source([at(61)], ago=60 * DAY)
    load(bench, loaded, bodies=MONTH)
    [body] = stored_bodies(bench)
    delete(bench)
    assert stored_bodies(bench) == []
    load(bench, source([at(61)]), bodies=MONTH)
    delete(bench)
    assert stored_bodies(bench) == [body]


def test_a_body_is_skipped_while_a_page_with_it_is_being_committed(bench: Bench) -> None:
    """Retention does not wait for the page, and deletes another body in the meantime."""
    load(bench, source([at(61)], [at(62)], ago=60 * DAY), bodies=MONTH)
    unconfirmed = source([at(61)])

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for page in unconfirmed.fetch(window, http):
            yield replace(page, confirm=lambda: delete(bench))

    bench.ingest(replace(unconfirmed, fetch=fetch, retention=Retention(bodies=MONTH)))
    [body] = stored_bodies(bench)
    assert (NOW - 61 * DAY).isoformat().encode() in body


def test_no_conditional_request_is_sent_for_a_deleted_body(bench: Bench, httpserver: HTTPServer) -> None:
    feed = Feed(httpserver, [[item()]])
    loaded = feed.source()
    load(bench, loaded, bodies=MONTH)
    bench.rows("UPDATE pages SET fetched_at = fetched_at - interval '60 days'")
    bench.rows("UPDATE raw_bodies SET received_at = received_at - interval '60 days'")
    delete(bench)
    assert stored_bodies(bench) == []
    bench.ingest(loaded)
    assert feed.conditions == [None] * 4
    assert len(stored_bodies(bench)) == 2


def test_many_bodies_are_deleted_in_small_batches(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BODY_BATCH_ROWS", 2)
    load(bench, source(*([at(61 + number)] for number in range(7)), ago=60 * DAY), bodies=MONTH)
    delete(bench)
    assert stored_bodies(bench) == []
    assert bench.one("SELECT bodies_dropped FROM sources") == 7
