"""Test that a replay reads the selected stored pages in the order of their commits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from pytest_httpserver import HTTPServer

from tasks.archive.stored_pages import CorrectedSpans, PagePosition, StoredPage, StoredPages
from tasks.runs.parameters import ReplayParameters
from tests.tasks.conftest import Bench
from tests.tasks.counters import counters
from tests.tasks.feed import Feed
from tests.upstreams import FETCHED, OBSERVED, canned, item

LATER = FETCHED + timedelta(hours=1)
ALL = ReplayParameters()
NEVER = datetime(9999, 1, 1, tzinfo=UTC)


def read(
    bench: Bench,
    parameters: ReplayParameters = ALL,
    *,
    source: str = "canned",
    before: datetime = NEVER,
    after: PagePosition | None = None,
    limit: int = 100,
    corrected: CorrectedSpans | None = None,
) -> list[StoredPage]:
    with bench.engine.connect() as connection:
        return list(StoredPages(parameters, source, before).read(connection, after, limit, corrected or {}))


def numbers(pages: list[StoredPage]) -> list[int]:
    """Return the page number in the request of each page."""
    return [page.request["page"] for page in pages]


# The selection of pages


@pytest.mark.parametrize(
    ("parameters", "fetched"),
    [
        (ReplayParameters(), 4),
        (ReplayParameters(rejected=True), 3),
        (ReplayParameters(rejected=True, code="no_price"), 1),
        (ReplayParameters(rejected=True, field="price", code="not_a_number"), 2),
        (ReplayParameters(rejected=True, code="no_symbol"), 0),
        (ReplayParameters(fetched_from=LATER), 2),
        (ReplayParameters(fetched_to=LATER), 2),
    ],
)
def test_a_replay_reads_the_pages_that_match_its_parameters(
    bench: Bench, parameters: ReplayParameters, fetched: int
) -> None:
    bench.ingest(canned([item(0)], [item(1, price=None)]))
    bench.ingest(canned([item(2), item(3, price="much")], fetched_at=LATER))
    run = bench.ingest(canned(), replay=parameters)
    assert bench.one("SELECT coalesce(sum(fetched), 0) FROM pages WHERE run = :run", run=run["id"]) == fetched


def test_a_replay_of_one_run_or_one_body_reads_only_its_pages(bench: Bench) -> None:
    first = bench.ingest(canned([item(0)], [item(1), item(2)]))
    bench.ingest(canned([item(3)]))
    by_run = bench.ingest(canned(), replay=ReplayParameters(run=first["id"]))
    assert counters(bench, by_run["id"])[0] == 3
    body = bench.one("SELECT encode(body_digest, 'hex') FROM pages WHERE fetched = 2 LIMIT 1")
    by_body = bench.ingest(canned(), replay=ReplayParameters(body=body))
    assert counters(bench, by_body["id"])[0] == 2


def test_a_replay_of_a_replay_reads_the_original_pages(bench: Bench) -> None:
    bench.ingest(canned([item(0)], [item(1)]))
    replay = bench.ingest(canned(), replay=ReplayParameters(fetched_to=LATER))
    pages = read(bench, ReplayParameters(run=replay["id"]))
    assert numbers(pages) == [0, 1]
    assert str(replay["id"]) not in {page.position[1] for page in pages}


def test_a_replay_reads_an_unchanged_page_only_once(bench: Bench, httpserver: HTTPServer) -> None:
    feed = Feed(httpserver, [[item(0)]])
    first = bench.ingest(feed.source())
    bench.ingest(feed.source())
    assert bench.one("SELECT count(*) FROM pages") == 4
    runs = {UUID(page.position[1]) for page in read(bench, source="feed") if page.request["params"]["page"] == 1}
    assert runs == {first["id"]}


def test_a_replay_reads_only_earlier_pages_of_its_source(bench: Bench) -> None:
    bench.ingest(canned([item(0)]))
    between = bench.one("SELECT clock_timestamp()")
    bench.ingest(canned([item(0)], [item(1)]))
    bench.ingest(canned([item(2)], name="other"))
    assert numbers(read(bench, before=between)) == [0]
    assert numbers(read(bench)) == [0, 0, 1]
    assert numbers(read(bench, source="other")) == [0]


# The order and the content of pages


def test_pages_are_read_in_the_order_of_their_commits_from_any_position(bench: Bench) -> None:
    for _ in range(2):
        bench.ingest(canned([item(0)], [item(1)], partitions=("b", "a")))
    pages = read(bench)
    assert [(page.request["file"], page.request["page"]) for page in pages] == [
        ("b", 0),
        ("b", 1),
        ("a", 0),
        ("a", 1),
    ] * 2
    for index, page in enumerate(pages):
        assert read(bench, after=page.position) == pages[index + 1 :]
        assert read(bench, after=page.position, limit=1) == pages[index + 1 : index + 2]


def test_a_stored_page_has_all_metadata_of_its_response_but_not_the_body(bench: Bench) -> None:
    run = bench.ingest(canned([item(0)]))
    [page] = read(bench)
    [row] = bench.rows("SELECT body_digest, committed_at FROM pages")
    assert page == StoredPage(
        position=[row["committed_at"].isoformat(), str(run["id"]), "", 0],
        request={"page": 0, "file": ""},
        fetched_at=FETCHED,
        digest=bytes(row["body_digest"]),
        content_type="application/json",
        has_body=True,
        corrects=True,
    )
    bench.rows("UPDATE raw_bodies SET body = NULL")
    assert [page.has_body for page in read(bench)] == [False]


def test_pages_and_deleted_bodies_are_counted(bench: Bench) -> None:
    bench.ingest(canned([item(0)], [item(1)], [item(2)]))
    bench.rows("UPDATE raw_bodies SET body = NULL WHERE digest = (SELECT body_digest FROM pages WHERE seq = 1)")
    body = bench.one("SELECT encode(body_digest, 'hex') FROM pages WHERE seq = 1")
    with bench.engine.connect() as connection:
        assert StoredPages(ALL, "canned", NEVER).count(connection) == (3, 1)
        assert StoredPages(ReplayParameters(body=body), "canned", NEVER).count(connection) == (1, 1)
        assert StoredPages(ALL, "nothing", NEVER).count(connection) == (0, 0)


@pytest.mark.parametrize(("existing", "corrects"), [("skip", False), ("retry", False), ("repeat", True)])
def test_a_backfill_corrects_quotes_only_if_it_repeats_loaded_spans(
    bench: Bench, existing: str, corrects: bool
) -> None:
    run = bench.ingest(canned([item(0)]))
    bench.rows(
        "UPDATE runs SET kind = 'backfill', parameters = jsonb_build_object('existing', CAST(:existing AS text))"
        " WHERE id = :run",
        run=run["id"],
        existing=existing,
    )
    assert [page.corrects for page in read(bench)] == [corrects]


# Pages with quotes that the replay corrected


def corrected_span(since: str, first: datetime, last: datetime) -> Mapping[str, Mapping[str, str]]:
    return {"": {"since": since, "first": first.isoformat(), "last": last.isoformat()}}


def test_later_pages_with_quotes_in_a_corrected_span_are_read_even_if_not_selected(bench: Bench) -> None:
    hours = [OBSERVED + timedelta(hours=hour) for hour in range(4)]
    bench.ingest(canned(*([item(observed_at=at.isoformat())] for at in hours)))
    first = read(bench)[0]
    nothing = ReplayParameters(fetched_to=datetime(2020, 1, 1, tzinfo=UTC))
    assert read(bench, nothing) == []
    span = corrected_span(first.position[0], hours[0], hours[2])
    assert numbers(read(bench, nothing, corrected=span)) == [1, 2]
    assert numbers(read(bench, nothing, corrected={"another partition": span[""]})) == []
