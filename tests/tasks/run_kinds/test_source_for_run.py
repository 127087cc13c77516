"""Test that a source is adapted to the kind of the run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from sources import coingecko
from sources.contract import RESERVED_PREFIXES, Source
from tasks.run_kinds.source_for_run import source_for_run
from tasks.runs.claims import claim_run
from tasks.runs.parameters import BackfillParameters, ReplayParameters
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

BACKFILL = BackfillParameters(assets=("coin-0",), observed_from=datetime(2020, 1, 1, tzinfo=UTC), observed_to=None)


def adapted(bench: Bench, source: Source, **parameters: Any) -> Source:
    """Return the source adapted to a run with these parameters."""
    claim = claim_run(bench.engine, bench.request(source, **parameters))
    assert claim
    return source_for_run(bench.engine, source, claim)


def test_a_live_run_uses_the_unchanged_source(bench: Bench) -> None:
    source = canned([item()])
    assert adapted(bench, source) is source


def test_a_replay_has_one_partition_and_no_upstream(bench: Bench) -> None:
    source = coingecko.source
    replayed = adapted(bench, source, replay=ReplayParameters())
    assert (list(replayed.partitions()), replayed.is_shared, replayed.upstreams) == (["replay:"], False, {})
    assert (replayed.name, replayed.rate, replayed.drift) == (source.name, source.rate, source.drift)


def test_a_replay_can_map_the_pages_of_backfills(bench: Bench) -> None:
    replayed = adapted(bench, coingecko.source, replay=ReplayParameters())
    assert replayed.normalize is not coingecko.source.normalize
    assert replayed.history is coingecko.source.history


@pytest.fixture
def two_currencies(bench: Bench) -> Source:
    """Return a source with a history that lists one asset in two currencies."""
    source = canned([item(), item(quote_currency="EUR"), item(1)], history=coingecko.source.history, is_shared=True)
    bench.ingest(source)
    return source


def test_a_backfill_has_one_partition_for_each_listing_of_its_assets(bench: Bench, two_currencies: Source) -> None:
    backfilled = adapted(bench, two_currencies, backfill=BACKFILL)
    listings = bench.rows("SELECT quote_currency FROM listings WHERE source_asset_id = 'coin-0' ORDER BY id")
    assert {row["quote_currency"] for row in listings} == {"USD", "EUR"}
    assert list(backfilled.partitions()) == [f"backfill:coin-0 {row['quote_currency']}" for row in listings]
    assert not backfilled.is_shared


def test_the_partitions_of_replays_and_backfills_have_the_reserved_prefixes(
    bench: Bench, two_currencies: Source
) -> None:
    replayed = adapted(bench, two_currencies, replay=ReplayParameters())
    backfilled = adapted(bench, two_currencies, backfill=BACKFILL)
    for partition in (*replayed.partitions(), *backfilled.partitions()):
        assert partition.startswith(RESERVED_PREFIXES)
    for prefix, run in zip(RESERVED_PREFIXES, (replayed, backfilled), strict=True):
        assert all(partition.startswith(prefix) for partition in run.partitions())
