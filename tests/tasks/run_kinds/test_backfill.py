"""The past of assets comes in span by span, beside what is live, and each span once unless it is asked for again."""

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
from sources.contract import Http, Page, Source, Window
from tasks.run_kinds.backfill import plan_backfill
from tasks.runs.parameters import BackfillParameters, ReplayParameters
from tasks.runs.requests import RunRequest, request_cancel, request_runs
from tests.recordings import Recordings
from tests.tasks.conftest import Bench
from tests.tasks.pipeline.test_slice import counters
from tests.tasks.test_worker import Start, ended
from tests.upstreams import Gate

DAY = timedelta(days=1)
# Where CoinGecko's spans of 90 days begin and end.
BORDER = datetime(1970, 1, 1, tzinfo=UTC) + 225 * timedelta(days=90)
BEGIN, END = BORDER - 10 * DAY, BORDER + 100 * DAY
SPANS = 3
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@dataclass
class Charts:
    """CoinGecko's market_chart/range and CoinPaprika's historical ticks: a price a day. refused: of a span's number."""

    server: HTTPServer
    asked: list[dict[str, str]] = field(default_factory=list)
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
        self.asked.append({"path": request.path, **request.args})
        first, last = (datetime.fromtimestamp(int(request.args[name]), UTC) for name in (since, until))
        day = first.replace(hour=0, minute=0, second=0)
        days = [day + number * DAY for number in range((last - day).days + 1)]
        return [it for it in days if first <= it <= last]

    def _chart(self, request: Request) -> Response:
        days = self._days(request, "from", "to")
        pairs = [[int(day.timestamp() * 1000), self.price + number] for number, day in enumerate(days)]
        chart = {"prices": pairs, "market_caps": pairs[:-1], "total_volumes": pairs}
        return self.before(len(self.asked)) or Response(json.dumps(chart), content_type="application/json")

    def _ticks(self, request: Request) -> Response:
        days = self._days(request, "start", "end")
        ticks = [
            {"timestamp": f"{day:%Y-%m-%dT%H:%M:%SZ}", "price": 7.5, "volume_24h": 10, "market_cap": 0} for day in days
        ]
        return self.before(len(self.asked)) or Response(json.dumps(ticks), content_type="application/json")


@pytest.fixture
def charts(httpserver: HTTPServer) -> Charts:
    return Charts(httpserver)


@pytest.fixture
def gecko(bench: Bench, charts: Charts, monkeypatch: pytest.MonkeyPatch) -> Source:
    """CoinGecko, which lists Bitcoin and Ether already; its live cursor has moved."""
    monkeypatch.setenv("COINGECKO_URL", charts.url)
    listed = [
        {"id": id_, "symbol": id_[:3], "name": id_.title(), "current_price": 1, "last_updated": "2026-01-01T00:00:00Z"}
        for id_ in ("bitcoin", "ether")
    ]
    bench.ingest(saying(coingecko.source, listed))
    return coingecko.source


def saying(source: Source, items: list[dict[str, Any]]) -> Source:
    """The source, which is told these items."""

    def fetch(window: Window, _: Http) -> Iterator[Page]:
        yield Page(json.dumps(items).encode(), "application/json", {"live": 1}, window.now, {"live": window.run})

    return replace(source, fetch=fetch)


def of(*assets: str, **more: Any) -> BackfillParameters:
    return BackfillParameters(**{"assets": assets or ("bitcoin",), "observed_from": BEGIN, "observed_to": END, **more})


def live_cursor(bench: Bench) -> Any:
    return bench.one("SELECT cursor FROM checkpoints WHERE partition = ''")


def days_in(bench: Bench) -> int:
    return int(bench.one("SELECT count(*) FROM quotes WHERE observed_at < '2026-01-01'"))


def test_a_coins_past_comes_in_and_the_live_cursor_stays(bench: Bench, gecko: Source, charts: Charts) -> None:
    before = live_cursor(bench)
    run = bench.ingest(gecko, backfill=of())
    assert (run["kind"], run["status"]) == ("backfill", "succeeded")
    assert counters(bench, run["id"]) == (110, 110, 0, 0, 0, 0)
    assert len(charts.asked) == SPANS
    assert live_cursor(bench) == before
    newest, oldest = (
        bench.rows(
            f"SELECT observed_at, price, market_cap, volume_24h FROM quotes WHERE run = :run ORDER BY 1 {way} LIMIT 1",
            run=run["id"],
        )[0]
        for way in ("DESC", "ASC")
    )
    assert tuple(oldest.values()) == (BEGIN, 100, 100, 100)
    assert (newest["observed_at"], newest["market_cap"]) == (END - DAY, None)
    assert (
        bench.one("SELECT observed_at FROM latest_quotes JOIN listings ON id = listing_id WHERE name = 'Bitcoin'").year
        == 2026
    )


def test_coinpaprikas_past_comes_in(bench: Bench, charts: Charts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINPAPRIKA_URL", charts.url)
    coin = {
        "id": "btc-bitcoin",
        "symbol": "BTC",
        "name": "Bitcoin",
        "quotes": {"USD": {"price": 1}},
        "last_updated": "2026-01-01T00:00:00Z",
    }
    bench.ingest(saying(coinpaprika.source, [coin]))
    run = bench.ingest(coinpaprika.source, backfill=of())
    assert counters(bench, run["id"])[:2] == (110, 110)
    assert {row["price"] for row in bench.rows("SELECT price FROM quotes WHERE run = :run", run=run["id"])} == {
        Decimal("7.5")
    }
    assert bench.one("SELECT count(market_cap) FROM quotes") == 0, "0 is what CoinPaprika does not know"


def test_what_is_in_is_not_asked_for_again_unless_all_is_to_be_repeated(
    bench: Bench, gecko: Source, charts: Charts
) -> None:
    bench.ingest(gecko, backfill=of())
    for existing, asked in (("skip", 0), ("retry", 0), ("repeat", SPANS)):
        charts.asked.clear()
        charts.price += 1
        run = bench.ingest(gecko, backfill=of(existing=existing))
        assert (run["status"], len(charts.asked)) == ("succeeded", asked)
    assert counters(bench, run["id"])[:4] == (110, 0, 110, 0)
    charts.asked.clear()
    bench.ingest(gecko, backfill=of(observed_from=BEGIN - 100 * DAY, observed_to=END + DAY))
    spans = sorted((int(it["to"]) + 1 - int(it["from"])) // 86400 for it in charts.asked)
    assert spans == [11, 20, 90], "the spans that were whole are not asked for again"


def test_a_quote_that_is_there_stands(bench: Bench, gecko: Source) -> None:
    live = {"id": "bitcoin", "symbol": "bit", "name": "Bitcoin", "current_price": 5, "market_cap_rank": 1}
    bench.ingest(saying(gecko, [{**live, "last_updated": (BEGIN + DAY).isoformat()}]))
    run = bench.ingest(gecko, backfill=of())
    assert counters(bench, run["id"]) == (110, 109, 0, 1, 0, 0)
    [quote] = bench.rows("SELECT price, rank FROM quotes WHERE observed_at = :at", at=BEGIN + DAY)
    assert tuple(quote.values()) == (5, 1)


def test_a_span_that_is_refused_does_not_keep_the_others_out_and_can_be_retried(
    bench: Bench, gecko: Source, charts: Charts
) -> None:
    charts.before = lambda number: Response("{}", 400) if number == 2 else None
    run = bench.ingest(gecko, backfill=of())
    assert (run["status"], run["error_code"]) == ("failed", "upstream_refused")
    assert days_in(bench) == 110 - 90
    charts.before = lambda _: None
    for existing, asked in (("skip", 0), ("retry", 1)):
        charts.asked.clear()
        assert bench.ingest(gecko, backfill=of(existing=existing))["status"] == "succeeded"
        assert len(charts.asked) == asked
    assert days_in(bench) == 110


def test_a_plan_that_does_not_tell_so_much_gives_what_it_does_and_pauses_nothing(
    bench: Bench, gecko: Source, charts: Charts
) -> None:
    charts.before = lambda number: Response("{}", 402) if number > 1 else None
    run = bench.ingest(gecko, backfill=of())
    assert (run["status"], run["error_code"]) == ("failed", "payment_required")
    assert days_in(bench) == 10, "the newest span came first"
    assert bench.one("SELECT paused_reason FROM sources WHERE name = 'coingecko'") is None


def test_it_goes_on_where_a_slice_ended_and_stops_where_it_is_cancelled(
    bench: Bench, gecko: Source, charts: Charts
) -> None:
    run = bench.request(gecko, backfill=of("bitcoin", "ether"))
    bench.slice(run, task_slice=0)
    assert (bench.slice(run, task_slice=0)["status"], len(charts.asked)) == ("queued", 2)
    request_cancel(bench.engine, run)
    assert bench.slice(run)["status"] == "cancelled"
    assert bench.ingest(gecko, backfill=of("bitcoin", "ether"))["status"] == "succeeded"
    assert len(charts.asked) == 2 * SPANS
    assert days_in(bench) == 220


def test_what_was_refused_is_not_asked_for_in_each_slice(bench: Bench, gecko: Source, charts: Charts) -> None:
    charts.before = lambda _: Response("{}", 404)
    run = bench.request(gecko, backfill=of())
    while (row := bench.slice(run, task_slice=0))["status"] == "queued":
        pass
    assert (row["status"], row["error_code"], len(charts.asked)) == ("failed", "upstream_refused", SPANS)
    later = bench.ingest(gecko, backfill=of(observed_from=END, observed_to=END + DAY))
    assert (later["status"], len(charts.asked)) == ("failed", SPANS + 1), "another time is another span"


def test_a_backfill_until_now_ends_with_today_and_skips_itself(bench: Bench, gecko: Source, charts: Charts) -> None:
    now = bench.one("SELECT clock_timestamp()")
    wanted = of(observed_from=now - 2 * DAY, observed_to=None)
    bench.ingest(gecko, backfill=wanted)
    assert int(charts.asked[0]["to"]) <= now.timestamp() + 60
    asked = len(charts.asked)
    assert bench.ingest(gecko, backfill=wanted)["status"] == "succeeded"
    assert len(charts.asked) == asked


def test_changes_of_the_live_format_are_none_of_the_past(bench: Bench, gecko: Source) -> None:
    policed = replace(gecko, drift={"*": "discard"})
    coins = [
        {"id": id_, "symbol": id_[:3], "name": id_.title(), "currentPrice": 1, "last_updated": "2026-01-01T00:01:00Z"}
        for id_ in ("bitcoin", "ether")
    ] * 5
    bench.ingest(saying(policed, coins))
    assert bench.one("SELECT count(*) FROM drift WHERE accepted_at IS NULL") > 0
    for run in (bench.ingest(policed, backfill=of()), bench.ingest(policed, replay=ReplayParameters(run=None))):
        assert bench.one("SELECT sum(fetched) - sum(rejected) FROM pages WHERE run = :run", run=run["id"]) >= 110


def test_a_replay_leaves_what_the_backfill_left(bench: Bench, gecko: Source, content: Callable[[Engine], str]) -> None:
    live = {"id": "bitcoin", "symbol": "bit", "name": "Bitcoin", "current_price": 5, "market_cap_rank": 1}
    bench.ingest(saying(gecko, [{**live, "last_updated": (BEGIN + DAY).isoformat()}]))
    bench.ingest(gecko, backfill=of())
    before = content(bench.engine)
    bench.ingest(gecko, replay=ReplayParameters())
    assert content(bench.engine) == before


def test_a_dry_run_says_what_would_be_fetched(bench: Bench, gecko: Source, charts: Charts) -> None:
    charts.before = lambda number: Response("{}", 400) if number == 2 else None
    bench.ingest(gecko, backfill=of())
    asked = len(charts.asked)
    for existing, spans in (("skip", SPANS), ("retry", SPANS + 1), ("repeat", 2 * SPANS)):
        planned = plan_backfill(bench.engine, gecko, of("bitcoin", "ether", "nothing", existing=existing), NOW)
        assert (planned.listings, planned.spans, planned.skipped) == (2, spans, 2 * SPANS - spans)
        assert planned.missing == ["nothing"]
    assert len(charts.asked) == asked


def test_what_a_backfill_brought_is_replayed_like_all_else(
    bench: Bench, gecko: Source, content: Callable[[Engine], str]
) -> None:
    bench.ingest(gecko, backfill=of())
    before = content(bench.engine)
    bench.rows("TRUNCATE quotes, latest_quotes")
    assert bench.ingest(gecko, replay=ReplayParameters())["status"] == "succeeded"
    assert content(bench.engine) == before


def test_an_item_of_the_past_that_is_none_is_a_reject(bench: Bench, gecko: Source, charts: Charts) -> None:
    charts.before = lambda _: Response(
        json.dumps({"prices": [[1_600_041_600_000, "x"], ["y", 2], [3], [1_600_128_000_000, 4]]}),
        content_type="application/json",
    )
    run = bench.ingest(gecko, backfill=of(observed_from=END - DAY))
    assert counters(bench, run["id"])[5] == 2
    charts.before = lambda _: Response('{"prices": 7}', content_type="application/json")
    assert bench.ingest(gecko, backfill=of(existing="repeat"))["status"] == "waiting"


def test_a_recording_of_coingeckos_chart_loads(
    bench: Bench, gecko: Source, charts: Charts, recordings: Recordings
) -> None:
    recording = recordings.file("coingecko/market_chart.*.json").read_bytes()
    charts.before = lambda _: Response(recording, content_type="application/json")
    run = bench.ingest(gecko, backfill=of(observed_from=END - DAY))
    sent: list[Any] = json.loads(recording, parse_float=Decimal)["prices"][:-1]  # the last is of the call's own time
    there = bench.rows("SELECT price FROM quotes WHERE run = :run ORDER BY observed_at", run=run["id"])
    assert [row["price"] for row in there] == [price for _, price in sent]


def test_killed_in_the_middle_it_resumes_at_its_span(
    engine: Engine, settings: Settings, start: Start, bench: Bench, gecko: Source, charts: Charts
) -> None:
    cursor, gate = live_cursor(bench), Gate()
    charts.before = lambda number: gate.pass_through() if number == 2 else None  # type: ignore[func-returns-value]  # it answers nothing
    wanted = RunRequest("coingecko", backfill=of())
    [requested] = request_runs(engine, [wanted], requested_by="test")
    worker = start("worker", COINGECKO_URL=charts.url)
    assert gate.reached.wait(20)
    worker.kill()
    gate.open.set()
    start("worker", COINGECKO_URL=charts.url)
    assert ended(engine, requested.run, settings) == "succeeded"
    assert len(charts.asked) == SPANS + 1
    assert charts.asked[1] == charts.asked[2]
    assert days_in(bench) == 110
    assert live_cursor(bench) == cursor
