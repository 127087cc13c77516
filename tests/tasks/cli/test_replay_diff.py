"""`python -m tasks replay SOURCE --diff` predicts what a replay changes, and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from sources.registry import SOURCES
from tasks.cli import replay_command
from tasks.cli.replay_diff import diff
from tasks.runs.parameters import ReplayParameters
from tests.content import content_hash
from tests.tasks.conftest import Bench
from tests.tasks.counters import counters
from tests.upstreams import FETCHED, canned, item

LATER = FETCHED + timedelta(hours=1)


def without_cap(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in values.items() if name != "cap"}


@pytest.mark.usefixtures("process_settings")
def test_a_diff_predicts_a_replay_and_writes_nothing(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    pages = [item(0, cap="7"), item(1, cap="8", price="much")], [item(2, cap="9", price="1,5"), item(0, cap="7")]
    bench.ingest(canned(*pages, normalize=without_cap))
    bench.ingest(canned(*pages, normalize=without_cap, fetched_at=LATER))
    bench.rows("DELETE FROM rejects WHERE item_index = 1")
    before = content_hash(bench.engine), bench.rows("SELECT * FROM rejects"), bench.one("SELECT count(*) FROM runs")

    def corrected(values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**without_cap(values), "market_cap": values["cap"], "price": values["price"].replace(",", ".")}

    bench.register(canned(normalize=corrected))
    capsys.readouterr()
    assert replay_command.main(["canned", "--diff"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "canned: read 4 stored pages with 8 items; nothing was written.",
        "  quotes that would be new        1",
        "  quotes that would be corrected  1  (market_cap 1)",
        "  rejects that would pass         1",
        "  rejects that would stay         0",
        "  items that would be rejected    1",
        "  e.g. coin-0 USD 2026-01-01T00:00:00Z: market_cap null -> 7",
    ]
    after = content_hash(bench.engine), bench.rows("SELECT * FROM rejects"), bench.one("SELECT count(*) FROM runs")
    assert after == before
    # The replay does what the diff predicted.
    assert replay_command.main(["canned"]) == 0
    run = bench.one("SELECT id FROM runs WHERE kind = 'replay'")
    assert f"Run {run} was requested.\n" in capsys.readouterr().out
    assert bench.slice(run)["status"] == "partial"
    assert counters(bench, run) == (8, 1, 1, 4, 0, 2)
    assert (
        bench.one("SELECT market_cap FROM quotes JOIN listings ON id = listing_id WHERE source_asset_id = 'coin-2'")
        == 9
    )


def test_pages_whose_body_was_deleted_are_counted_apart(bench: Bench) -> None:
    bench.ingest(canned([item(0)], [item(1), item(2)]))
    bench.rows("UPDATE raw_bodies SET body = NULL WHERE digest = (SELECT body_digest FROM pages WHERE seq = 0)")
    changes = diff(bench.engine, SOURCES["canned"], ReplayParameters(), clock_skew=0)
    assert (changes.pages, changes.missing_bodies, changes.items, changes.new, changes.corrected) == (1, 1, 2, 0, 0)
