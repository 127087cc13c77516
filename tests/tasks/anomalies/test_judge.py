"""A run that is not like those before it is found; one that is, is not."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import RowMapping

from tasks.anomalies import freshness
from tasks.anomalies.freshness import record_late_sources
from tasks.anomalies.judge import compare, judge_runs
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
RUNS, COINS = 30, 60
SLOT = timedelta(minutes=10)

Items = list[dict[str, Any]]


@dataclass
class Upstream:
    """An upstream whose prices wander as real ones do, and of which some coins have no market cap."""

    name: str
    random: random.Random
    price: list[float] = field(default_factory=lambda: [10.0 ** (number % 7 - 3) for number in range(COINS)])

    def items(self, slot: int, prices: Sequence[float]) -> Items:
        seen = BEGIN + slot * SLOT - timedelta(seconds=self.random.uniform(5, 90))
        listed = COINS - self.random.randint(0, 2)
        return [
            item(
                number,
                price=repr(prices[number] * (1 + self.random.gauss(0, 0.002))),
                market_cap=None if number % 5 == 0 or self.random.random() < 0.02 else str(1000 + number),
                volume_24h=str(self.random.randint(1, 10**6)),
                observed_at=seen.isoformat(),
            )
            for number in range(listed)
        ]


def tenth(items: Items) -> Items:
    return items[: len(items) // 10]


def doubled(items: Items) -> Items:
    return items + items


def without_volume(items: Items) -> Items:
    return [{**it, "volume_24h": None} for it in items]


def hundredfold(items: Items) -> Items:
    return [{**items[0], "price": repr(float(items[0]["price"]) * 100)}, *items[1:]]


def off(items: Items) -> Items:
    return [{**it, "price": repr(float(it["price"]) * 1.05)} for it in items]


def more_fields(items: Items) -> Items:
    return [{**it, "high": it["price"]} for it in items]


FAULTS: Mapping[int, tuple[str, Callable[[Items], Items] | None]] = {
    13: ("rows", tenth),
    15: ("repeats", doubled),
    17: ("nulls", without_volume),
    19: ("price", hundredfold),
    21: ("lag", None),
    23: ("duration", None),
    25: ("agreement", off),
    27: ("schema", more_fields),
}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_of_thirty_runs_with_eight_faults_each_is_found_and_no_other(bench: Bench, seed: int) -> None:
    wander = random.Random(seed)
    one, other = Upstream("one", wander), Upstream("other", wander)
    prices = list(one.price)
    for slot in range(RUNS):
        kind, change = FAULTS.get(slot, ("", None))
        prices = [price * (1 + wander.gauss(0, 0.004)) for price in prices]
        items = one.items(slot, prices)
        if kind == "lag":  # its clock stands still, its prices do not
            items = [{**it, "observed_at": (BEGIN + (slot - 6) * SLOT).isoformat()} for it in items]
        items = change(items) if change else items
        run_of(bench, other.name, other.items(slot, prices), slot, wander.uniform(2, 3))
        run_of(bench, one.name, items, slot, 40.0 if kind == "duration" else wander.uniform(2, 3))
        judge_runs(bench.engine)
    found = bench.rows("""
        SELECT a.kind, a.source, (a.run = ANY(f.runs)) AS planted, array_position(f.runs, a.run) - 1 AS slot, a.detail
          FROM anomalies AS a, LATERAL (SELECT array_agg(id ORDER BY requested_at) AS runs FROM runs
                                         WHERE source = a.source) AS f ORDER BY a.id
    """)
    planted = {(slot, kind) for slot, (kind, _) in FAULTS.items()}
    ours = {(row["slot"], row["kind"]) for row in found if row["source"] == "one"}
    assert planted <= ours, f"not found: {planted - ours}"
    false = [dict(row) for row in found if row["source"] == "other" or row["slot"] not in FAULTS]
    assert len(false) <= 1, false


def run_of(bench: Bench, name: str, items: Items, slot: int, seconds: float) -> RowMapping:
    """A run of so many seconds, at the time of its slot."""
    at = BEGIN + slot * SLOT
    run = bench.ingest(canned(items, name=name, fetched_at=at))
    bench.rows(
        "UPDATE runs SET started_at = finished_at - make_interval(secs => :seconds) WHERE id = :run",
        seconds=seconds,
        run=run["id"],
    )
    return run


def test_nothing_is_said_before_there_is_enough_history(bench: Bench) -> None:
    upstream = Upstream("one", random.Random(1))
    for slot in range(8):
        items = upstream.items(slot, upstream.price)
        run_of(bench, "one", items if slot < 7 else tenth(items), slot, 2)
        judge_runs(bench.engine)
    assert bench.rows("SELECT * FROM anomalies") == []


def test_a_run_is_judged_once_and_whatever_it_came_to(bench: Bench) -> None:
    bench.ingest(canned([item(0)]))
    bench.ingest(canned([item(0, price="much")], fetched_at=BEGIN + SLOT))
    for _ in range(2):
        judge_runs(bench.engine)
    runs = bench.rows("SELECT status, judged_at, figures FROM runs ORDER BY requested_at")
    assert [row["status"] for row in runs] == ["succeeded", "failed"]
    assert all(row["judged_at"] for row in runs)
    assert runs[0]["figures"]["items"] == 1
    assert runs[0]["figures"]["null.market_cap"] == 1
    assert runs[1]["figures"] == {}


@pytest.mark.parametrize(
    ("name", "usual", "value", "kind"),
    [
        ("items", 100.0, 90.0, None),
        ("items", 100.0, 60.0, "rows"),
        ("items", 100.0, 150.0, "rows"),
        ("items", 2.0, 4.0, None),
        ("rejected", 0.0, 0.04, None),
        ("rejected", 0.0, 0.2, "rejects"),
        ("rejected", 0.9, 0.0, None),
        ("seconds", 2.0, 4.0, None),
        ("seconds", 2.0, 8.0, "duration"),
        ("seconds", 0.01, 0.9, None),
        ("seconds", 60.0, 1.0, None),
        ("lag", 60.0, 3600.0, "lag"),
        ("null.rank", 0.1, 0.3, "nulls"),
        ("moved", 0.0, 9.0, None),
    ],
)
def test_a_figure_is_held_against_what_is_usual(name: str, usual: float, value: float, kind: str | None) -> None:
    history = [{name: usual * (1 + (at % 3 - 1) / 100)} for at in range(8)]
    assert [it.kind for it in compare({name: value}, history)] == ([kind] if kind else [])
    assert list(compare({name: value}, history[1:])) == []


def test_of_three_sources_the_one_that_none_is_near_is_off(bench: Bench) -> None:
    upstream = Upstream("one", random.Random(1))
    for slot in range(10):
        for name in ("one", "two", "three"):
            items = upstream.items(slot, upstream.price)
            run_of(bench, name, off(items) if (slot, name) == (9, "two") else items, slot, 2)
            judge_runs(bench.engine)
    [found] = bench.rows("SELECT source, kind, value FROM anomalies")
    assert (found["source"], found["kind"]) == ("two", "agreement")
    assert 0.04 < found["value"] < 0.06


def test_an_asset_that_is_two_things_shows_itself_until_it_is_over(bench: Bench) -> None:
    upstream = Upstream("one", random.Random(1))
    items = upstream.items(0, upstream.price)[:4]
    run_of(bench, "other", items, 0, 2)
    for slot, price in ((0, "9"), (1, "9"), (2, items[0]["price"])):
        ours = [{**items[0], "price": price, "observed_at": (BEGIN + slot * timedelta(minutes=1)).isoformat()}]
        run_of(bench, "one", [*ours, *items[1:]], slot, 2)
        judge_runs(bench.engine)
        [found] = bench.rows("SELECT kind, subject, over_at FROM anomalies WHERE source = 'one'")
        assert (found["kind"], found["subject"]) == ("apart", "coin-0")
        assert (found["over_at"] is not None) == (slot == 2)


def test_a_source_that_falls_behind_is_an_anomaly_until_it_is_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = canned([item(0)])
    monkeypatch.setattr(freshness, "SOURCES", {"canned": source})
    record_late_sources(bench.engine)
    run = bench.ingest(source)
    record_late_sources(bench.engine)
    assert bench.rows("SELECT * FROM anomalies") == [], "it has just come"
    bench.rows("UPDATE runs SET finished_at = finished_at - interval '3h 1min' WHERE id = :run", run=run["id"])
    for _ in range(2):
        record_late_sources(bench.engine)
    [late] = bench.rows("SELECT * FROM anomalies")
    assert (late["kind"], late["source"], late["over_at"], late["expected"]) == ("late", "canned", None, 10800)
    bench.rows("UPDATE sources SET paused_reason = 'for a while'")
    record_late_sources(bench.engine)
    assert bench.one("SELECT over_at FROM anomalies") is None, "a pause brings nothing in"
    bench.rows("UPDATE sources SET paused_reason = NULL")
    bench.ingest(source)
    record_late_sources(bench.engine)
    assert bench.one("SELECT over_at FROM anomalies") is not None
