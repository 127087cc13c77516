"""Test that decisions after a plan are found by the listings, assets, names and symbols that they concern."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from tasks.identity.later_decisions import LaterDecisions
from tasks.identity.similarity import Spelling
from tests.tasks.assets import pin, query, quote, resolve

pytestmark = pytest.mark.usefixtures("sources")


def test_only_decisions_after_the_plan_are_read_and_own_ones_are_left_out(engine: Engine) -> None:
    resolve(engine, "coingecko", quote("acm", "ACM", "Acme"), quote("anv", "ANV", "Anvil"))
    with engine.connect() as connection:
        later = LaterDecisions(connection)
    pin(engine, "acme", [("coingecko", "acm")])
    with engine.connect() as connection:
        later.read(connection)
    pin(engine, "anvil", [("coingecko", "anv")])
    with engine.connect() as connection:
        later.skip_own(connection)
        later.read(connection)
    [row] = query(engine, "SELECT id, asset FROM listings WHERE symbol = 'ACM'")
    assert (later.listing_ids, later.assets, later.keys) == ({row.id}, {row.asset}, {"acm"})
    assert (later.names, later.slugs) == ({("coingecko", "acm")}, {"acme"})
    assert later.values == {"acm": set(Spelling("ACM", "Acme", "acm").matching_values)}
