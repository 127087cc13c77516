"""Test that a backfill loads the history of assets span by span, without interfering with live runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import Engine
from werkzeug import Response

from settings import Settings
from sources import coingecko, coinpaprika
from sources.contract import Http, Page, Source, Window
from tasks.run_kinds.backfill import plan_backfill
from tasks.runs.parameters import BackfillParameters, ReplayParameters
from tasks.runs.requests import RunRequest, request_cancel, request_runs
from tests.recordings import Recordings
from tests.tasks.conftest import Bench
from tests.tasks.counters import counters
from tests.tasks.run_kinds.charts import Charts
from tests.tasks.test_worker import Start, final_status
from tests.upstreams import Gate

DAY = timedelta(days=1)
# A boundary between two of CoinGecko's 90-day spans.
SPAN_START = datetime(1970, 1, 1, tzinfo=UTC) + 225 * timedelta(days=90)
BEGIN, END = SPAN_START - 10 * DAY, SPAN_START + 100 * DAY
SPANS = 3
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def charts(httpserver: HTTPServer) -> Charts:
    return Charts(httpserver)


@pytest.fixture
def gecko(bench: Bench, charts: Charts, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Return the CoinGecko source after a live run that loaded Bitcoin and Ether."""
    monkeypatch.setenv("COINGECKO_URL", charts.url)
    coins = [
        {"id": id_, "symbol": id_[:3], "name": id_.title(), "current_price": 1, "last_updated": "2026-01-01T00:00:00Z"}
        for id_ in ("bitcoin", "ether")
    ]
    bench.ingest(serving(coingecko.source, coins))
    return coingecko.source


def serving(source: Source, items: list[dict[str, Any]]) -> Source:
    """Return the source with a `fetch` that yields one page of these items."""

    def fetch(window: Window, _: Http) -> Iterator[Page]:
        yield Page(json.dumps(items).encode(), "application/json", {"live": 1}, window.now, {"live": window.run})

    return replace(source, fetch=fetch)


def backfill(*assets: str, **changes: Any) -> BackfillParameters:
    parameters = {"assets": assets or ("bitcoin",), "observed_from": BEGIN, "observed_to": END, **changes}
    return BackfillParameters(**parameters)


def live_cursor(bench: Bench) -> Any:
    return bench.one("SELECT cursor FROM checkpoints WHERE partition = ''")


def loaded_days(bench: Bench) -> int:
    return int(bench.one("SELECT count(*) FROM quotes WHERE observed_at < '2026-01-01'"))


def test_a_backfill_loads_a_coins_history_and_keeps_the_live_cursor(
    bench: Bench, gecko: Source, charts: Charts
) -> None:
    before = live_cursor(bench)
    run = bench.ingest(gecko, backfill=backfill())
    assert (run["kind"], run["status"]) == ("backfill", "succeeded")
    assert counters(bench, run["id"]) == (110, 110, 0, 0, 0, 0)
    assert len(charts.requests) == SPANS
    assert live_cursor(bench) == before
    newest, oldest = (
        bench.rows(
            f"SELECT observed_at, price, market_cap, volume_24h FROM quotes WHERE run = :run ORDER BY 1 {order}",
            run=run["id"],
        )[0]
        for order in ("DESC LIMIT 1", "ASC LIMIT 1")
    )
    assert tuple(oldest.values()) == (BEGIN, 100, 100, 100)
    assert (newest["observed_at"], newest["market_cap"]) == (END - DAY, None)
    assert (
        bench.one("SELECT observed_at FROM latest_quotes JOIN listings ON id = listing_id WHERE name = 'Bitcoin'").year
        == 2026
    )


def test_a_backfill_loads_a_history_from_coinpaprika(
    bench: Bench, charts: Charts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINPAPRIKA_URL", charts.url)
    coin = {
        "id": "btc-bitcoin",
        "symbol": "BTC",
        "name": "Bitcoin",
        "quotes": {"USD": {"price": 1}},
        "last_updated": "2026-01-01T00:00:00Z",
    }
    bench.ingest(serving(coinpaprika.source, [coin]))
    run = bench.ingest(coinpaprika.source, backfill=backfill())
    assert counters(bench, run["id"])[:2] == (110, 110)
    assert {row["price"] for row in bench.rows("SELECT price FROM quotes WHERE run = :run", run=run["id"])} == {
        Decimal("7.5")
    }
    assert bench.one("SELECT count(market_cap) FROM quotes") == 0, "CoinPaprika sends 0 for an unknown market cap"


def test_a_loaded_span_is_requested_again_only_with_repeat(bench: Bench, gecko: Source, charts: Charts) -> None:
    bench.ingest(gecko, backfill=backfill())
    for existing, requests in (("skip", 0), ("retry", 0), ("repeat", SPANS)):
        charts.requests.clear()
        charts.price += 1
        run = bench.ingest(gecko, backfill=backfill(existing=existing))
        assert (run["status"], len(charts.requests)) == ("succeeded", requests)
    assert counters(bench, run["id"])[:4] == (110, 0, 110, 0)
    charts.requests.clear()
    bench.ingest(gecko, backfill=backfill(observed_from=BEGIN - 100 * DAY, observed_to=END + DAY))
    spans = sorted((int(request["to"]) + 1 - int(request["from"])) // 86400 for request in charts.requests)
    assert spans == [11, 20, 90], "a completely loaded span was requested again"


def test_a_backfill_does_not_correct_a_stored_quote(bench: Bench, gecko: Source) -> None:
    live = {"id": "bitcoin", "symbol": "bit", "name": "Bitcoin", "current_price": 5, "market_cap_rank": 1}
    bench.ingest(serving(gecko, [{**live, "last_updated": (BEGIN + DAY).isoformat()}]))
    run = bench.ingest(gecko, backfill=backfill())
    assert counters(bench, run["id"]) == (110, 109, 0, 0, 0, 0)
    assert bench.one("SELECT sum(superseded) FROM pages WHERE run = :run", run=run["id"]) == 1
    [quote] = bench.rows("SELECT price, rank FROM quotes WHERE observed_at = :at", at=BEGIN + DAY)
    assert tuple(quote.values()) == (5, 1)


HOURS = json.dumps({"prices": [[(1_700_000_000 + 3600 * hour) * 1000, 5] for hour in range(24)]})
UNREADABLE = json.dumps({"prices": [[86_400_000, "much"]]})


@pytest.mark.parametrize(("body", "left_out"), [(HOURS, 24), (UNREADABLE, 0)])
def test_a_span_whose_prices_are_all_unusable_fails_and_is_requested_again(
    bench: Bench, gecko: Source, charts: Charts, body: str, left_out: int
) -> None:
    charts.before = lambda number: Response(body, 200) if number == 2 else None
    run = bench.ingest(gecko, backfill=backfill())
    assert (run["status"], run["error_code"]) == ("failed", "nothing_loaded")
    assert len(charts.requests) == SPANS, "the other spans are loaded, and no span is requested twice"
    assert bench.one("SELECT sum(left_out) FROM pages WHERE run = :run", run=run["id"]) == left_out
    charts.requests.clear()
    charts.before = lambda _: None
    assert bench.ingest(gecko, backfill=backfill())["status"] == "succeeded"
    assert len(charts.requests) == 1


def test_a_refused_span_does_not_stop_the_other_spans_and_can_be_retried(
    bench: Bench, gecko: Source, charts: Charts
) -> None:
    charts.before = lambda number: Response("{}", 400) if number == 2 else None
    run = bench.ingest(gecko, backfill=backfill())
    assert (run["status"], run["error_code"]) == ("failed", "upstream_refused")
    assert loaded_days(bench) == 110 - 90
    charts.before = lambda _: None
    for existing, requests in (("skip", 0), ("retry", 1)):
        charts.requests.clear()
        assert bench.ingest(gecko, backfill=backfill(existing=existing))["status"] == "succeeded"
        assert len(charts.requests) == requests
    assert loaded_days(bench) == 110


def test_a_backfill_beyond_the_plans_history_loads_the_available_spans(
    bench: Bench, gecko: Source, charts: Charts
) -> None:
    charts.before = lambda number: Response("{}", 402) if number > 1 else None
    run = bench.ingest(gecko, backfill=backfill())
    assert (run["status"], run["error_code"]) == ("failed", "payment_required")
    assert loaded_days(bench) == 10, "the newest span was not requested first"
    assert bench.one("SELECT paused_reason FROM sources WHERE name = 'coingecko'") is None


def test_a_backfill_resumes_after_each_slice_and_can_be_cancelled(bench: Bench, gecko: Source, charts: Charts) -> None:
    run = bench.request(gecko, backfill=backfill("bitcoin", "ether"))
    bench.slice(run, task_slice=0)
    assert (bench.slice(run, task_slice=0)["status"], len(charts.requests)) == ("queued", 2)
    request_cancel(bench.engine, run)
    assert bench.slice(run)["status"] == "cancelled"
    assert bench.ingest(gecko, backfill=backfill("bitcoin", "ether"))["status"] == "succeeded"
    assert len(charts.requests) == 2 * SPANS
    assert loaded_days(bench) == 220


def test_a_refused_span_is_not_requested_again_in_the_next_slice(bench: Bench, gecko: Source, charts: Charts) -> None:
    charts.before = lambda _: Response("{}", 404)
    run = bench.request(gecko, backfill=backfill())
    while (row := bench.slice(run, task_slice=0))["status"] == "queued":
        pass
    assert (row["status"], row["error_code"], len(charts.requests)) == ("failed", "upstream_refused", SPANS)
    later = bench.ingest(gecko, backfill=backfill(observed_from=END, observed_to=END + DAY))
    assert (later["status"], len(charts.requests)) == ("failed", SPANS + 1), "a span at another time was not requested"


def test_a_backfill_without_an_end_stops_at_the_present(bench: Bench, gecko: Source, charts: Charts) -> None:
    now = bench.one("SELECT clock_timestamp()")
    parameters = backfill(observed_from=now - 2 * DAY, observed_to=None)
    bench.ingest(gecko, backfill=parameters)
    assert int(charts.requests[0]["to"]) <= now.timestamp() + 60
    requests = len(charts.requests)
    assert bench.ingest(gecko, backfill=parameters)["status"] == "succeeded"
    assert len(charts.requests) == requests


def test_drift_of_the_live_format_does_not_affect_the_history(bench: Bench, gecko: Source) -> None:
    discarding = replace(gecko, drift={"*": "discard"})
    coins = [
        {"id": id_, "symbol": id_[:3], "name": id_.title(), "currentPrice": 1, "last_updated": "2026-01-01T00:01:00Z"}
        for id_ in ("bitcoin", "ether")
    ] * 5
    bench.ingest(serving(discarding, coins))
    assert bench.one("SELECT count(*) FROM drift WHERE accepted_at IS NULL") > 0
    for run in (
        bench.ingest(discarding, backfill=backfill()),
        bench.ingest(discarding, replay=ReplayParameters(run=None)),
    ):
        assert bench.one("SELECT sum(fetched) - sum(rejected) FROM pages WHERE run = :run", run=run["id"]) >= 110


def test_a_replay_does_not_change_the_quotes_of_a_backfill(
    bench: Bench, gecko: Source, content: Callable[[Engine], str]
) -> None:
    live = {"id": "bitcoin", "symbol": "bit", "name": "Bitcoin", "current_price": 5, "market_cap_rank": 1}
    bench.ingest(serving(gecko, [{**live, "last_updated": (BEGIN + DAY).isoformat()}]))
    bench.ingest(gecko, backfill=backfill())
    before = content(bench.engine)
    bench.ingest(gecko, replay=ReplayParameters())
    assert content(bench.engine) == before


def test_a_plan_counts_the_spans_to_fetch_without_any_request(bench: Bench, gecko: Source, charts: Charts) -> None:
    charts.before = lambda number: Response("{}", 400) if number == 2 else None
    bench.ingest(gecko, backfill=backfill())
    requests = len(charts.requests)
    for existing, spans in (("skip", SPANS), ("retry", SPANS + 1), ("repeat", 2 * SPANS)):
        parameters = backfill("bitcoin", "ether", "nothing", existing=existing)
        plan = plan_backfill(bench.engine, gecko, parameters, NOW)
        assert (plan.listings, plan.spans, plan.skipped) == (2, spans, 2 * SPANS - spans)
        assert plan.missing == ["nothing"]
    assert len(charts.requests) == requests


def test_a_replay_restores_the_quotes_of_a_backfill(
    bench: Bench, gecko: Source, content: Callable[[Engine], str]
) -> None:
    bench.ingest(gecko, backfill=backfill())
    before = content(bench.engine)
    bench.rows("TRUNCATE quotes, latest_quotes")
    assert bench.ingest(gecko, replay=ReplayParameters())["status"] == "succeeded"
    assert content(bench.engine) == before


def test_a_malformed_item_is_rejected_and_a_malformed_body_makes_the_run_wait(
    bench: Bench, gecko: Source, charts: Charts
) -> None:
    charts.before = lambda _: Response(
        json.dumps({"prices": [[1_600_041_600_000, "x"], ["y", 2], [3], [1_600_128_000_000, 4]]}),
        content_type="application/json",
    )
    run = bench.ingest(gecko, backfill=backfill(observed_from=END - DAY))
    assert counters(bench, run["id"])[5] == 3
    charts.before = lambda _: Response('{"prices": 7}', content_type="application/json")
    assert bench.ingest(gecko, backfill=backfill(existing="repeat"))["status"] == "waiting"


def test_a_recorded_chart_of_coingecko_is_loaded_exactly(
    bench: Bench, gecko: Source, charts: Charts, recordings: Recordings
) -> None:
    recording = recordings.file("coingecko/market_chart.*.json").read_bytes()
    charts.before = lambda _: Response(recording, content_type="application/json")
    run = bench.ingest(gecko, backfill=backfill(observed_from=END - DAY))
    # The time of the last price is the time of the request.
    sent: list[Any] = json.loads(recording, parse_float=Decimal)["prices"][:-1]
    stored = bench.rows("SELECT price FROM quotes WHERE run = :run ORDER BY observed_at", run=run["id"])
    assert [row["price"] for row in stored] == [price for _, price in sent]


def test_a_backfill_resumes_at_the_interrupted_span_after_its_worker_is_killed(
    engine: Engine, settings: Settings, start: Start, bench: Bench, gecko: Source, charts: Charts
) -> None:
    cursor, gate = live_cursor(bench), Gate()
    charts.before = lambda number: gate.pass_through() if number == 2 else None  # type: ignore[func-returns-value]  # None: the chart is served.
    request = RunRequest("coingecko", backfill=backfill())
    [requested] = request_runs(engine, [request], requested_by="test")
    worker = start("worker", COINGECKO_URL=charts.url)
    assert gate.reached.wait(20)
    worker.kill()
    gate.open.set()
    start("worker", COINGECKO_URL=charts.url)
    assert final_status(engine, requested.run, settings) == "succeeded"
    assert len(charts.requests) == SPANS + 1
    assert charts.requests[1] == charts.requests[2]
    assert loaded_days(bench) == 110
    assert live_cursor(bench) == cursor
