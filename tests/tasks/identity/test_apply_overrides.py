"""Test that overrides take precedence over rules until their lines are removed."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from tasks.identity import apply_overrides
from tasks.identity.decisions import DecisionRefused, Override
from tasks.identity.rematch import rematch_assets
from tests.tasks.assets import (
    UNISWAP,
    UNIVERSE,
    add_acme_twice,
    assets,
    merge,
    pin,
    query,
    quote,
    resolve,
    state,
    undo,
)

pytestmark = pytest.mark.usefixtures("two_assets")


def add_foo_and_bar(engine: Engine) -> None:
    """Add an asset `foo` with the listing m, and an asset `bar` with the listing l."""
    resolve(engine, "coinpaprika", quote("m", "FOO", "Foo"))
    resolve(engine, "coingecko", quote("l", "BAR", "Bar"))


def test_an_override_takes_precedence_over_rules(engine: Engine) -> None:
    overrides = {
        ("csv_history", "UNI"): Override("universe", "checked"),
        ("csv_history", "UNI2"): Override("something-new", ""),
    }
    quotes = quote("UNI", "UNI", "Uniswap"), quote("UNI2", "UNI", "Uniswap", "EUR")
    resolve(engine, "csv_history", *quotes, overrides=overrides)
    assert assets(engine)["universe"] == ["universe", "UNI"]
    assert assets(engine)["something-new"] == ["UNI2"]
    [row] = query(engine, "SELECT method, decided_by, reason FROM decisions WHERE method = 'override' AND reason <> ''")
    assert tuple(row) == ("override", "overrides", "checked")


def test_a_new_line_moves_its_listing_and_a_removed_line_restores_it(engine: Engine) -> None:
    before = state(engine)
    overrides = {UNISWAP: Override("universe", "checked")}
    rematch_assets(engine, overrides)
    rematch_assets(engine, overrides)
    assert assets(engine)["universe"] == ["uni-uniswap", "uni-uniswap", "universe"]
    assert len(query(engine, "SELECT 1 FROM decisions WHERE method = 'override'")) == 2
    with pytest.raises(
        DecisionRefused, match=r"The overrides file \(OVERRIDES\) decides the listing 'uni-uniswap' of coinpaprika"
    ):
        pin(engine, "uniswap", [UNISWAP])
    rematch_assets(engine, {})
    assert state(engine) == before


def test_an_override_separates_assets_that_a_rule_merged(engine: Engine) -> None:
    add_acme_twice(engine)
    rematch_assets(engine, {})
    assert assets(engine)["acme"] == ["acm-1", "second"]
    overrides = {("coingecko", "second"): Override("acme-rockets", "they are two")}
    rematch_assets(engine, overrides)
    separated = state(engine)
    assert assets(engine) | {"uniswap": [], "universe": []} == {
        "acme": ["acm-1"],
        "acme-rockets": ["second"],
        "uniswap": [],
        "universe": [],
    }
    rematch_assets(engine, overrides)
    assert state(engine) == separated


def test_an_override_uses_the_asset_with_its_slug_even_if_it_was_merged(engine: Engine) -> None:
    add_acme_twice(engine)
    rematch_assets(engine, {})
    resolve(
        engine,
        "csv_history",
        quote("ACM", "ACM", "Acme"),
        overrides={("csv_history", "ACM"): Override("acme-rockets", "checked")},
    )
    assert assets(engine)["acme-rockets"] == ["ACM"]
    assert assets(engine)["acme"] == ["acm-1", "second"]
    assert query(engine, "SELECT 1 FROM assets WHERE merged_into IS NOT NULL") == []


def test_overrides_can_swap_two_listings(engine: Engine) -> None:
    add_foo_and_bar(engine)
    rematch_assets(engine, {("coinpaprika", "m"): Override("bar", ""), ("coingecko", "l"): Override("foo", "")})
    assert [assets(engine)[slug] for slug in ("foo", "bar")] == [["l"], ["m"]]
    assert query(engine, "SELECT 1 FROM assets WHERE merged_into IS NOT NULL") == []


def test_a_currency_added_during_an_override_is_restored_with_its_listing(engine: Engine) -> None:
    overrides = {UNIVERSE: Override("uniswap", "checked")}
    rematch_assets(engine, overrides)
    resolve(engine, "coingecko", quote(UNIVERSE[1], "uni", "Universe", "EUR"), overrides=overrides)
    assert assets(engine)["uniswap"][-2:] == ["universe", "universe"]
    rematch_assets(engine, {})
    assert assets(engine)["universe"] == ["universe", "universe"]
    resolve(engine, "csv_history", quote("UNI", "UNI", "Uni"), overrides={("csv_history", "UNI"): Override("uni", "")})
    rematch_assets(engine, {})
    assert assets(engine)["uni"] == ["UNI"]


def test_a_restored_listing_follows_its_asset_through_a_merge(engine: Engine) -> None:
    rematch_assets(engine, {UNISWAP: Override("elsewhere", "checked")})
    merge(engine, "uniswap", "universe")
    rematch_assets(engine, {})
    assert assets(engine) == {
        "elsewhere": [],
        "uniswap": [],
        "universe": ["uni-uniswap", "uni-uniswap", "uniswap", "universe"],
    }


def test_removing_overrides_restores_the_listings_of_an_emptied_asset(engine: Engine) -> None:
    add_foo_and_bar(engine)
    before = state(engine)
    moved, changed = ("coinpaprika", "m"), ("coingecko", "l")
    swap = {moved: Override("bar", ""), changed: Override("foo", "")}
    rematch_assets(engine, swap)
    rematch_assets(engine, {})
    assert state(engine) == before
    rematch_assets(engine, swap)
    rematch_assets(engine, {changed: swap[changed]})
    rematch_assets(engine, {})
    assert state(engine) == before


def test_a_listing_that_a_person_moved_to_an_earlier_override_is_not_restored(engine: Engine) -> None:
    resolve(engine, "csv_history", quote("UNI", "UNI", "Universe"))
    rematch_assets(engine, {UNIVERSE: Override("uniswap", "checked")})
    rematch_assets(engine, {})
    [row] = query(engine, "SELECT change FROM decisions WHERE decided_by = 'overrides' ORDER BY id DESC LIMIT 1")
    undo(engine, row.change)
    rematch_assets(engine, {})
    assert assets(engine)["uniswap"][-1] == "universe"


def test_an_unset_overrides_file_restores_nothing_and_is_logged(engine: Engine) -> None:
    with capture_logs() as logs:
        rematch_assets(engine, None)
        assert logs == []
        rematch_assets(engine, {UNISWAP: Override("universe", "checked")})
        before = state(engine)
        rematch_assets(engine, None)
    assert logs == [{"event": "overrides_ignored", "listings": 2, "log_level": "warning"}]
    assert state(engine) == before


def test_a_long_file_is_applied_and_removed_in_short_transactions(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply_overrides, "MOVES_PER_TRANSACTION", 1)
    add_foo_and_bar(engine)
    before = state(engine)
    swap = {("coinpaprika", "m"): Override("bar", ""), ("coingecko", "l"): Override("foo", "")}
    for overrides in (swap, {}):
        steps = 0
        for _ in apply_overrides.override_steps(engine, overrides):
            steps += 1
            assert query(engine, "SELECT FROM pg_locks WHERE locktype = 'advisory'") == []
        assert steps == 2
    assert state(engine) == before
