"""A backfill loads the history of assets span by span, next to live runs, and each span once unless it is repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import Engine
from werkzeug import Request, Response

from settings import Settings
from sources import coingecko, coinpaprika
from sources.contract import Http, Page, Source, TerminalError, Window
from tasks.run_kinds.backfill import FORMAT, Coverage, history_of, plan_backfill, with_history
from tasks.runs.parameters import BackfillParameters, ReplayParameters
from tasks.runs.requests import RunRequest, request_cancel, request_runs
from tests.recordings import Recordings
from tests.tasks.conftest import Bench
from tests.tasks.counters import counters
from tests.tasks.test_worker import Start, final_status
from tests.upstreams import FETCHED, Gate, canned

DAY = timedelta(days=1)
# CoinGecko's spans of 90 days begin and end here.
SPAN_START = datetime(1970, 1, 1, tzinfo=UTC) + 225 * timedelta(days=90)
BEGIN, END = SPAN_START - 10 * DAY, SPAN_START + 100 * DAY
SPANS = 3
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@dataclass
class Charts:
    """Serves one price a day, as CoinGecko's market_chart/range and as CoinPaprika's historical ticks.

    before: called with the number of the request first; may answer in its place.
    """

    server: HTTPServer
    requests: list[dict[str, str]] = field(default_factory=list)
    before: Callable[[int], Response | None] = lambda _: None
    price: float = 100.0

    def __post_init__(self) -> None:
        for coin in ("bitcoin", "ether"):
            self.server.expect_request(f"/coins/{coin}/market_chart/range").respond_with_handler(self._chart)
        self.server.expect_request("/tickers/btc-bitcoin/historical").respond_with_handler(self._ticks)
        self.server.expect_request("/coins/markets").respond_with_json([])

    @property
    def url(self) -> str:
        return self.server.url_for("").rstrip("/")

    def _days(self, request: Request, since: str, until: str) -> list[datetime]:
        self.requests.append({"path": request.path, **request.args})
        first, last = (datetime.fromtimestamp(int(request.args[name]), UTC) for name in (since, until))
        day = first.replace(hour=0, minute=0, second=0)
        days = [day + number * DAY for number in range((last - day).days + 1)]
        return [day for day in days if first <= day <= last]

    def _chart(self, request: Request) -> Response:
        days = self._days(request, "from", "to")
        pairs = [[int(day.timestamp() * 1000), self.price + number] for number, day in enumerate(days)]
        chart = {"prices": pairs, "market_caps": pairs[:-1], "total_volumes": pairs}
        return self.before(len(self.requests)) or Response(json.dumps(chart), content_type="application/json")

    def _ticks(self, request: Request) -> Response:
        days = self._days(request, "start", "end")
        ticks = [
            {"timestamp": f"{day:%Y-%m-%dT%H:%M:%SZ}", "price": 7.5, "volume_24h": 10, "market_cap": 0} for day in days
        ]
        return self.before(len(self.requests)) or Response(json.dumps(ticks), content_type="application/json")


@pytest.fixture
def charts(httpserver: HTTPServer) -> Charts:
    return Charts(httpserver)


@pytest.fixture
def gecko(bench: Bench, charts: Charts, monkeypatch: pytest.MonkeyPatch) -> Source:
    """CoinGecko, which lists Bitcoin and Ether, after a live run."""
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


def test_a_coins_history_is_loaded_and_the_live_cursor_stays(bench: Bench, gecko: Source, charts: Charts) -> None:
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


def test_coinpaprikas_history_is_loaded(bench: Bench, charts: Charts, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_loaded_span_is_not_requested_again_unless_it_is_to_be_repeated(
    bench: Bench, gecko: Source, charts: Charts
) -> None:
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
    assert spans == [11, 20, 90], "a span that was loaded as a whole was requested again"


def test_a_stored_quote_is_not_corrected_by_a_backfill(bench: Bench, gecko: Source) -> None:
    live = {"id": "bitcoin", "symbol": "bit", "name": "Bitcoin", "current_price": 5, "market_cap_rank": 1}
    bench.ingest(serving(gecko, [{**live, "last_updated": (BEGIN + DAY).isoformat()}]))
    run = bench.ingest(gecko, backfill=backfill())
    assert counters(bench, run["id"]) == (110, 109, 0, 1, 0, 0)
    [quote] = bench.rows("SELECT price, rank FROM quotes WHERE observed_at = :at", at=BEGIN + DAY)
    assert tuple(quote.values()) == (5, 1)


def test_a_refused_span_does_not_stop_the_others_and_can_be_retried(
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


def test_a_plan_with_too_short_a_history_loads_what_it_has_and_pauses_nothing(
    bench: Bench, gecko: Source, charts: Charts
) -> None:
    charts.before = lambda number: Response("{}", 402) if number > 1 else None
    run = bench.ingest(gecko, backfill=backfill())
    assert (run["status"], run["error_code"]) == ("failed", "payment_required")
    assert loaded_days(bench) == 10, "the newest span was not requested first"
    assert bench.one("SELECT paused_reason FROM sources WHERE name = 'coingecko'") is None


def test_a_backfill_resumes_where_its_slice_ended_and_stops_when_it_is_cancelled(
    bench: Bench, gecko: Source, charts: Charts
) -> None:
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


def test_a_backfill_without_an_end_stops_at_the_present_and_is_not_repeated(
    bench: Bench, gecko: Source, charts: Charts
) -> None:
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


def test_a_replay_of_a_source_changes_nothing_that_its_backfill_loaded(
    bench: Bench, gecko: Source, content: Callable[[Engine], str]
) -> None:
    live = {"id": "bitcoin", "symbol": "bit", "name": "Bitcoin", "current_price": 5, "market_cap_rank": 1}
    bench.ingest(serving(gecko, [{**live, "last_updated": (BEGIN + DAY).isoformat()}]))
    bench.ingest(gecko, backfill=backfill())
    before = content(bench.engine)
    bench.ingest(gecko, replay=ReplayParameters())
    assert content(bench.engine) == before


def test_a_plan_counts_the_spans_that_would_be_fetched_and_requests_none(
    bench: Bench, gecko: Source, charts: Charts
) -> None:
    charts.before = lambda number: Response("{}", 400) if number == 2 else None
    bench.ingest(gecko, backfill=backfill())
    requests = len(charts.requests)
    for existing, spans in (("skip", SPANS), ("retry", SPANS + 1), ("repeat", 2 * SPANS)):
        parameters = backfill("bitcoin", "ether", "nothing", existing=existing)
        plan = plan_backfill(bench.engine, gecko, parameters, NOW)
        assert (plan.listings, plan.spans, plan.skipped) == (2, spans, 2 * SPANS - spans)
        assert plan.missing == ["nothing"]
    assert len(charts.requests) == requests


def test_the_pages_of_a_backfill_are_replayed_like_all_others(
    bench: Bench, gecko: Source, content: Callable[[Engine], str]
) -> None:
    bench.ingest(gecko, backfill=backfill())
    before = content(bench.engine)
    bench.rows("TRUNCATE quotes, latest_quotes")
    assert bench.ingest(gecko, replay=ReplayParameters())["status"] == "succeeded"
    assert content(bench.engine) == before


def test_a_malformed_item_of_the_history_is_a_reject_and_a_malformed_body_makes_the_run_wait(
    bench: Bench, gecko: Source, charts: Charts
) -> None:
    charts.before = lambda _: Response(
        json.dumps({"prices": [[1_600_041_600_000, "x"], ["y", 2], [3], [1_600_128_000_000, 4]]}),
        content_type="application/json",
    )
    run = bench.ingest(gecko, backfill=backfill(observed_from=END - DAY))
    assert counters(bench, run["id"])[5] == 2
    charts.before = lambda _: Response('{"prices": 7}', content_type="application/json")
    assert bench.ingest(gecko, backfill=backfill(existing="repeat"))["status"] == "waiting"


def test_a_recording_of_coingeckos_chart_loads(
    bench: Bench, gecko: Source, charts: Charts, recordings: Recordings
) -> None:
    recording = recordings.file("coingecko/market_chart.*.json").read_bytes()
    charts.before = lambda _: Response(recording, content_type="application/json")
    run = bench.ingest(gecko, backfill=backfill(observed_from=END - DAY))
    # The last price has the time of the request.
    sent: list[Any] = json.loads(recording, parse_float=Decimal)["prices"][:-1]
    stored = bench.rows("SELECT price FROM quotes WHERE run = :run ORDER BY observed_at", run=run["id"])
    assert [row["price"] for row in stored] == [price for _, price in sent]


def test_a_backfill_whose_worker_is_killed_resumes_at_the_span_it_reached(
    engine: Engine, settings: Settings, start: Start, bench: Bench, gecko: Source, charts: Charts
) -> None:
    cursor, gate = live_cursor(bench), Gate()
    charts.before = lambda number: gate.pass_through() if number == 2 else None  # type: ignore[func-returns-value]  # it returns None, so the chart is served
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


# The spans that backfills of a listing have processed


def span(first: int, last: int) -> tuple[datetime, datetime]:
    return NOW + first * DAY, NOW + last * DAY


def test_adjacent_and_overlapping_spans_are_merged_whatever_their_order() -> None:
    coverage = Coverage.of(None, run="a")
    for first, last in ((4, 6), (0, 2), (2, 3), (5, 8)):
        coverage.add(span(first, last))
    assert coverage.covered == coverage.processed == [span(0, 3), span(4, 8)]


def test_a_cursor_restores_the_coverage_of_its_run() -> None:
    coverage = Coverage.of(None, run="a")
    coverage.add(span(0, 1))
    coverage.add(span(2, 3), TerminalError("no data", code="upstream_refused"))
    cursor = json.loads(json.dumps(coverage.cursor("a")))
    assert Coverage.of(cursor, run="a") == coverage
    assert coverage.error == {"code": "upstream_refused", "detail": "no data"}


def test_the_cursor_stores_processed_spans_under_the_key_of_earlier_versions() -> None:
    coverage = Coverage.of(None, run="a")
    coverage.add(span(0, 1))
    cursor = coverage.cursor("a")
    assert cursor["mine"] == cursor["covered"] != []


def test_another_run_keeps_what_was_loaded_and_starts_with_no_spans_and_no_error_of_its_own() -> None:
    first = Coverage.of(None, run="a")
    first.add(span(0, 1))
    first.add(span(2, 3), TerminalError("no data"))
    second = Coverage.of(first.cursor("a"), run="b")
    assert (second.covered, second.refused, second.processed, second.error) == ([span(0, 1)], [span(2, 3)], [], None)
    assert second.to_skip("skip") == [span(0, 1), span(2, 3)]
    assert second.to_skip("retry") == [span(0, 1)]
    assert second.to_skip("repeat") == []


def test_a_span_that_a_run_has_processed_is_skipped_by_that_run_even_when_it_repeats() -> None:
    coverage = Coverage.of(None, run="a")
    coverage.add(span(0, 1))
    coverage.add(span(2, 3), TerminalError("no data"))
    assert coverage.to_skip("repeat") == coverage.to_skip("retry") == [span(0, 1), span(2, 3)]


def test_a_refused_span_that_is_loaded_later_is_no_longer_refused_and_the_first_error_stays() -> None:
    coverage = Coverage.of(None, run="a")
    coverage.add(span(0, 1), TerminalError("first"))
    coverage.add(span(2, 3), TerminalError("second"))
    coverage.add(span(0, 1))
    assert (coverage.refused, coverage.covered) == ([span(2, 3)], [span(0, 1)])
    assert coverage.error is not None
    assert coverage.error["detail"] == "first"


# The adapted source


def test_a_source_without_a_history_cannot_be_backfilled(bench: Bench) -> None:
    with pytest.raises(TerminalError, match="canned declares no history") as error:
        history_of(canned())
    assert error.value.code == "no_history"
    plain = canned()
    assert with_history(plain) is plain


def test_pages_of_backfills_are_mapped_by_the_history_and_all_others_by_the_source() -> None:
    source = with_history(coingecko.source)
    chart = json.dumps({"prices": [[1_600_041_600_000, 7]], "market_caps": [], "total_volumes": []}).encode()
    listing = {"source_asset_id": "bitcoin", "symbol": "btc", "name": "Bitcoin", "quote_currency": "USD"}
    backfilled = Page(chart, "application/json", {"listing": listing}, FETCHED, None)
    live = Page(json.dumps([{"id": "ether", "current_price": 5}]).encode(), "application/json", {}, FETCHED, None)
    [past], [present] = ([source.normalize(fields) for fields in source.parse(page)] for page in (backfilled, live))
    assert (past["source_asset_id"], past["price"]) == ("bitcoin", 7)
    assert (present["source_asset_id"], present["price"]) == ("ether", 5)
    assert (source.format(backfilled), source.format(live)) == (FORMAT, coingecko.source.format(live))
    refused = replace(backfilled, body=b"", request={"listing": listing, "refused": "no data"})
    assert list(source.parse(refused)) == []
