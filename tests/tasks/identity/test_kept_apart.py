"""Test that separated assets are not candidates, and that other decisions do not hide later duplicates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from tasks.identity.decisions import Override
from tasks.identity.kept_apart import ApartDecisions, apart_decisions
from tasks.identity.rematch import rematch_assets
from tests.tasks.assets import (
    add_acme_twice,
    assets,
    merge,
    pin,
    query,
    quote,
    resolve,
    split,
    undo,
)
from tests.tasks.identity.candidates import candidates

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("sources")


def test_a_merge_that_a_person_undid_is_not_made_again(engine: Engine) -> None:
    add_acme_twice(engine)
    rematch_assets(engine, {})
    [row] = query(engine, "SELECT change FROM decisions WHERE decided_by = 'second_look'")
    undo(engine, row.change)
    rematch_assets(engine, {})
    assert assets(engine) == {"acme": ["acm-1"], "acme-rockets": ["second"]}
    assert candidates(engine) == []


def test_a_merged_asset_can_be_a_candidate_for_a_later_asset(engine: Engine) -> None:
    add_acme_twice(engine, second="Road Runner")
    merge(engine, "road-runner", "acme")
    resolve(engine, "csv_history", quote("ACM", "ACM", "Acme Anvils"))
    rematch_assets(engine, {})
    assert assets(engine) == {"acme": ["acm-1", "second"], "road-runner": [], "acme-anvils": ["ACM"]}
    assert candidates(engine) == [("acme", "acme-anvils", "symbol_and_part_of_name", None)]


def test_assets_that_a_person_separated_are_not_candidates(engine: Engine) -> None:
    add_acme_twice(engine, second="Acme")
    resolve(engine, "csv_history", quote("third", "acm", "Road Runner"))
    split(engine, "acme", [("coingecko", "second")])
    rematch_assets(engine, {})
    assert candidates(engine) == []
    merge(engine, "acme", "road-runner")
    rematch_assets(engine, {})
    assert assets(engine) == {"acme": [], "acme-acm": ["second"], "road-runner": ["acm-1", "third"]}
    assert candidates(engine) == []


def test_a_pin_separates_an_asset_from_existing_assets_but_not_from_later_assets(engine: Engine) -> None:
    add_acme_twice(engine)
    pinning = pin(engine, "acme", [("coinpaprika", "acm-1")])
    rematch_assets(engine, {})
    assert candidates(engine) == []
    resolve(engine, "csv_history", quote("ACM", "ACM", "Acme Anvils"))
    rematch_assets(engine, {})
    assert ("acme", "acme-anvils", "symbol_and_part_of_name", None) in candidates(engine)
    assert not [pair for pair in candidates(engine) if set(pair) > {"acme", "acme-rockets"}]
    undo(engine, pinning)
    rematch_assets(engine, {})
    assert ("acme", "acme-rockets", "symbol_and_part_of_name", None) in candidates(engine)


def test_an_override_separates_assets_only_while_its_line_is_in_the_file(engine: Engine) -> None:
    add_acme_twice(engine, second="Acme")
    overrides = {("coingecko", "second"): Override("rockets", "")}
    rematch_assets(engine, overrides)
    ids = {row.slug: row.id for row in query(engine, "SELECT slug, id FROM assets")}
    with engine.connect() as connection:
        assert apart_decisions(connection).separated == {(ids["acme"], ids["rockets"])}
    rematch_assets(engine, {})
    with engine.connect() as connection:
        assert apart_decisions(connection).separated == set()


def test_a_separation_ends_when_its_listing_moves_to_another_asset(engine: Engine) -> None:
    for source, id_ in (("coinpaprika", "first"), ("coingecko", "second"), ("csv_history", "third")):
        resolve(engine, source, quote(id_, "ACM", "Acme"))
    resolve(engine, "coingecko", quote("road", "RUN", "Road Runner"))
    split(engine, "acme", [("coingecko", "second"), ("csv_history", "third")])
    pin(engine, "road-runner", [("csv_history", "third")])
    ids = {row.slug: row.id for row in query(engine, "SELECT slug, id FROM assets")}
    acme, road_runner, split_off = ids["acme"], ids["road-runner"], ids["acme-acm"]
    with engine.connect() as connection:
        assert apart_decisions(connection).separated == {(acme, split_off), (road_runner, split_off)}


def test_a_separation_applies_to_both_orders_of_a_pair() -> None:
    decisions = ApartDecisions(separated={(1, 2)})
    assert decisions.keep_apart(1, 2, {})
    assert decisions.keep_apart(2, 1, {})
    assert not decisions.keep_apart(1, 3, {})


def test_a_pin_applies_only_to_assets_created_before_it() -> None:
    decisions = ApartDecisions(pinned_at={1: NOON})
    created_at = {1: NOON, 2: NOON - timedelta(hours=1), 3: NOON + timedelta(hours=1)}
    assert decisions.keep_apart(1, 2, created_at)
    assert decisions.keep_apart(2, 1, created_at)
    assert not decisions.keep_apart(1, 3, created_at)
    assert not decisions.keep_apart(2, 3, created_at)
