"""Test that a run is an anomaly only if it differs from the runs before it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import RowMapping

from tasks.anomalies.figures import PriceJump
from tasks.anomalies.judge import compare, judge_runs, unusual_jumps
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
RUNS, COINS = 30, 60
SLOT = timedelta(minutes=10)

Items = list[dict[str, Any]]


@dataclass
class Upstream:
    """An upstream with slightly varying prices and some coins without a market cap."""

    name: str
    random: random.Random
    prices: list[float] = field(default_factory=lambda: [10.0 ** (number % 7 - 3) for number in range(COINS)])

    def items(self, slot: int, prices: Sequence[float]) -> Items:
        observed = BEGIN + slot * SLOT - timedelta(seconds=self.random.uniform(5, 90))
        listed = COINS - self.random.randint(0, 2)
        return [
            item(
                number,
                price=repr(prices[number] * (1 + self.random.gauss(0, 0.002))),
                market_cap=None if number % 5 == 0 or self.random.random() < 0.02 else str(1000 + number),
                volume_24h=str(self.random.randint(1, 10**6)),
                observed_at=observed.isoformat(),
            )
            for number in range(listed)
        ]


def only_a_tenth(items: Items) -> Items:
    return items[: len(items) // 10]


def duplicated(items: Items) -> Items:
    return items + items


def without_volume(items: Items) -> Items:
    return [{**fields, "volume_24h": None} for fields in items]


def with_hundredfold_price(items: Items) -> Items:
    return [{**items[0], "price": repr(float(items[0]["price"]) * 100)}, *items[1:]]


def with_higher_prices(items: Items) -> Items:
    return [{**fields, "price": repr(float(fields["price"]) * 1.05)} for fields in items]


def with_another_field(items: Items) -> Items:
    return [{**fields, "high": fields["price"]} for fields in items]


FAULTS: Mapping[int, tuple[str, Callable[[Items], Items] | None]] = {
    13: ("rows", only_a_tenth),
    15: ("repeats", duplicated),
    17: ("nulls", without_volume),
    19: ("price", with_hundredfold_price),
    21: ("lag", None),
    23: ("duration", None),
    25: ("agreement", with_higher_prices),
    27: ("schema", with_another_field),
}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_all_eight_faults_in_thirty_runs_are_detected_without_false_alarms(bench: Bench, seed: int) -> None:
    generator = random.Random(seed)
    faulty, sound = Upstream("faulty", generator), Upstream("sound", generator)
    prices = list(faulty.prices)
    for slot in range(RUNS):
        kind, change = FAULTS.get(slot, ("", None))
        prices = [price * (1 + generator.gauss(0, 0.004)) for price in prices]
        items = faulty.items(slot, prices)
        if kind == "lag":  # The upstream's clock has stopped, but its prices still change.
            items = [{**fields, "observed_at": (BEGIN + (slot - 6) * SLOT).isoformat()} for fields in items]
        items = change(items) if change else items
        ingest(bench, sound.name, sound.items(slot, prices), slot, generator.uniform(2, 3))
        ingest(bench, faulty.name, items, slot, 40.0 if kind == "duration" else generator.uniform(2, 3))
        judge_runs(bench.engine)
    anomalies = bench.rows("""
        SELECT a.kind, a.source, array_position(of_source.runs, a.run) - 1 AS slot, a.detail
          FROM anomalies AS a, LATERAL (SELECT array_agg(id ORDER BY requested_at) AS runs FROM runs
                                         WHERE source = a.source) AS of_source ORDER BY a.id
    """)
    planted = {(slot, kind) for slot, (kind, _) in FAULTS.items()}
    detected = {(row["slot"], row["kind"]) for row in anomalies if row["source"] == "faulty"}
    assert planted <= detected, f"not detected: {planted - detected}"
    false = [dict(row) for row in anomalies if row["source"] == "sound" or row["slot"] not in FAULTS]
    assert len(false) <= 1, false


def ingest(bench: Bench, name: str, items: Items, slot: int, seconds: float) -> RowMapping:
    """Ingest a page as if it was fetched in a slot. Set the duration of its run, and return the run."""
    run = bench.ingest(canned(items, name=name, fetched_at=BEGIN + slot * SLOT))
    bench.rows(
        "UPDATE runs SET started_at = finished_at - make_interval(secs => :seconds) WHERE id = :run",
        seconds=seconds,
        run=run["id"],
    )
    return run


def test_there_are_no_anomalies_before_the_baseline_has_enough_runs(bench: Bench) -> None:
    upstream = Upstream("one", random.Random(1))
    for slot in range(8):
        items = upstream.items(slot, upstream.prices)
        ingest(bench, "one", items if slot < 7 else only_a_tenth(items), slot, 2)
        judge_runs(bench.engine)
    assert bench.rows("SELECT * FROM anomalies") == []


def test_every_run_is_judged_once_including_failed_runs(bench: Bench) -> None:
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
def test_a_figure_is_compared_with_the_median_of_the_baseline(
    name: str, usual: float, value: float, kind: str | None
) -> None:
    baseline = [{name: usual * (1 + (run % 3 - 1) / 100)} for run in range(8)]
    assert [anomaly.kind for anomaly in compare({name: value}, baseline)] == ([kind] if kind else [])
    assert list(compare({name: value}, baseline[1:])) == [], "seven runs are not enough for a baseline"


def test_the_outlier_among_three_sources_is_reported(bench: Bench) -> None:
    upstream = Upstream("one", random.Random(1))
    for slot in range(10):
        for name in ("one", "two", "three"):
            items = upstream.items(slot, upstream.prices)
            ingest(bench, name, with_higher_prices(items) if (slot, name) == (9, "two") else items, slot, 2)
            judge_runs(bench.engine)
    [anomaly] = bench.rows("SELECT source, kind, value FROM anomalies")
    assert (anomaly["source"], anomaly["kind"]) == ("two", "agreement")
    assert 0.04 < anomaly["value"] < 0.06


def test_an_asset_is_an_anomaly_until_the_prices_of_its_sources_agree(bench: Bench) -> None:
    upstream = Upstream("one", random.Random(1))
    items = upstream.items(0, upstream.prices)[:4]
    ingest(bench, "other", items, 0, 2)
    for slot, price in ((0, "9"), (1, "9"), (2, items[0]["price"])):
        changed = [{**items[0], "price": price, "observed_at": (BEGIN + slot * timedelta(minutes=1)).isoformat()}]
        ingest(bench, "one", [*changed, *items[1:]], slot, 2)
        judge_runs(bench.engine)
        [anomaly] = bench.rows("SELECT kind, subject, over_at FROM anomalies WHERE source = 'one'")
        assert (anomaly["kind"], anomaly["subject"]) == ("apart", "coin-0")
        assert (anomaly["over_at"] is not None) == (slot == 2)


def test_equal_large_moves_of_all_prices_are_one_anomaly() -> None:
    [anomaly] = unusual_jumps([PriceJump(f"coin-{number} USD", 100.0) for number in range(7)])
    assert anomaly.kind == "price"
    listings = ", ".join(f"coin-{number} USD 100" for number in range(5))
    assert anomaly.detail == (
        f"7 of 7 prices are far from their earlier median (as ratios to it): {listings} and 2 more"
    )


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([], []),
        ([1.0, 1.01, 0.99, 4.9], []),
        ([1.0, 1.01, 0.99, 5.1], [5.1]),
        ([1.0, 1.01, 0.99, 0.19], [0.19]),
        ([1.0, 3.0, 0.3, 2.5, 0.4, 6.0], []),
    ],
)
def test_a_price_jump_is_large_and_much_larger_than_the_other_moves(ratios: list[float], expected: list[float]) -> None:
    jumps = [PriceJump(f"coin-{number} USD", ratio) for number, ratio in enumerate(ratios)]
    assert [anomaly.value for anomaly in unusual_jumps(jumps)] == expected


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda items: [{**fields, "high": 1} for fields in items], "the field high is new, of type number"),
        (
            lambda items: [{name: fields[name] for name in fields if name != "rank"} for fields in items],
            "the field rank vanished",
        ),
        (
            lambda items: [{("rang" if name == "rank" else name): fields[name] for name in fields} for fields in items],
            "the field rank was renamed to rang",
        ),
        (lambda items: [{**fields, "rank": "first"} for fields in items], "the field rank changed its type to text"),
    ],
)
def test_a_changed_field_is_an_anomaly_of_its_run(bench: Bench, change: Callable[[Items], Items], detail: str) -> None:
    items = [item(number, rank=number) for number in range(5)]
    bench.ingest(canned(items))
    run = bench.ingest(canned(change(items), fetched_at=BEGIN + SLOT))
    judge_runs(bench.engine)
    [anomaly] = bench.rows("SELECT run, subject, detail FROM anomalies WHERE kind = 'schema'")
    assert (anomaly["run"], anomaly["detail"]) == (run["id"], detail)
    assert anomaly["subject"] in detail
