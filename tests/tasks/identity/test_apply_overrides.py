"""What the file of overrides settles: before any rule, against what rules decided, and until a line is taken out."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from tasks.identity.decisions import DecisionRefused, Override, Verdict
from tasks.identity.rematch import rematch_assets
from tests.tasks.assets import UNISWAP, UNIVERSE, ask, assets, merge, pin, quote, resolve, state, two_of_a_symbol, undo


@pytest.fixture(autouse=True)
def two(engine: Engine) -> None:
    two_of_a_symbol(engine)


def acme(engine: Engine) -> None:
    """Two assets that a second look takes for one."""
    resolve(engine, "coinpaprika", quote("acm-1", "ACM", "Acme"))
    resolve(engine, "coingecko", quote("second", "acm", "Acme Rockets"))


def test_an_override_decides_before_any_rule(engine: Engine) -> None:
    overrides = {
        ("csv_history", "UNI"): Override("universe", "it is so"),
        ("csv_history", "UNI2"): Override("something-new", ""),
    }
    met = quote("UNI", "UNI", "Uniswap"), quote("UNI2", "UNI", "Uniswap", "EUR")
    resolve(engine, "csv_history", *met, overrides=overrides)
    assert assets(engine)["universe"] == ["universe", "UNI"]
    assert assets(engine)["something-new"] == ["UNI2"]
    [row] = ask(engine, "SELECT method, decided_by, reason FROM decisions WHERE method = 'override' AND reason <> ''")
    assert tuple(row) == ("override", "overrides", "it is so")


def test_overrides_are_followed_both_ways(engine: Engine) -> None:
    before = state(engine)
    overrides = {UNISWAP: Override("universe", "it is so")}
    rematch_assets(engine, overrides)
    rematch_assets(engine, overrides)
    assert assets(engine)["universe"] == ["uni-uniswap", "uni-uniswap", "universe"]
    assert len(ask(engine, "SELECT 1 FROM decisions WHERE method = 'override'")) == 2
    with pytest.raises(DecisionRefused, match="The file that OVERRIDES names settles 'uni-uniswap' of coinpaprika"):
        pin(engine, "uniswap", [UNISWAP], Verdict("pinned", "test"))
    rematch_assets(engine, {})
    assert state(engine) == before


def test_an_override_takes_apart_what_a_rule_made_one(engine: Engine) -> None:
    acme(engine)
    rematch_assets(engine, {})
    assert assets(engine)["acme"] == ["acm-1", "second"]
    overrides = {("coingecko", "second"): Override("acme-rockets", "they are two")}
    rematch_assets(engine, overrides)
    apart = state(engine)
    assert assets(engine) | {"uniswap": [], "universe": []} == {
        "acme": ["acm-1"],
        "acme-rockets": ["second"],
        "uniswap": [],
        "universe": [],
    }
    rematch_assets(engine, overrides)
    assert state(engine) == apart


def test_an_override_is_of_the_asset_with_its_slug_where_that_was_merged_before_the_listing_is_met(
    engine: Engine,
) -> None:
    acme(engine)
    rematch_assets(engine, {})
    resolve(
        engine,
        "csv_history",
        quote("ACM", "ACM", "Acme"),
        overrides={("csv_history", "ACM"): Override("acme-rockets", "it is so")},
    )
    assert assets(engine)["acme-rockets"] == ["ACM"]
    assert assets(engine)["acme"] == ["acm-1", "second"]
    assert ask(engine, "SELECT 1 FROM assets WHERE merged_into IS NOT NULL") == []


def test_two_listings_can_change_places(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("m", "FOO", "Foo"))
    resolve(engine, "coingecko", quote("l", "BAR", "Bar"))
    rematch_assets(engine, {("coinpaprika", "m"): Override("bar", ""), ("coingecko", "l"): Override("foo", "")})
    assert [assets(engine)[slug] for slug in ("foo", "bar")] == [["l"], ["m"]]
    assert ask(engine, "SELECT 1 FROM assets WHERE merged_into IS NOT NULL") == []


def test_a_currency_that_was_met_under_an_override_goes_with_its_listing(engine: Engine) -> None:
    overrides = {UNIVERSE: Override("uniswap", "it is so")}
    rematch_assets(engine, overrides)
    resolve(engine, "coingecko", quote(UNIVERSE[1], "uni", "Universe", "EUR"), overrides=overrides)
    assert assets(engine)["uniswap"][-2:] == ["universe", "universe"]
    rematch_assets(engine, {})
    assert assets(engine)["universe"] == ["universe", "universe"]
    resolve(engine, "csv_history", quote("UNI", "UNI", "Uni"), overrides={("csv_history", "UNI"): Override("uni", "")})
    rematch_assets(engine, {})
    assert assets(engine)["uni"] == ["UNI"]


def test_what_an_override_had_taken_goes_to_where_its_asset_was_merged_meanwhile(engine: Engine) -> None:
    rematch_assets(engine, {UNISWAP: Override("elsewhere", "it is so")})
    merge(engine, "uniswap", "universe", Verdict("merged", "test"))
    rematch_assets(engine, {})
    assert assets(engine) == {
        "elsewhere": [],
        "uniswap": [],
        "universe": ["uni-uniswap", "uni-uniswap", "uniswap", "universe"],
    }


def test_an_asset_that_overrides_had_emptied_has_its_listings_again(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("m", "FOO", "Foo"))
    resolve(engine, "coingecko", quote("l", "BAR", "Bar"))
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


def test_what_a_person_puts_back_to_where_an_override_had_it_stays_there(engine: Engine) -> None:
    resolve(engine, "csv_history", quote("UNI", "UNI", "Universe"))
    rematch_assets(engine, {UNIVERSE: Override("uniswap", "it is so")})
    rematch_assets(engine, {})
    [row] = ask(engine, "SELECT change FROM decisions WHERE decided_by = 'overrides' ORDER BY id DESC LIMIT 1")
    undo(engine, row.change)
    rematch_assets(engine, {})
    assert assets(engine)["uniswap"][-1] == "universe"


def test_a_process_that_was_given_no_file_takes_no_override_back(engine: Engine) -> None:
    with capture_logs() as logs:
        rematch_assets(engine, None)
        assert logs == []
        rematch_assets(engine, {UNISWAP: Override("universe", "it is so")})
        before = state(engine)
        rematch_assets(engine, None)
    assert logs == [{"event": "overrides_ignored", "listings": 2, "log_level": "warning"}]
    assert state(engine) == before
