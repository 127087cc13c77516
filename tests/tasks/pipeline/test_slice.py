"""What becomes of a run's pages and their items, on a real database."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import Engine
from structlog.testing import capture_logs

from settings import secrets_in
from sources.contract import BLANK, Http, Page, Reject, Window
from store.engine import make_engine
from tasks.ingest import work_on
from tasks.pipeline.normalize import normalize_page
from tasks.runs.claims import claim_run
from tests.tasks.conftest import Bench
from tests.upstreams import FETCHED, OBSERVED, canned, item

COUNTERS = """
    SELECT sum(fetched) AS fetched, sum(inserted) AS inserted, sum(updated) AS updated, sum(unchanged) AS unchanged,
           sum(deduplicated) AS deduplicated, sum(rejected) AS rejected
      FROM pages WHERE run = :run
"""


def counters(bench: Bench, run: object) -> tuple[int, ...]:
    """fetched, inserted, updated, unchanged, deduplicated, rejected."""
    return tuple(bench.rows(COUNTERS, run=run)[0].values())


def test_loading_twice_is_loading_once(bench: Bench, content: Callable[[Engine], str]) -> None:
    source = canned([item(0), item(1)], [item(2)])
    first = bench.ingest(source)
    loaded = content(bench.engine)
    second = bench.ingest(source)
    assert (first["status"], second["status"]) == ("succeeded", "succeeded")
    assert counters(bench, first["id"]) == (3, 3, 0, 0, 0, 0)
    assert counters(bench, second["id"]) == (3, 0, 0, 3, 0, 0)
    assert content(bench.engine) == loaded
    assert bench.one("SELECT count(*) FROM raw_bodies") == 2
    assert bench.one("SELECT count(*) FROM pages") == 4


def test_an_unchanged_quote_is_not_written_again(bench: Bench) -> None:
    bench.ingest(canned([item()]))
    before = bench.rows("SELECT xmin::text, run FROM quotes")
    bench.ingest(canned([item()], fetched_at=FETCHED + timedelta(hours=1)))
    assert bench.rows("SELECT xmin::text, run FROM quotes") == before


def test_a_bad_item_is_a_reject_with_its_reason_and_its_run_partial(bench: Bench) -> None:
    run = bench.ingest(canned([item(0), item(1, price="much"), item(2)]))
    assert run["status"] == "partial"
    assert counters(bench, run["id"]) == (3, 2, 0, 0, 0, 1)
    [reject] = bench.rows("SELECT * FROM rejects")
    assert reject["item_index"] == 1
    assert '"coin-1"' in reject["item"]
    assert reject["reasons"] == [
        {"field": "price", "code": "not_a_number", "detail": "expected a number, got 'much'"},
    ]


def test_the_same_reject_of_the_same_body_is_kept_once(bench: Bench) -> None:
    source = canned([item(0), item(1, price="much")])
    bench.ingest(source)
    assert bench.ingest(source)["status"] == "partial"
    assert bench.one("SELECT count(*) FROM rejects") == 1


def test_an_item_that_breaks_the_mapping_costs_no_other(bench: Bench) -> None:
    def normalize(it: dict[str, str]) -> dict[str, str]:
        return it | {"price": it["price"].strip()}

    run = bench.ingest(canned([item(0), item(1, price=None), item(2)], normalize=normalize))
    assert (run["status"], counters(bench, run["id"])) == ("partial", (3, 2, 0, 0, 0, 1))
    [reason] = bench.one("SELECT reasons FROM rejects")
    assert reason["code"] == "unmappable"
    assert reason["detail"].endswith("""failed: AttributeError("'NoneType' object has no attribute 'strip'")""")


class Unspeakable(Exception):
    def __repr__(self) -> str:
        return self.nothing  # type: ignore[attr-defined,no-any-return]  # which is the mistake


class Nul(Exception):
    def __repr__(self) -> str:
        return "a\x00b"


@pytest.mark.parametrize(
    ("raised", "said"), [(ValueError(10**5000), "ValueError"), (Unspeakable(), "Unspeakable"), (Nul(), "ab")]
)
def test_an_item_whose_mistake_has_no_spelling_costs_no_other(bench: Bench, raised: Exception, said: str) -> None:
    def normalize(it: dict[str, str]) -> dict[str, str]:
        if it["price"] == "odd":
            raise raised
        return it

    run = bench.ingest(canned([item(0), item(1, price="odd")], normalize=normalize))
    assert (run["status"], counters(bench, run["id"])) == ("partial", (2, 1, 0, 0, 0, 1))
    [reason] = bench.one("SELECT reasons FROM rejects")
    assert reason["detail"].endswith(f"failed: {said}")


def test_a_secret_in_a_mappings_mistake_is_not_kept(bench: Bench) -> None:
    [secret, *_] = secrets_in(os.environ)

    def normalize(it: dict[str, str]) -> dict[str, str]:
        if it["price"] == "odd":
            raise KeyError(f"{'x' * 1990}{secret}")
        return it

    bench.ingest(canned([item(0), item(1, price="odd")], normalize=normalize))
    [reason] = bench.one("SELECT reasons FROM rejects")
    assert "x" * 1000 in reason["detail"]
    assert secret[:5] not in reason["detail"]


def test_an_item_of_which_the_mapping_makes_nothing_costs_no_other(bench: Bench) -> None:
    source = canned([item(0), item(1, price="none")], normalize=lambda it: None if it["price"] == "none" else it)
    run = bench.ingest(source)
    assert (run["status"], counters(bench, run["id"])) == ("partial", (2, 1, 0, 0, 0, 1))
    [reason] = bench.one("SELECT reasons FROM rejects")
    assert reason["detail"] == f"the mapping of {source.name} returned NoneType, expected a mapping of fields"


def test_items_with_nul_nan_and_broken_characters_are_rejects_not_failures(bench: Bench) -> None:
    odd = [item(1, name="a\x00b"), item(2, name="\ud800"), item(3, price="NaN"), item(4, price=None, x="\x00\ud800")]
    run = bench.ingest(canned([item(0), *odd]))
    assert (run["status"], counters(bench, run["id"])) == ("partial", (5, 1, 0, 0, 0, 4))


def test_items_without_a_price_alone_do_not_make_a_run_partial(bench: Bench) -> None:
    run = bench.ingest(canned([item(0), item(1, price=None)]))
    assert (run["status"], counters(bench, run["id"])) == ("succeeded", (2, 1, 0, 0, 0, 1))


def test_a_run_whose_items_were_all_rejected_has_failed(bench: Bench) -> None:
    with capture_logs() as logs:
        run = bench.ingest(canned([item(0, price=None), item(1, symbol="")]))
    assert (run["status"], run["error_code"]) == ("failed", "nothing_loaded")
    assert f"/runs/{run['id']}/rejects" in run["error_detail"]
    [ended] = [log for log in logs if log["event"] == "run_ended"]
    assert (ended["log_level"], ended["code"], ended["reason"]) == ("error", "nothing_loaded", run["error_detail"])


def test_every_item_is_accounted_for_where_it_ends(bench: Bench) -> None:
    def parse(page: object) -> list[object]:
        return [
            item(0),
            BLANK,
            item(1),
            item(1, price="2"),
            Reject("", "ragged", "3 cells, expected 4", item=["a"]),
            item(2, price="-1"),
        ]

    bench.ingest(canned([item(0)]))
    run = bench.ingest(canned([item(0)], parse=parse, fetched_at=FETCHED + timedelta(hours=1)))
    assert counters(bench, run["id"]) == (5, 1, 0, 1, 1, 2)
    assert bench.one("SELECT sum(blank) FROM pages") == 1
    assert bench.one("SELECT price FROM quotes JOIN listings l ON l.id = listing_id WHERE symbol = 'C1'") == 2


def test_a_correction_comes_and_an_older_fetch_does_not_win(bench: Bench) -> None:
    bench.ingest(canned([item(price="1")]))
    corrected = bench.ingest(canned([item(price="2")], fetched_at=FETCHED + timedelta(hours=1)))
    assert counters(bench, corrected["id"])[2] == 1
    late = bench.ingest(canned([item(price="3")], fetched_at=FETCHED + timedelta(minutes=30)))
    assert counters(bench, late["id"])[3] == 1
    assert bench.one("SELECT price FROM quotes") == 2
    assert bench.one("SELECT run FROM quotes") == corrected["id"]


def test_money_is_kept_to_the_last_digit(bench: Bench) -> None:
    prices = ["3e-9", "1E-8", "30538.078793975994", "420000000000000000", "4.2e17", "0.1"]
    bench.ingest(canned([item(number, price=price) for number, price in enumerate(prices)]))
    kept = bench.rows("SELECT price FROM quotes ORDER BY listing_id")
    assert [row["price"] for row in kept] == [Decimal(price) for price in prices]


def test_the_newest_quote_of_a_listing_is_found_whatever_order_they_came_in(bench: Bench) -> None:
    days = [(OBSERVED + timedelta(days=day)).isoformat() for day in (1, 3, 2)]
    bench.ingest(canned([item(observed_at=days[0])], [item(observed_at=days[1])], [item(observed_at=days[2])]))
    assert bench.one("SELECT observed_at FROM latest_quotes") == OBSERVED + timedelta(days=3)
    assert bench.one("SELECT count(*) FROM quotes") == 3


def test_a_time_beyond_now_and_skew_is_a_reject(bench: Bench) -> None:
    ahead = (FETCHED + timedelta(seconds=bench.settings.clock_skew + 1)).isoformat()
    run = bench.ingest(canned([item(0), item(1, observed_at=ahead)]))
    assert run["status"] == "partial"
    assert bench.one("SELECT reasons->0->>'code' FROM rejects") == "in_future"


def test_a_run_resumes_at_the_page_a_slice_reached(bench: Bench) -> None:
    asked: list[int] = []
    run = bench.request(canned([item(0)], [item(1)], [item(2)], before=asked.append))
    for status in ("queued", "queued", "queued", "succeeded"):
        assert bench.slice(run, task_slice=0)["status"] == status
    assert asked == [0, 1, 2]
    assert bench.run(run)["claims"] == 4
    assert bench.run(run)["attempts"] == 1
    assert [row["seq"] for row in bench.rows("SELECT seq FROM pages ORDER BY seq")] == [0, 1, 2]


def test_full_refresh_starts_from_no_cursor_and_still_resumes(bench: Bench) -> None:
    cursors: list[object] = []
    source = canned([item(0)], [item(1)])

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        cursors.append(window.cursor and window.cursor["next"])
        yield from source.fetch(window, http)

    spied = replace(source, fetch=fetch)
    bench.ingest(spied)
    run = bench.request(spied, full_refresh=True)
    bench.slice(run, task_slice=0)
    bench.slice(run)
    assert cursors == [None, None, 1]


def test_one_instant_in_two_pages_ends_the_same_however_the_run_was_sliced(
    bench: Bench, make_database: Callable[[], str], content: Callable[[Engine], str]
) -> None:
    loaded = []
    for task_slice in (60, 0):
        engine = make_engine(make_database(), "test")
        sliced = replace(bench, engine=engine)
        run = sliced.request(canned([item(price="10")], [item(price="11")]))
        while sliced.slice(run, task_slice=task_slice)["status"] == "queued":
            pass
        assert sliced.one("SELECT price FROM quotes") == 11
        loaded.append(content(engine))
        engine.dispose()
    assert loaded[0] == loaded[1]


def test_a_page_with_rejects_is_let_go_of_when_it_is_done() -> None:
    items = [item(0, price="much"), item(1), Reject("", "unreadable", "expected a record, got none")]
    source = canned(parse=lambda _: items)
    page = Page(b"", "application/json", {}, FETCHED, None)
    gc.disable()
    try:
        assert len(normalize_page(source, page, clock_skew=300).rejects) == 2
        held = weakref.ref(page)
        del page
        assert held() is None
    finally:
        gc.enable()


def test_running_out_of_time_is_no_items_fault(bench: Bench) -> None:
    def slow(it: dict[str, str]) -> dict[str, str]:
        raise SoftTimeLimitExceeded

    run = bench.request(canned([item(0)], normalize=slow))
    claim = claim_run(bench.engine, run)
    assert claim
    with pytest.raises(SoftTimeLimitExceeded):
        work_on(bench.engine, bench.settings, claim)
    assert bench.one("SELECT count(*) FROM rejects") == 0
    assert bench.run(run)["status"] == "running"
    assert bench.one("SELECT lease_run FROM checkpoints") == run


def test_a_mapping_that_was_mended_takes_its_old_rejects_back(bench: Bench) -> None:
    broken = canned([item(0), item(1, price="1,5")])
    assert bench.ingest(broken)["status"] == "partial"
    mended = replace(broken, normalize=lambda it: it | {"price": it["price"].replace(",", ".")})
    assert bench.ingest(mended)["status"] == "succeeded"
    assert bench.one("SELECT state FROM rejects") == "replayed"
    assert bench.one("SELECT count(*) FROM quotes") == 2


def test_what_rows_point_at_is_there(bench: Bench) -> None:
    """quotes has no foreign keys; this is what proves that it needs none."""
    bench.ingest(canned([item(0), item(1)], [item(2, price=None)]))
    assert (
        bench.one("""
        SELECT (SELECT count(*) FROM quotes q LEFT JOIN listings l ON l.id = q.listing_id WHERE l.id IS NULL)
             + (SELECT count(*) FROM quotes q LEFT JOIN runs r ON r.id = q.run WHERE r.id IS NULL)
             + (SELECT count(*) FROM latest_quotes n LEFT JOIN quotes q USING (listing_id, observed_at)
                 WHERE q.listing_id IS NULL)
             + (SELECT count(*) FROM quotes q WHERE NOT EXISTS
                 (SELECT FROM latest_quotes n WHERE n.listing_id = q.listing_id AND n.observed_at >= q.observed_at))
             + (SELECT count(*) FROM rejects r LEFT JOIN raw_bodies b USING (source, digest) WHERE b.digest IS NULL)
    """)
        == 0
    )
