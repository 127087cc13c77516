"""Test that filters select listings, and that the error for an unknown asset suggests the nearest slug."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from app.assets.filters import asset_ids, listing_ids, nearest_asset
from app.web.problems import Problem
from tests.app.rows import Rows


@pytest.fixture
def listings(rows: Rows) -> dict[str, int]:
    """Insert listings of two assets in two sources. Return their ids by name."""
    return {
        "bitcoin": rows.listing("bitcoin", "coingecko"),
        "bitcoin in euros": rows.listing("bitcoin", "coingecko", quote_currency="EUR"),
        "bitcoin of coinpaprika": rows.listing("bitcoin", "coinpaprika"),
        "ether": rows.listing("ether", "coingecko", symbol="ETH"),
    }


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"source": ["coinpaprika"]}, {"bitcoin of coinpaprika"}),
        ({"asset": ["ether", "bitcoin"], "source": ["coingecko"]}, {"bitcoin", "bitcoin in euros", "ether"}),
        ({"symbol": ["eth"]}, {"ether"}),
        ({"quote_currency": ["eur"]}, {"bitcoin in euros"}),
        ({"symbol": ["BTC"], "quote_currency": ["GBP"]}, set()),
    ],
)
def test_a_listing_is_selected_if_it_meets_every_filter(
    engine: Engine, listings: dict[str, int], arguments: dict[str, Any], names: set[str]
) -> None:
    with engine.connect() as connection:
        ids = listing_ids(connection, arguments)
    assert ids is not None
    assert set(ids) == {listings[name] for name in names}


def test_without_filters_all_listings_are_selected_without_a_query(engine: Engine) -> None:
    with engine.connect() as connection:
        assert listing_ids(connection, {"limit": 10}) is None
        assert not connection.in_transaction()


def test_an_unknown_asset_is_a_problem_that_suggests_the_nearest(engine: Engine, listings: dict[str, int]) -> None:
    with engine.connect() as connection:
        assert len(asset_ids(connection, ["bitcoin", "ether"])) == 2
        with pytest.raises(Problem, match="there is no asset 'bitcon'; did you mean 'bitcoin'"):
            listing_ids(connection, {"asset": ["bitcoin", "bitcon"]})


def test_only_a_similar_slug_with_the_same_start_is_suggested(engine: Engine, listings: dict[str, int]) -> None:
    with engine.connect() as connection:
        assert nearest_asset(connection, "bitcon") == "; did you mean 'bitcoin'?"
        assert nearest_asset(connection, "litecoin") == ""
        assert nearest_asset(connection, "%itcoin") == ""
