"""Test that the rematch merges assets with a common symbol, separates them, or stores them as candidates."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection, Engine
from structlog.testing import capture_logs

from sources.record_columns import key_of
from tasks.identity import rematch
from tasks.identity.assignment import plan_assignments
from tasks.identity.decisions import decision_lock, move
from tasks.identity.new_listings import write_listings
from tasks.identity.rematch import MERGES_PER_TRANSACTION, rematch_assets
from tests.app.rows import Rows
from tests.processes import until
from tests.tasks.assets import add_acme_twice, assets, by_person, query, quote, resolve, undo
from tests.tasks.identity.candidates import candidates
from tests.upstreams import OBSERVED

pytestmark = pytest.mark.usefixtures("sources")


def price(engine: Engine, id_: str, price: str, at: datetime = OBSERVED) -> None:
    [row] = query(engine, "SELECT id FROM listings WHERE source_asset_id = :id", id=id_)
    Rows(engine).quote(row.id, at, price)


def test_a_partly_equal_name_is_enough_if_no_third_asset_has_the_symbol(engine: Engine) -> None:
    add_acme_twice(engine)
    assert assets(engine) == {"acme": ["acm-1"], "acme-rockets": ["second"]}
    rematch_assets(engine, {})
    assert assets(engine) == {"acme": ["acm-1", "second"], "acme-rockets": []}
    [row] = query(engine, "SELECT method, decided_by, confidence, evidence FROM decisions ORDER BY id DESC LIMIT 1")
    assert (row.method, row.decided_by, row.confidence) == ("symbol_and_part_of_name", "second_look", Decimal("0.85"))
    assert row.evidence["listings"][0] == [{"symbol": "ACM", "name": "Acme", "source_asset_id": "acm-1"}]
    assert candidates(engine) == []


def test_a_pair_is_a_candidate_if_a_third_asset_has_the_symbol(engine: Engine) -> None:
    add_acme_twice(engine)
    resolve(engine, "coingecko", quote("third", "acm", "Road Runner"))
    rematch_assets(engine, {})
    assert assets(engine) == {"acme": ["acm-1"], "acme-rockets": ["second"], "road-runner": ["third"]}
    assert candidates(engine) == [("acme", "acme-rockets", "symbol_and_part_of_name", None)]


def test_an_asset_listed_by_both_sources_counts_as_a_third_asset(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("road", "ACM", "Road Runner"), quote("acm-1", "ACM", "Acme Rockets"))
    resolve(engine, "coingecko", quote("runner", "acm", "Road Runner"), quote("second", "acm", "Acme Anvils"))
    rematch_assets(engine, {})
    assert assets(engine) == {"road-runner": ["road", "runner"], "acme-rockets": ["acm-1"], "acme-anvils": ["second"]}
    assert candidates(engine) == [("acme-rockets", "acme-anvils", "symbol_and_rare_word", None)]


def test_a_pair_with_two_common_symbols_is_merged_only_if_both_are_unambiguous(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("acm-1", "ACM", "Acme"), quote("acm-1", "ANV", "Acme", "EUR"))
    resolve(engine, "coingecko", quote("second", "acm", "Acme Rockets"), quote("second", "anv", "Acme Rockets", "EUR"))
    resolve(engine, "coingecko", quote("third", "anv", "Road Runner"))
    rematch_assets(engine, {})
    assert assets(engine) == {"acme": ["acm-1"] * 2, "acme-rockets": ["second"] * 2, "road-runner": ["third"]}
    assert candidates(engine) == [("acme", "acme-rockets", "symbol_and_part_of_name", None)]


def test_very_different_prices_prevent_a_merge(engine: Engine) -> None:
    add_acme_twice(engine)
    price(engine, "acm-1", "100")
    price(engine, "second", "111", OBSERVED + timedelta(minutes=59))
    rematch_assets(engine, {})
    assert assets(engine)["acme"] == ["acm-1"]
    assert candidates(engine) == [("acme", "acme-rockets", "symbol_and_part_of_name", Decimal("0.11"))]


def test_prices_observed_more_than_an_hour_apart_are_not_compared(engine: Engine) -> None:
    add_acme_twice(engine)
    price(engine, "acm-1", "100")
    price(engine, "second", "200", OBSERVED + timedelta(minutes=61))
    rematch_assets(engine, {})
    assert assets(engine)["acme"] == ["acm-1", "second"]


def test_a_common_symbol_and_a_similar_price_make_a_candidate_but_no_merge(engine: Engine) -> None:
    add_acme_twice(engine, second="Road Runner")
    rematch_assets(engine, {})
    assert candidates(engine) == []
    price(engine, "acm-1", "100")
    price(engine, "second", "101")
    rematch_assets(engine, {})
    assert assets(engine)["acme"] == ["acm-1"]
    assert candidates(engine) == [("acme", "road-runner", None, Decimal("0.01"))]
    price(engine, "second", "120", OBSERVED + timedelta(minutes=1))
    rematch_assets(engine, {})
    assert candidates(engine) == []


@pytest.mark.parametrize(
    ("first", "second", "is_merged"),
    [
        ("Acme Rockets", "Acme Anvils", True),
        ("Acme USD", "Anvil USD", False),
        ("Acme Rockets", "Wrapped Acme", False),
        ("Acme Rockets", "Acme (Wormhole)", False),
        ("Road Runner", "Acme", False),
        ("ACM", "ACM Rockets", False),
    ],
)
def test_names_must_share_a_distinctive_word_to_be_merged(
    engine: Engine, first: str, second: str, *, is_merged: bool
) -> None:
    add_acme_twice(engine, first, second)
    rematch_assets(engine, {})
    assert (sorted(map(len, assets(engine).values())) == [0, 2]) == is_merged


def test_a_word_in_many_names_is_not_evidence(engine: Engine) -> None:
    add_acme_twice(engine, "Acme Rockets", "Acme Anvils")
    resolve(engine, "csv_history", *(quote(f"{n}", f"X{n}", f"Acme {n}th") for n in range(3)))
    rematch_assets(engine, {})
    assert assets(engine)["acme-rockets"] == ["acm-1"]


def decide_during_rematch(engine: Engine, decide: Callable[[Connection], Any]) -> None:
    """Run a rematch. Make a decision after the rematch compared the assets and before it merges them."""
    with decision_lock(engine) as connection:
        rematch = threading.Thread(target=rematch_assets, args=(engine, {}))
        rematch.start()
        until(lambda: query(engine, "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        decide(connection)
    rematch.join(30)


def test_a_decision_during_the_rematch_takes_precedence(engine: Engine) -> None:
    add_acme_twice(engine)
    [row] = query(engine, "SELECT id, asset FROM listings WHERE source_asset_id = 'acm-1'")
    decide_during_rematch(engine, lambda connection: move(connection, [row.id], row.asset, by_person("pinned")))
    assert assets(engine) == {"acme": ["acm-1"], "acme-rockets": ["second"]}


def test_a_listing_added_during_the_rematch_counts_as_a_third_asset(engine: Engine) -> None:
    add_acme_twice(engine)
    third = quote("third", "acm", "Road Runner")
    listings = {key_of(third): third}
    decide_during_rematch(
        engine,
        lambda connection: write_listings(
            connection, "coingecko", listings, plan_assignments(connection, "coingecko", listings, {})
        ),
    )
    assert assets(engine) == {"acme": ["acm-1"], "acme-rockets": ["second"], "road-runner": ["third"]}


def test_many_merges_are_split_into_transactions(engine: Engine) -> None:
    count = 2 * MERGES_PER_TRANSACTION + 1
    for source, name in (("coinpaprika", "Acme"), ("coingecko", "Acme Rockets")):
        resolve(engine, source, *(quote(f"{n}", f"ACM{n}", f"{name} {n}") for n in range(count)))
    rematch_assets(engine, {})
    rows = query(engine, "SELECT xmin, count(*) FROM decisions WHERE decided_by = 'second_look' GROUP BY 1 ORDER BY 2")
    assert [row.count for row in rows] == [1, MERGES_PER_TRANSACTION, MERGES_PER_TRANSACTION]


def test_each_merge_is_logged_with_the_change_that_undoes_it(engine: Engine) -> None:
    add_acme_twice(engine)
    with capture_logs() as logs:
        rematch_assets(engine, {})
    [event] = [line for line in logs if line["event"] == "assets_merged"]
    undo(engine, uuid.UUID(event["change"]))
    assert assets(engine) == {"acme": ["acm-1"], "acme-rockets": ["second"]}


def test_a_listing_that_is_stored_with_an_unclean_id_is_a_candidate(engine: Engine) -> None:
    resolve(engine, "csv_history", quote("\ufeffACM", "\ufeffANV", "Anvil"))
    resolve(engine, "csv_history", quote("ACM", "ACM", "Acme"), quote("OTHER", "OTH", "Other"))
    price(engine, "ACM", "1")
    price(engine, "\ufeffACM", "2")
    before = assets(engine)
    rematch_assets(engine, {})
    assert assets(engine) == before
    assert sorted(before.values()) == [["ACM"], ["OTHER"], ["\ufeffACM"]]
    [evidence] = query(engine, "SELECT evidence FROM candidates")
    assert evidence[0]["same_id_when_cleaned"]
    assert [listing[0]["source_asset_id"] for listing in evidence[0]["listings"]] == ["\ufeffACM", "ACM"]


def test_a_merge_does_not_make_later_batches_of_its_own_rematch_outdated(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rematch, "MERGES_PER_TRANSACTION", 1)
    add_acme_twice(engine)
    resolve(engine, "coinpaprika", quote("road", "$ACM", "Road"))
    resolve(engine, "coingecko", quote("runner", "$ACM", "Road Runner"))
    rematch_assets(engine, {})
    assert assets(engine) == {"acme": ["acm-1", "second"], "acme-rockets": [], "road": ["road", "runner"]} | {
        "road-runner": []
    }
